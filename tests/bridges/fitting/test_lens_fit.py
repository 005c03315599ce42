"""Fitting costs with a lens: in closed form, together, interrupted, with what their bridges learn."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from tiny import TEXTS, WORDS, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor, nn

import bridges
from bridges import BadInput, FitResult, LensSettings, RunningCost, Trajectory
from bridges.fitting import lens_reading
from bridges.fitting.batches import Batch
from bridges.fitting.contrasts import COMMON
from bridges.fitting.lens_fit import LensFit
from bridges.fitting.statistics import Statistics
from bridges.fitting.text import FitText, ReadBatch
from bridges.latent.end_points import centred, contrasts_kept, principal_axes
from bridges.latent.lens import Lens
from bridges.latent.trajectory import normalised
from bridges.model.spec import encoder_of
from bridges.processes.likelihood import columns

SHORT: dict[str, Any] = {"batch_size": 8, "held_out": 12, "max_length": 16}
TOKENIZER = tiny_tokenizer()
KINDS = ("brownian", "ou:theta=2", "posterior", "ou:learn=sigma", "student", "none")


def new_cost(model: nn.Module, bridge: str = "brownian", **options: Any) -> RunningCost:
    return RunningCost.for_model(model, bridge, **{"map": "lens", "latent_dim": 8, **options})


def fit(cost: RunningCost, model: nn.Module, texts: list[str] = TEXTS, **changes: Any) -> FitResult:
    return cost.fit(model, TOKENIZER, texts, progress=False, **{**SHORT, **changes})


def together(costs: list[RunningCost], model: nn.Module, **changes: Any) -> list[FitResult]:
    settings = {"progress": False, **SHORT, **changes}
    return bridges.fit_together(costs, model, TOKENIZER, TEXTS, **settings)


def assert_same(some: list[RunningCost], others: list[RunningCost]) -> None:
    assert [cost.digest() for cost in some] == [cost.digest() for cost in others]
    assert [cost.fit_record for cost in some] == [cost.fit_record for cost in others]


def text_of(cost: RunningCost, model: nn.Module, **changes: Any) -> FitText:
    settings = LensSettings(**{**SHORT, **changes}).for_model(32, head=True)
    return FitText(cost.spec, encoder_of(model), TOKENIZER, TEXTS, settings, context=False)


def read(cost: RunningCost, readings: list[ReadBatch]) -> tuple[Tensor, Tensor]:
    """States [L+1, N, H] in float64 and tokens [N]."""
    pairs = [cost.trajectory(r.hidden_states, r.targets, r.attention_mask) for r in readings]
    return torch.cat([p.states for p, _ in pairs], 1).double(), torch.cat([a for _, a in pairs])


def one_epoch(text: FitText) -> list[ReadBatch]:
    count = -(-len(text.rows) // text.settings.batch_size)
    each = text.batches(0)
    return [text.read(*next(each)) for _ in range(count)]


# The lens


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama, lambda: tiny_model("t5")])
def test_it_is_the_regression_of_all_that_was_read(make: Any) -> None:
    """Every row once; each layer by scikit-learn at the strength that was chosen. 1e-5: in float32."""
    model = make()
    cost = new_cost(model)
    text = text_of(cost, model)
    result = fit(cost, model, targets="words")
    lens = cost.latent_map
    assert isinstance(lens, Lens)
    readings = one_epoch(text)
    assert result.steps == result.best_step == len(readings)
    states, answers = read(cost, readings)
    held_out, unseen = read(cost, list(text.held_out()))
    ends, others = (cost.end_points(a).double() for a in (answers, unseen))
    for k, layer in enumerate(result.layers):
        expected = Ridge(alpha=layer.ridge * len(answers)).fit(normalised(states[k]), ends)
        weight = torch.from_numpy(expected.coef_)
        torch.testing.assert_close(lens.weight[k].double(), weight, rtol=1e-5, atol=1e-5)
        guess = torch.from_numpy(expected.predict(normalised(held_out[k]).numpy()))
        spread = (others - ends.mean(0)).square().sum()
        r2 = 1 - float((guess - others).square().sum() / spread)
        assert layer.r2 == pytest.approx(r2, abs=1e-6)
    torch.testing.assert_close(lens.centre.double(), ends.mean(0).expand(len(states), -1))


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama, lambda: tiny_model("t5")])
def test_it_is_regressed_on_what_the_head_expects(make: Any) -> None:
    """Where every word is as likely before: by the whole model's logits, at the targets' positions."""
    model = make()
    cost = new_cost(model)
    text = text_of(cost, model)
    result = fit(cost, model)
    assert cost.fit_record is not None
    assert cost.fit_record["settings"]["targets"] == "head"

    def logits(readings: list[ReadBatch], batches: list[Batch]) -> Tensor:
        found = []
        for reading, batch in zip(readings, batches, strict=True):
            at = cost.positions(reading.targets, reading.attention_mask)
            with torch.no_grad():
                found.append(model(**batch.inputs(torch.device("cpu"))).logits[at].double())
        return torch.cat(found)

    seen: list[Batch] = []
    original = FitText._read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitText, "_read", lambda self, n, b: (seen.append(b), original(self, n, b))[1])
        readings = one_epoch(text)
        held_out = list(text.held_out())
    prior = logits(held_out, seen[len(readings) :]).softmax(-1).mean(0)
    odds = logits(readings, seen[: len(readings)]).softmax(-1) / prior
    ends = odds / odds.sum(1, keepdim=True) @ cost.end_points.vectors.double()
    states, _ = read(cost, readings)
    lens = cost.latent_map
    assert isinstance(lens, Lens)
    for k, layer in enumerate(result.layers):
        expected = Ridge(alpha=layer.ridge * len(ends)).fit(normalised(states[k]), ends)
        weight = torch.from_numpy(expected.coef_)
        torch.testing.assert_close(lens.weight[k].double(), weight, rtol=1e-3, atol=1e-4)


def test_a_model_without_a_head_has_words_for_targets() -> None:
    model = tiny_bert().bert
    cost = new_cost(model)
    fit(cost, model)
    assert cost.fit_record is not None
    assert cost.fit_record["settings"]["targets"] == "words"
    with pytest.raises(BadInput, match="the model has no language-model head; use targets='words'"):
        fit(cost, model, targets="head")


def test_its_held_out_cost_is_that_of_the_held_out_text() -> None:
    model = tiny_bert()
    cost = new_cost(model, "ou")
    result = fit(cost, model)
    values = [
        cost.costs(r.hidden_states, r.targets, r.attention_mask) for r in text_of(cost, model).held_out()
    ]
    assert result.held_out == ((result.steps, result.best),)
    assert result.best == pytest.approx(torch.cat(values).mean().item(), rel=1e-5)
    assert (
        result.best
        < 0.9
        * torch.cat(
            [
                new_cost(model, "ou").costs(r.hidden_states, r.targets, r.attention_mask)
                for r in text_of(cost, model).held_out()
            ]
        ).mean()
    )


@pytest.mark.parametrize("most", [1, 20, 21, 10_000])
def test_no_more_is_read_than_until_there_are_the_tokens_that_are_asked_for(
    most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the text is at its end. The held-out text is read once, and kept."""
    model = tiny_bert()
    cost = new_cost(model)
    text = text_of(cost, model, max_tokens=most)
    counts, held_out = [r.count for r in one_epoch(text)], len(list(text.held_out()))
    steps = 1 + sum(sum(counts[: k + 1]) < most for k in range(len(counts) - 1))
    calls: list[int] = []
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    caplog.set_level("INFO")
    assert fit(cost, model, max_tokens=most).steps == steps
    handle.remove()
    told = f"the text has {sum(counts)} targets to read, of up to {most} (max_tokens)"
    assert (told in caplog.messages) == (sum(counts) < most)
    assert len(calls) == steps + held_out
    assert cost.fit_record is not None
    assert cost.fit_record["settings"]["max_tokens"] == most


def test_what_held_out_text_is_not_kept_is_read_again_to_the_same_lens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For the head, for the strengths, and for what the cost is there."""
    model = tiny_bert()
    found = []
    for most in (2**30, 3000, 0):
        monkeypatch.setattr("bridges.fitting.text.KEPT", most)
        cost, calls = new_cost(model), list[int]()
        held_out = len(list(text_of(cost, model).held_out()))
        handle = model.bert.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        result = fit(cost, model)
        handle.remove()
        found.append((result, cost.digest()))
        assert len(calls) == result.steps + (1 if most == 2**30 else 3) * held_out
    assert found[0] == found[1] == found[2]


def test_a_strength_that_is_given_is_that_of_every_layer() -> None:
    model = tiny_bert()
    cost, free = new_cost(model), new_cost(model)
    assert {layer.ridge for layer in fit(cost, model, ridge=0.25).layers} == {0.25}
    best = [layer.r2 for layer in fit(free, model).layers]
    given = [layer.r2 for layer in fit(cost, model, ridge=0.25).layers]
    assert all(a >= b - 1e-12 for a, b in zip(best, given, strict=True))
    assert best != given


def test_the_record_says_what_the_axes_keep() -> None:
    """Of the contrasts between the most frequent words of the rows, by another count of them."""
    model = tiny_bert()
    cost, loaded, published = new_cost(model), new_cost(model), RunningCost.for_model(model)
    loaded.end_points.axes = None
    text = text_of(cost, model)
    count = Counter(token for row in text.rows for token in row if token > 4)
    expected = sorted(count, key=lambda token: (-count[token], token))
    assert text.common_tokens(7).tolist() == expected[:7]
    assert text.common_tokens(COMMON).tolist() == expected
    table = model.get_output_embeddings().weight
    for one, dim in ((cost, 8), (loaded, 8), (published, 16)):
        more = {} if one is not published else {"max_steps": 9, "updates": 1}  # of as many rows
        fit(one, model, **more)
        assert one.fit_record is not None
        _, axes = principal_axes(centred(table), dim)
        kept = contrasts_kept(table[torch.tensor(expected)], axes)
        assert one.fit_record["contrasts_kept"] == pytest.approx(kept, abs=1e-3)


# Several costs


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
def test_each_comes_out_as_alone(make: Any) -> None:
    """To the bits, beside costs with other end points and beside a published map."""
    model = make()

    def made() -> list[RunningCost]:
        lenses = [new_cost(model, kind) for kind in KINDS]
        others = [new_cost(model, ends="pca"), new_cost(model, latent_dim=4)]
        return [*lenses, *others, RunningCost.for_model(model, widths=(16, 8))]

    one, other = made(), made()
    found = together(one, model, max_steps=3)
    alone = [fit(cost, model) for cost in other[:-1]] + [fit(other[-1], model, max_steps=3)]
    assert found == alone
    assert_same(one, other)
    weights = [cost.latent_map.state_dict()["weight"] for cost in one[: len(KINDS) - 1]]
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert not torch.equal(one[len(KINDS)].latent_map.state_dict()["weight"], weights[0])


def test_their_order_changes_nothing() -> None:
    model = tiny_bert()
    digests = set()
    for order in permutations(("brownian", "ou:learn=sigma", "posterior")):
        costs = {kind: new_cost(model, kind) for kind in order}
        together(list(costs.values()), model)
        digests.add(tuple(sorted((kind, cost.digest()) for kind, cost in costs.items())))
    assert len(digests) == 1


def test_the_model_reads_the_text_once_for_those_with_the_same_end_points() -> None:
    """Those with others share the reading too."""
    model = tiny_bert()
    calls: list[int] = []
    several = [new_cost(model, kind) for kind in KINDS]
    one, other = new_cost(model), new_cost(model, ends="pca")
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for costs in (several, [one], [one, other]):
        calls.clear()
        [*_, result] = together(costs, model)
        counts.append(len(calls))
    handle.remove()
    assert set(counts) == {result.steps + 2}, "and the two held-out batches, which are kept"


# Interruptions


def stop_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C when this batch is to be added; the state is kept after each."""
    original = LensFit.take

    def interrupted(self: LensFit, sums: Statistics, reading: ReadBatch) -> None:
        if reading.number == number:
            raise KeyboardInterrupt
        original(self, sums, reading)

    patch.setattr(LensFit, "take", interrupted)
    patch.setattr(lens_reading, "_SAVE_EVERY", 0)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_interrupted_and_resumed_is_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Among the batches, before the first, and in the held-out ones: to the same bits."""
    model = tiny_bert()
    kinds = ("brownian", "ou:learn=sigma")

    def made() -> list[RunningCost]:
        return [*(new_cost(model, kind) for kind in kinds), new_cost(model, ends="pca")]

    straight, half, resumed = made(), made(), made()
    before = [cost.digest() for cost in half]
    expected = together(straight, model)
    folders = [tmp_path / str(k) for k in range(3)]
    with monkeypatch.context() as patch:
        stop_at(patch, number)
        with pytest.raises(KeyboardInterrupt):
            together(half, model, folders=folders)
    assert [cost.digest() for cost in half] == before
    assert [cost.fit_record for cost in half] == [None] * 3
    assert not any(p.requires_grad for cost in half for p in cost.parameters())
    calls: list[int] = []
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    assert together(resumed, model, folders=folders) == expected
    handle.remove()
    left = expected[0].steps - (number if number >= 0 else expected[0].steps)
    assert len(calls) == left + 2
    assert_same(resumed, straight)


def test_one_that_was_interrupted_earlier_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_bert()

    def made() -> list[RunningCost]:
        return [new_cost(model), new_cost(model, ends="pca")]

    straight, resumed = made(), made()
    together(straight, model)
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, cost, folder in zip((1, 4), made(), folders, strict=True):
        with monkeypatch.context() as patch:
            stop_at(patch, number)
            with pytest.raises(KeyboardInterrupt):
                fit(cost, model, folder=folder)
    together(resumed, model, folders=folders)
    assert_same(resumed, straight)


def test_the_state_of_another_fit_is_refused(tmp_path: Path) -> None:
    """The strength is chosen from the same sums: another one goes on from them."""
    model = tiny_bert()
    fit(new_cost(model), model, folder=tmp_path)
    for changes in ({"batch_size": 4}, {"max_tokens": 50}, {"seed": 1}, {"texts": TEXTS[:-1]}):
        cost = new_cost(model)
        before = cost.digest()
        with pytest.raises(BadInput, match="is from another run"):
            fit(cost, model, folder=tmp_path, **changes)
        assert cost.digest() == before
    with pytest.raises(BadInput, match="is from another run"):
        fit(new_cost(model, ends="pca"), model, folder=tmp_path)
    with pytest.raises(BadInput, match="is from another run"):
        fit(RunningCost.for_model(model), model, folder=tmp_path, max_steps=2)
    given, fresh = new_cost(model), new_cost(model)
    fit(given, model, folder=tmp_path, ridge=0.5)
    fit(fresh, model, ridge=0.5)
    assert given.digest() == fresh.digest()


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = tiny_bert()
    fit(new_cost(model), model, folder=tmp_path)
    file = tmp_path / "fit-state.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    for broken in ({"gram": torch.zeros(2)}, Statistics.zeros(2, 3, 4).tensors):
        save_file(broken, file, metadata=metadata)
        with pytest.raises(BadInput, match="is no state of this run"):
            fit(new_cost(model), model, folder=tmp_path)


def test_an_error_leaves_every_cost_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the lenses and the first bridge's numbers were put in, and a published map was fitted."""
    model = tiny_bert()
    costs = [new_cost(model, "ou:learn=sigma"), new_cost(model, "brownian:learn=sigma")]
    costs.append(RunningCost.for_model(model, widths=(16, 8)))
    before = [cost.digest() for cost in costs]
    original = LensFit._result

    def broken(self: LensFit, cost: RunningCost, *args: Any) -> FitResult:
        if cost is costs[1]:
            raise RuntimeError("no room")
        return original(self, cost, *args)

    monkeypatch.setattr(LensFit, "_result", broken)
    with pytest.raises(RuntimeError, match="no room"):
        together(costs, model, max_steps=2)
    assert [cost.digest() for cost in costs] == before
    assert not any(p.requires_grad for cost in costs for p in cost.parameters())
    assert all(cost.fit_record is None for cost in costs)


# What is refused


def test_a_lens_that_is_random_on_purpose_is_not_fitted() -> None:
    model = tiny_bert()
    cost = new_cost(model, fit=False)
    before = cost.digest()
    with pytest.raises(BadInput, match="made with fit=False"):
        fit(cost, model)
    assert cost.digest() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-3}, "a lens takes no learning_rate; it takes batch_size, dtype, held_o"),
        ({"max_steps": 9, "patience": 1}, "a lens takes no max_steps, patience"),
        ({"max_tokens": 0}, "max_tokens=0: expected a whole number above 0"),
        ({"ridge": 0}, "ridge=0: expected a number from 1e-12, below 1e9, or None"),
        ({"ridge": -1.0}, "ridge=-1.0: expected"),
        ({"ridge": math.nan}, "ridge=nan: expected"),
        ({"ridge": "x"}, "ridge='x': expected"),
        ({"ridge": 1e9}, "ridge=1000000000.0: expected"),
        ({"max_length": 7}, "max_length=7: expected at least 8"),
        ({"texts": []}, "the text is empty"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    model = tiny_bert()
    cost = new_cost(model)
    before = cost.digest()
    with pytest.raises(BadInput, match=message):
        fit(cost, model, **changes)
    assert cost.digest() == before


def test_settings_of_a_lens_are_none_of_a_published_map() -> None:
    model = tiny_bert()
    for name, value in (("ridge", 0.1), ("max_tokens", 9)):
        with pytest.raises(BadInput, match=f"fit takes no {name}"):
            fit(RunningCost.for_model(model), model, **{name: value})
    mixed = [new_cost(model), RunningCost.for_model(model)]
    with pytest.raises(BadInput, match=r"fit takes no lr; it takes .*learning_rate.*ridge"):
        together(mixed, model, lr=1)


def test_states_that_are_not_finite_are_refused_by_their_layer() -> None:
    model = tiny_bert()
    cost = new_cost(model)
    before = cost.digest()
    handle = model.bert.encoder.layer[1].register_forward_hook(lambda *a: a[2] * math.inf)
    with pytest.raises(BadInput, match=r"hidden state 2 of \d+ tokens is not finite"):
        fit(cost, model)
    handle.remove()
    assert cost.digest() == before


# What a bridge learns


def held_out_guesses(cost: RunningCost, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Times [L+1], guesses [L+1, N, d] and end points [N, d] of the held-out text, in float64."""
    states, answers = read(cost, list(text_of(cost, model).held_out()))
    path = Trajectory(states, states[:, :0], torch.zeros(len(answers), dtype=torch.int64))
    return path.times(), cost.latent_map(path).double(), cost.end_points(answers).double()


@pytest.mark.parametrize("dims", [1, 8])
def test_the_learned_sigma_is_the_spread_of_the_residuals(dims: int) -> None:
    """``sigma^2 = mean(r^2 / s2)``, of each dimension where it has one for each. 1e-4: in float32."""
    model = tiny_bert()
    bridge = bridges.get("brownian", sigma=1.0 if dims == 1 else [1.0] * dims, learn="sigma")
    cost = new_cost(model, bridge)
    fit(cost, model)
    t, guess, end = held_out_guesses(cost, model)
    ratio = (columns(t) * (guess - end)).square() / columns(t * (1 - t))
    expected = (ratio.mean() if dims == 1 else ratio.mean((0, 1))).sqrt()
    torch.testing.assert_close(bridge.sigma.detach(), expected, rtol=1e-4, atol=0)


def law(bridge: bridges.GaussianBridge, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean factors [L] and joint covariance [L, L] of the guesses p = z / m, one dimension."""
    m, s2 = bridge.marginal(t)
    if bridge.likelihood == "marginal":
        covariance = torch.diag(s2)
    else:
        covariance = bridge.covariance(t[:, None], t[None])
    return m, covariance / torch.outer(m, m)


def surprise(bridge: bridges.GaussianBridge, t: Tensor, guess: Tensor, end: Tensor) -> float:
    """Mean over tokens of minus the log-density of the guesses, by torch's own Gaussian, over layers."""
    _, covariance = law(bridge, t)
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(len(t)).double(), covariance)
    residual = (guess - end).permute(1, 2, 0)
    return float(-gaussian.log_prob(residual).sum(1).mean() / len(t))


LEARNED = (
    "brownian:learn=sigma",
    "brownian:learn=sigma,likelihood=path",
    "ou:learn=theta+sigma",
    "ou:learn=theta+sigma,likelihood=path",
    "alpha:learn=alpha+sigma",
    "clock:clock=3,learn=clock+sigma",
)


@pytest.mark.parametrize("text", LEARNED)
def test_what_is_learned_is_the_minimum_of_the_guesses_surprise(text: str) -> None:
    """It is what is reported, and Nelder and Mead find no better from there, nor from the start."""
    model = tiny_bert()
    cost = new_cost(model, text)
    start = [p.detach().clone() for p in cost.bridge.parameters()]
    result = fit(cost, model)
    t, guess, end = held_out_guesses(cost, model)
    bridge = cost.bridge
    assert isinstance(bridge, bridges.GaussianBridge)
    learned = [p.detach().clone() for p in bridge.parameters()]
    sizes = [p.numel() for p in learned]

    def value(flat: Any) -> float:
        parts = torch.as_tensor(flat, dtype=torch.float64).split(sizes)
        with torch.no_grad():
            for p, part in zip(bridge.parameters(), parts, strict=True):
                p.copy_(part.reshape(p.shape))
            return surprise(bridge, t, guess, end)

    found = value(torch.cat([p.reshape(-1) for p in learned]).double())
    assert result.best == pytest.approx(found, rel=1e-4, abs=1e-4)
    for begin in (learned, start):
        flat = torch.cat([p.reshape(-1) for p in begin]).double().numpy()
        best = minimize(value, flat, method="Nelder-Mead", options={"maxiter": 600, "fatol": 1e-9}).fun
        assert found <= best + 1e-4 * abs(best)


@pytest.mark.parametrize("map_name", ["mlp", "lens"])
def test_text_that_stands_there_twice_is_told_of(
    map_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is said of held-out rows would be said of what was read."""
    model = tiny_bert()
    few: dict[str, int] = {"max_tokens": 20} if map_name == "lens" else {"steps": 1}
    once = [" ".join(WORDS[k : k + 5]) for k in range(len(WORDS) - 5)]
    for texts, told in ((once, False), (once[:3] * 20, True)):
        caplog.clear()
        cost = RunningCost.for_model(model, "brownian", map=map_name, latent_dim=4)
        fit(cost, model, texts, **few)
        assert ("held-out rows that stand in the rest of the text too" in caplog.text) == told


@pytest.mark.parametrize("map_name", ["mlp", "lens"])
def test_a_model_whose_inputs_want_gradients_is_read_as_any(map_name: str) -> None:
    """As gradient checkpointing with a frozen model has it: a hook on the embeddings."""
    digests = []
    for hooked in (False, True):
        model = tiny_llama()  # whose first states are the embeddings themselves
        if hooked:
            model.enable_input_require_grads()
        cost = RunningCost.for_model(model, "brownian", map=map_name, latent_dim=4)
        few: dict[str, int] = {} if map_name == "lens" else {"steps": 9}
        fit(cost, model, **few)
        digests.append(cost.digest())
    assert digests[0] == digests[1]
