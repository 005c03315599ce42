"""Weights of a plugged term: schedules and functions of the step, ratios of gradients, their state."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from peft import get_peft_model
from plug_cases import Batch, batches, build, make_batch, with_lora
from tiny import tiny_bert
from torch import Tensor, nn

import pets
from bridges import BadInput, RunningCost
from pets.plug.schedule import Schedule

pytestmark = pytest.mark.slow

WARM = [0.0, 0.25, 0.5, 0.75]
SERIES: dict[Any, list[float]] = {
    0.5: [0.5] * 10,
    "constant": [1.0] * 10,
    "warmup:4": [*WARM, *[1.0] * 6],
    "linear:8": [1 - k / 8 for k in range(8)] + [0.0, 0.0],
    "cosine:8": [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)] + [0.0, 0.0],
    "warmup:4+linear:8": [*WARM, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0],
    "warmup:4+cosine:10": [*WARM, *((1 + math.cos(math.pi * k / 6)) / 2 for k in range(6))],
}


def train(model: nn.Module, count: int, accumulate: int = 1, lr: float = 0.05) -> Any:
    """Plain gradient descent; after every step its number."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    given = itertools.cycle(batches())
    for step in range(count):
        for _ in range(accumulate):
            model(**next(given)).loss.backward()
        yield step  # before the optimiser's step: the weight is still this step's
        optimizer.step()
        optimizer.zero_grad()


# Of the step


@pytest.mark.parametrize("weight", SERIES)
def test_a_schedule_at_every_step(weight: Any) -> None:
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, weight) as handle:
        found = [handle.last["weight/brownian"] for _ in train(setup.model, 10, accumulate=2)]
    assert found == pytest.approx(SERIES[weight], abs=1e-12)


@pytest.mark.parametrize("text", [name for name in SERIES if isinstance(name, str)])
def test_a_schedule_multiplies_every_weight_of_a_list(text: str) -> None:
    setup = build("bert-lora")
    both = [(setup.cost, 0.5), ("label-smoothing", lambda step: 0.01 * step)]
    with pets.regularize(setup.model, both, schedule=text) as handle:
        found = [dict(handle.weights) for _ in train(setup.model, 10)]
    assert str(Schedule.parse(text)) == text
    for step, share in enumerate(SERIES[text]):
        assert found[step]["brownian"] == pytest.approx(0.5 * share, abs=1e-12)
        assert found[step]["label-smoothing"] == pytest.approx(0.01 * step * share, abs=1e-12)


def test_the_loss_follows_the_weight() -> None:
    """And a noisy regularizer reads its own at every step."""
    setup, batch = build("bert-lora"), make_batch()
    task, cost = setup.model(**batch).loss.item(), None
    with pets.regularize(setup.model, setup.cost, lambda step: 0.1 * step) as handle:
        for step in range(3):
            output = setup.model(**batch)
            cost = output.running_cost.item()
            assert output.loss.item() == pytest.approx(task + 0.1 * step * cost, rel=1e-6)
            handle.load_state_dict({**handle.state_dict(), "step": step + 1})
    assert cost
    with (
        pets.regularize(setup.model, setup.cost, lambda step: math.nan),
        pytest.raises(BadInput, match=r"weight\(0\) is nan: expected a finite number"),
    ):
        setup.model(**batch)


@pytest.mark.parametrize("weight", ["cosin", "warmup", "warmup:0", "linear+cosine", "warmup:9+linear:9"])
def test_what_is_no_schedule(weight: str) -> None:
    setup = build("bert-lora")
    with pytest.raises(BadInput, match=rf"weight='{weight.replace('+', '.')}': expected .*'warmup:100'"):
        pets.regularize(setup.model, setup.cost, weight)


@pytest.mark.parametrize("change", [{"ratio": 0}, {"ratio": math.inf}, {"steps": 0}, {"every": 0}])
def test_what_is_no_ratio(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"expected a (finite|whole) number above 0"):
        pets.Ratio(**change)


# Ratios


def norm(model: nn.Module, value: Tensor) -> float:
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))


def norms_by_hand(
    kind: str, count: int, lr: float, ratio: float, steps: int
) -> list[tuple[float, float]]:
    """Norms of the task's gradient and the cost's at each step of a run with such weights."""
    setup = build(kind)
    optimizer = torch.optim.SGD([p for p in setup.model.parameters() if p.requires_grad], lr=lr)
    given, found = itertools.cycle(batches()), []
    with pets.regularize(setup.model, setup.cost, into_loss=False):
        for _ in range(count):
            output = setup.model(**next(given))
            found.append((norm(setup.model, output.loss), norm(setup.model, output.running_cost)))
            measured = found[:steps]
            weight = ratio * sum(n[0] for n in measured) / sum(n[1] for n in measured)
            (output.loss + weight * output.running_cost).backward()
            optimizer.step()
            optimizer.zero_grad()
    return found


@pytest.mark.parametrize("kind", ["bert-lora", "llama-lora", "classifier"])
def test_a_ratio_is_that_of_mean_norms_over_the_first_steps(kind: str) -> None:
    ratio, steps = 0.3, 3
    by_hand = norms_by_hand(kind, 5, 0.05, ratio, steps)
    assert len({n[0] for n in by_hand}) == 5
    setup = build(kind)
    with pets.regularize(setup.model, setup.cost, pets.Ratio(ratio, steps=steps)) as handle:
        found = [handle.last["weight/brownian"] for _ in train(setup.model, 5)]
        state = handle.state_dict()["weights"]["brownian"]
    expected = []
    for step in range(5):
        measured = by_hand[: min(step + 1, steps)]
        expected.append(ratio * sum(n[0] for n in measured) / sum(n[1] for n in measured))
    assert found == pytest.approx(expected, rel=1e-4)
    means = [sum(n[i] for n in by_hand[:steps]) / steps for i in (0, 1)]
    assert state["norms"] == pytest.approx(means, rel=1e-4)
    # At the first step alone it is exact.
    assert found[0] * by_hand[0][1] / by_hand[0][0] == pytest.approx(ratio, rel=1e-5)


def test_later_measurements_are_averaged_with_a_decay() -> None:
    setup = build("bert-lora")
    batch = make_batch()
    with pets.regularize(setup.model, setup.cost, into_loss=False):
        output = setup.model(**batch)
        by_hand = [norm(setup.model, output.loss), norm(setup.model, output.running_cost)]
    weight = pets.Ratio(0.2, steps=1, every=3)
    with pets.regularize(setup.model, setup.cost, weight) as handle:
        state = handle.state_dict()
        # As if twenty batches of the first step had told so; of few it would be the mean.
        state["weights"]["brownian"] = {"norms": [1.0, 1.0], "measured": 20}
        seen = []
        for step in range(1, 7):
            handle.load_state_dict({**state, "step": step})
            setup.model(**batch)
            state = handle.state_dict()
            seen.append(state["weights"]["brownian"]["norms"])
    once = [0.9 + 0.1 * n for n in by_hand]
    twice = [0.9 * o + 0.1 * n for o, n in zip(once, by_hand, strict=True)]
    for found, wanted in zip(seen, [[1, 1], [1, 1], once, once, once, twice], strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_mean_over_the_first_steps_counts_every_accumulated_batch_alike() -> None:
    """Without a learning rate each batch has the same norms at every step."""
    setup, alone = build("bert-lora"), []
    with pets.regularize(setup.model, setup.cost, into_loss=False):
        for batch in batches():
            output = setup.model(**batch)
            alone.append((norm(setup.model, output.loss), norm(setup.model, output.running_cost)))
    with pets.regularize(setup.model, setup.cost, pets.Ratio(0.1, steps=6)) as handle:
        for _ in train(setup.model, 6, accumulate=3, lr=0.0):
            pass
        found = handle.state_dict()["weights"]["brownian"]["norms"]
    assert found == pytest.approx([sum(n[i] for n in alone) / 3 for i in (0, 1)], rel=1e-5)


def count_backwards(model: Any) -> list[int]:
    """One entry for each time that a gradient passes the first layer's output."""
    passes: list[int] = []

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        states.register_hook(lambda gradient: passes.append(1))

    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    layers[0].register_forward_hook(watch)
    return passes


def test_a_ratio_takes_no_backward_pass_after_the_first_steps() -> None:
    setup = build("bert-lora")
    counts = []
    with pets.regularize(setup.model, setup.cost, pets.Ratio(0.1, steps=2, every=4)):
        passes = count_backwards(setup.model)
        for _ in train(setup.model, 6):
            counts.append(len(passes))
            passes.clear()
    assert counts == [3, 3, 1, 1, 3, 1]


def checkpointed(model: Any) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": False})


@pytest.mark.parametrize("way", ["checkpointed", "bf16"])
def test_a_ratio_under_checkpointing_and_autocast(way: str) -> None:
    """With checkpointing the same norms; with half the precision about the same."""
    found = []
    for special in (False, True):
        setup = build("bert-lora")
        if special and way == "checkpointed":
            checkpointed(setup.model)
        with (
            pets.regularize(setup.model, setup.cost, pets.Ratio(0.3, steps=2)) as handle,
            torch.autocast("cpu", torch.bfloat16, enabled=special and way == "bf16"),
        ):
            found.append([handle.last["weight/brownian"] for _ in train(setup.model, 3)])
    assert all(weight > 0 for weight in found[1])
    assert found[1] == pytest.approx(found[0], rel=1e-5 if way == "checkpointed" else 0.05)


def test_a_state_goes_on_where_it_was() -> None:
    def weight() -> pets.Ratio:
        return pets.Ratio(0.3, steps=3)

    schedule = "warmup:2+cosine:8"
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, weight(), schedule=schedule) as handle:
        whole = [handle.last["weight/brownian"] for _ in train(setup.model, 6)]
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, weight(), schedule=schedule) as handle:
        first = [handle.last["weight/brownian"] for _ in train(setup.model, 3)]
        state = handle.state_dict()
    with pets.regularize(setup.model, setup.cost, weight(), schedule=schedule) as handle:
        handle.load_state_dict(state)
        assert handle.state_dict() == state
        rest = [handle.last["weight/brownian"] for _ in train(setup.model, 3)]
    assert first + rest == whole  # to the bit
    with (
        pets.regularize(setup.model, "r-drop", weight(), schedule=schedule) as handle,
        pytest.raises(BadInput, match="the state is of brownian, and the model has r-drop"),
    ):
        handle.load_state_dict(state)


def test_a_ratio_of_no_gradient_is_refused() -> None:
    """R-Drop's term is 0, and flat, where nothing is dropped."""
    model = with_lora(tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()

    class Nothing(pets.regularizers.Objective, name="nothing"):  # type: ignore[attr-defined, misc]
        """A term without a gradient, or with next to none."""

        share = 0.0

        def term(self, seen: Any) -> Tensor:
            return self.share * seen.loss

    for share, length in ((0.0, "0"), (1e-27, r"[\d.]+e-2\d")):
        Nothing.share = share
        with (
            pets.regularize(model, "nothing", weight=pets.Ratio(0.1, steps=1)),
            pytest.raises(
                BadInput,
                match=rf"'nothing': the gradients .* and of the term are [\d.e-]+ and {length} long",
            ),
        ):
            model(**make_batch())


@pytest.mark.parametrize("weight", ["auto", pets.Ratio(0.1, steps=1)])
def test_a_ratio_under_reentrant_checkpoints_is_refused(weight: Any) -> None:
    """Their parameters are in no graph until the backward pass; a number needs none."""
    setup = build("bert-lora")
    kind = {"use_reentrant": True}
    setup.model.enable_input_require_grads()
    setup.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
    setup.model.train()
    with (
        pets.regularize(setup.model, setup.cost, weight),
        pytest.raises(BadInput, match=r"no ratio can be measured: reentrant .*'use_reentrant': False"),
    ):
        setup.model(**make_batch())
    gradients = []
    for given in (0.0, 50.0):
        with pets.regularize(setup.model, setup.cost, given):
            setup.model.zero_grad()
            setup.model(**make_batch()).loss.backward()
        gradients.append([p.grad.clone() for p in setup.model.parameters() if p.grad is not None])
    assert any(not torch.allclose(a, b) for a, b in zip(*gradients, strict=True)), "it has an effect"


def test_a_weight_is_set_to_what_it_may_begin_as() -> None:
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, 0.5) as handle:
        handle.weight = "auto"
        setup.model(**make_batch()).loss.backward()
        assert handle.weight == handle.weights["brownian"] > 0
        handle.set_weight("brownian", "auto")
        for given in ("cosine", "warmup:5", "autos"):
            with pytest.raises(
                BadInput, match=r"or a function of the step; a schedule is given with pets"
            ):
                handle.weight = given


def test_each_term_of_a_list_has_a_ratio_of_its_own() -> None:
    model = get_peft_model(tiny_bert(), pets.get("lora", init_lora_weights=False)).train()
    cost = RunningCost.for_model(model)
    given: list[Any] = [(cost, pets.Ratio(0.3, steps=1)), ("label-smoothing", pets.Ratio(0.05, steps=1))]
    batch: Batch = make_batch()
    with pets.regularize(model, given) as handle:
        torch.manual_seed(3)
        loss = norm(model, model(**batch).loss)
        weights, last = handle.weights, handle.last
    for name, ratio in (("brownian", 0.3), ("label-smoothing", 0.05)):
        with pets.regularize(model, [(cost, 0.0), ("label-smoothing", 0.0)]) as handle:
            handle.set_weight(name, 0.5)
            torch.manual_seed(3)
            together = model(**batch).loss
        torch.manual_seed(3)
        task = model(**batch).loss
        trained = [p for p in model.parameters() if p.requires_grad]
        pairs = zip(
            torch.autograd.grad(together, trained), torch.autograd.grad(task, trained), strict=True
        )
        term = math.sqrt(sum(float((a - b).double().square().sum()) for a, b in pairs))
        torch.manual_seed(3)
        whole = norm(model, model(**batch).loss)
        assert weights[name] * term / 0.5 / whole == pytest.approx(ratio, rel=1e-3)
    assert loss > 0
    assert last["weight/brownian"] == weights["brownian"]
