"""Several regularizers in one model, and those that run it twice, against loops written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from plug_cases import Batch, assert_same, make_batch
from tiny import tiny_bert, tiny_model
from torch import Tensor, nn

import pets
from bridges import BadInput, RunningCost
from pets import regularizers
from pets.regularizers.noise import noisy_words

pytestmark = pytest.mark.slow

KINDS = ("causal", "masked", "classifier", "t5")
P = 0.3  # of dropout


def build(kind: str, dropout: float = P) -> nn.Module:
    """A model with a LoRA, in train mode, with dropout where its kind has any."""
    torch.manual_seed(0)
    of_bert = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    plm: Any = {
        "causal": lambda: tiny_model(
            "gpt2", resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout
        ),
        "masked": lambda: tiny_bert(**of_bert),
        "classifier": lambda: tiny_model(
            "bert", head="ForSequenceClassification", num_labels=3, **of_bert
        ),
        "t5": lambda: tiny_model("t5", dropout_rate=dropout),
        "llama": lambda: tiny_model("llama", attention_dropout=dropout),
    }[kind]()
    config = pets.get("lora", model=plm, init_lora_weights=False, lora_dropout=0.0)
    return get_peft_model(plm, config).train()


def inputs(kind: str) -> Batch:
    batch = make_batch()
    return batch | {"labels": torch.tensor([0, 2, 1, 1])} if kind == "classifier" else batch


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """By a backward pass, as in training."""
    model.zero_grad()
    loss.backward()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named.items()}


# Two forwards, by hand


def scores(kind: str, output: Any, batch: Batch) -> Tensor:
    logits, labels = output.logits, batch["labels"]
    if kind in ("causal", "llama"):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return logits[labels >= 0].log_softmax(-1)


def divergence(one: Tensor, two: Tensor) -> Tensor:
    """Both directions, mean over targets."""
    kl = nn.functional.kl_div
    both = [kl(a, b, reduction="batchmean", log_target=True) for a, b in ((one, two), (two, one))]
    return both[0] + both[1]


def r_drop(kind: str, model: nn.Module, batch: Batch, weight: float) -> Tensor:
    one = model(**batch)
    two = model(**batch)
    kl = divergence(scores(kind, one, batch), scores(kind, two, batch))
    return (one.loss + two.loss) / 2 + weight / 2 * kl  # type: ignore[no-any-return]


def r3f(kind: str, model: Any, batch: Batch, weight: float) -> Tensor:
    words = model.get_base_model().get_input_embeddings()
    sigma = words.weight.std().item()
    one = model(**batch)
    with noisy_words(model, lambda z: torch.empty_like(z).uniform_(-sigma, sigma)):
        two = model(**batch)
    kl = divergence(scores(kind, one, batch), scores(kind, two, batch))
    return one.loss + weight * kl  # type: ignore[no-any-return]


BY_HAND: dict[str, Callable[[str, nn.Module, Batch, float], Tensor]] = {"r-drop": r_drop, "r3f": r3f}


def takes(name: str, kind: str) -> bool:
    """T5's encoder and decoder look words up twice, where R3F's noise has no place."""
    return not (name == "r3f" and kind == "t5")


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_forward_is_that_of_a_loop_by_hand(name: str, kind: str) -> None:
    """Loss and gradients, from the same seed."""
    if not takes(name, kind):
        pytest.skip("refused")
    batch = inputs(kind)
    model = build(kind)
    torch.manual_seed(5)
    expected = BY_HAND[name](kind, model, batch, 0.7)
    wanted = gradients(model, expected)
    with pets.regularize(model, name, weight=0.7):
        torch.manual_seed(5)
        found = model(**batch).loss
        got = gradients(model, found)
    torch.manual_seed(5)
    without = BY_HAND[name](kind, model, batch, 0.0)
    assert abs(without - expected) > 5e-5  # no rounding error
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert_same(got, wanted)


@pytest.mark.parametrize("name", BY_HAND)
def test_as_many_forwards_as_by_hand_and_one_backward(name: str) -> None:
    model, batch = build("masked"), inputs("masked")
    layer = model.get_base_model().bert.encoder.layer[0]  # type: ignore[operator, union-attr]
    counts = {"forward": 0, "backward": 0}
    layer.register_forward_hook(lambda *_: counts.update(forward=counts["forward"] + 1))
    layer.register_full_backward_hook(lambda *_: counts.update(backward=counts["backward"] + 1))
    with pets.regularize(model, name, weight=0.7):
        counts["forward"] = 0  # the look at the model is over
        model(**batch).loss.backward()
    assert counts == {"forward": 2, "backward": 2}  # each of the two forwards is gone back once


@pytest.mark.parametrize(
    "what", ["r-drop:weight=0.7", "r3f:weight=0.7", "dropout:weight=0.2", "neftune:weight=5"]
)
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_checkpointing_changes_no_gradient(what: str, kind: str) -> None:
    found = []
    for checkpointed in (False, True):
        model, batch = build(kind), inputs(kind)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        with pets.regularize(model, [(RunningCost.for_model(model), 0.5), what]):
            torch.manual_seed(5)
            found.append(gradients(model, model(**batch).loss))
    assert all(gradient.norm() > 0 for gradient in found[0].values())
    assert_same(found[1], found[0])


@pytest.mark.parametrize("name", BY_HAND)
def test_accumulated_parts_divided_by_all_targets_make_the_whole_batch(name: str) -> None:
    """Every part is of one text, with noise of a seed of its own."""
    model, batch = build("llama"), inputs("causal")
    batch["labels"][0, 1:6] = batch["input_ids"][0, 1:6]  # parts of different sizes
    items = (batch["labels"][:, 1:] >= 0).sum()
    extra = "label-smoothing:weight=0.3"
    parts = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)]
    found: dict[str, Tensor] = {}
    by_hand: dict[str, Tensor] = {}
    cost = RunningCost.for_model(model)
    what = [(cost, 0.5), extra, f"{name}:weight=0.7"]
    with pets.regularize(model, what) as handle:
        for number, piece in enumerate(parts):
            torch.manual_seed(number)
            for key, value in gradients(model, model(**piece, num_items_in_batch=items).loss).items():
                found[key] = found.get(key, 0) + value
        last = handle.last
    total = 0.0
    for number, piece in enumerate(parts):
        share = (piece["labels"][:, 1:] >= 0).sum() / items
        torch.manual_seed(number)
        with pets.regularize(model, what):
            loss = share * model(**piece).loss  # a mean over its own targets
        total += float(loss.detach())
        for key, value in gradients(model, loss).items():
            by_hand[key] = by_hand.get(key, 0) + value
    assert_same(found, by_hand)
    weighed = sum(last[f"weight/{n}"] * last[n] for n in handle.names)
    assert last["task"] + weighed == pytest.approx(total, rel=1e-6)


# Several at once


def everything(model: nn.Module, weight: float | None) -> list[Any]:
    own = {} if weight is None else {"weight": weight}
    names = regularizers.available()
    made = [
        regularizers.get(n, weight=own.get("weight", regularizers.strengths(n, 1)[0])) for n in names
    ]
    return [RunningCost.for_model(model, "sde"), *made]


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_every_regularizer_at_once_trains_and_adds_up(kind: str) -> None:
    model, batch = build(kind), inputs(kind)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    with pets.regularize(model, everything(model, None)) as handle:
        assert handle.names == ["sde", *regularizers.available()]
        for _ in range(3):
            loss = model(**batch).loss
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            last = handle.last
            weighed = sum(last[f"weight/{name}"] * last.get(name, 0.0) for name in handle.names)
            assert losses[-1] == pytest.approx(last["task"] + weighed, rel=1e-6)
        assert {n for n in handle.names if n not in last} == {"dropout", "neftune", "weight-decay"}
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_weight_zero_of_everything_changes_nothing(kind: str) -> None:
    """Loss, gradients and the random numbers that are left, to the bit; with dropout of its own."""
    batch = inputs(kind)
    found = []
    for plugged in (False, True):
        model = build(kind)
        every = everything(model, 0.0)
        if kind == "classifier":
            every = every[1:]  # no words for a cost
        if plugged:
            pets.regularize(model, every, weight=0.0)
        torch.manual_seed(5)
        output = model(**batch)
        found.append((output.loss.detach(), gradients(model, output.loss), torch.get_rng_state()))
    (loss, wanted, state), (plugged_loss, got, plugged_state) = found
    assert torch.equal(loss, plugged_loss)
    assert torch.equal(state, plugged_state)
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


# What is refused


def two_of_one(model: nn.Module) -> Any:
    cost = RunningCost.for_model(model)
    return pets.regularize(model, [cost, cost])


REFUSED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "an unknown name": (lambda m: pets.regularize(m, "r-drip"), r"cost='r-drip': expected .*r-drop"),
    "a bridge": (lambda m: pets.regularize(m, "brownian"), r"'brownian' is a bridge.*for_model"),
    "two weights": (
        lambda m: pets.regularize(m, [("r-drop:weight=1", 0.5)]),
        r"'r-drop:weight=1' and weight 0.5: give one weight",
    ),
    "a negative weight": (
        lambda m: pets.regularize(m, RunningCost.for_model(m), weight=-1.0),
        r"weight=-1.0: expected a finite number, 0 or more",
    ),
    "a negative weight in a text": (
        lambda m: pets.regularize(m, "r-drop:weight=-1"),
        r"weight=-1: expected the alpha of r-drop",
    ),
    "a probability above 1": (
        lambda m: pets.regularize(m, "dropout:weight=1.5"),
        r"weight=1.5: expected the probability of dropout",
    ),
    "the same object twice": (two_of_one, "the same object is given twice"),
    "no term": (lambda m: pets.regularize(m, []), "nothing to regularize with"),
    "three in a pair": (lambda m: pets.regularize(m, [("r-drop", 1, 2)]), "expected a pair"),
    "a loss of one's own with R-Drop": (
        lambda m: pets.regularize(m, "r-drop", into_loss=False),
        r"into_loss=False: r-drop does more than adding a term",
    ),
    "a ratio of no term": (
        lambda m: pets.regularize(m, "neftune", weight="auto"),
        "neftune adds no term to the loss",
    ),
    "a schedule twice": (
        lambda m: pets.regularize(m, "r-drop", weight="cosine:9", schedule="linear"),
        "give one schedule",
    ),
    "no schedule": (
        lambda m: pets.regularize(m, "r-drop", schedule="cosin"),
        r"schedule 'cosin': expected",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_the_model_free(case: str) -> None:
    refused, message = REFUSED[case]
    model = build("masked")
    with pytest.raises(BadInput, match=message) as error:
        refused(model)
    assert "\n" not in str(error.value)
    with pets.regularize(model, "r-drop"):
        assert model(**inputs("masked")).loss.isfinite()


def test_a_cosine_in_a_plain_loop_has_to_say_over_how_many_steps() -> None:
    model = build("masked")
    with (
        pets.regularize(model, RunningCost.for_model(model), weight="cosine"),
        pytest.raises(BadInput, match=r"'cosine:1000'"),
    ):
        model(**inputs("masked"))


@pytest.mark.parametrize("name", ["neftune", "r3f"])
def test_noise_on_words_that_are_looked_up_twice_is_refused(name: str) -> None:
    model = build("t5")
    with (
        pets.regularize(model, name),
        pytest.raises(BadInput, match="looked up its word embeddings 0 times"),
    ):
        model(**inputs("t5"))
