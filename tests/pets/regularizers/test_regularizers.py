"""Regularizers of the literature: their formulas, where noise goes, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from scipy.stats import kstest
from tiny import VOCABULARY, tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

import pets
from bridges import BadInput
from pets import regularizers
from pets.regularizers.noise import ModelDropout, noisy_words
from pets.tasks import prompts, splits
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer
from pets.tuning.loop import TuningLoop
from pets.tuning.models import load_pet
from pets.tuning.settings import TuneSettings
from tests.pets.tuning.test_tuning import (
    PET,
    TASK,
    cost_for,
    everything,
    examples,
    model,
    result,
    run,
    same_bytes,
    stop_at,
)

pytestmark = pytest.mark.slow

STATES = ["anchor", "contrast", "early-exit", "jump"]
"""Those that read states, which have files of their own."""
NAMES = ["dropout", "label-smoothing", "neftune", "r-drop", "r3f", "weight-decay"]
NOISY = ["dropout", "neftune", "r-drop", "r3f"]
WEIGHTS = dict(zip(NAMES, [0.2, 0.1, 5.0, 1.0, 1.0, 5.0], strict=True))
MASKED = ["albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "roberta"]


def classifier(pet: str | None = None, **changes: Any) -> PromptClassifier:
    plm = tiny_bert(initializer_range=0.2, **changes)
    wrapped: nn.Module = plm if pet is None else get_peft_model(plm, pets.get(pet, model=plm))
    return PromptClassifier(wrapped, Verbalizer.of_words(tiny_tokenizer(), TASK.verbalizer))


def batch(count: int = 6) -> dict[str, Tensor]:
    """Texts of several lengths, padded."""
    chosen = examples(count, 3)
    rows = prompts.encode(tiny_tokenizer(), [e.text for e in chosen], 40).rows
    return prompts.collate([(row, e.label) for row, e in zip(rows, chosen, strict=True)], 0)


def classes(inputs: dict[str, Tensor]) -> Tensor:
    return inputs["labels"][inputs["labels"] >= 0]


def penalised(loss: Tensor, one: Tensor, two: Tensor, factor: float) -> float:
    """By torch's own divergence, in float64."""
    log_p, log_q = one.double().log_softmax(1), two.double().log_softmax(1)
    kl = [
        F.kl_div(a, b, reduction="batchmean", log_target=True)
        for a, b in ((log_p, log_q), (log_q, log_p))
    ]
    return float((loss.double() + factor * sum(kl)).detach())


# Names and strengths


def test_names() -> None:
    assert regularizers.available() == sorted([*NAMES, *STATES])


@pytest.mark.parametrize("name", NAMES)
def test_strengths_are_geometrically_spaced_and_allowed(name: str) -> None:
    found = regularizers.strengths(name, 5)
    ratios = [b / a for a, b in itertools.pairwise(found)]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert ratios[0] > 1
    assert regularizers.strengths(name, 2) == [found[0], found[-1]]
    assert regularizers.strengths(name, 1) == [pytest.approx(found[2])]
    for strength in found:
        assert TuneSettings(regularizer=name, weight=strength).weight == strength


def test_strengths_are_those_documented() -> None:
    low, middle, high = regularizers.strengths("label-smoothing", 3)
    assert (low, middle, high) == (0.02, pytest.approx(0.1), 0.5)
    ends = {name: (regularizers.strengths(name, 2)) for name in NAMES}
    assert ends == {
        "dropout": [0.05, 0.5],
        "label-smoothing": [0.02, 0.5],
        "neftune": [1.0, 25.0],
        "r-drop": [0.1, 5.0],
        "r3f": [0.1, 5.0],
        "weight-decay": [0.01, 10.0],
    }


# Formulas


def test_the_symmetric_divergence_by_hand() -> None:
    p, q = (
        torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double(),
        torch.tensor([[0.25, 0.75], [0.9, 0.1]]).double(),
    )
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3) + 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    found = regularizers.symmetric_kl(p.log() + 3.0, q.log() - 1.0)  # scores need not be normalised
    assert found.item() == pytest.approx(first / 2, rel=1e-14)


def test_the_symmetric_divergence_of_near_distributions_is_not_negative() -> None:
    scores = torch.randn(50, 4)
    near = scores * (1 + 1e-6 * torch.rand(50, 4))
    expected = penalised(torch.zeros(()), scores, near, 1.0)
    for a, b in zip(scores, near, strict=True):
        assert regularizers.symmetric_kl(a[None], b[None]) >= 0
    assert 0 < expected < 1e-10


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_label_smoothing_is_torchs_over_the_label_words(epsilon: float) -> None:
    plain, inputs = classifier(), batch()
    found = regularizers.get("label-smoothing", weight=epsilon).on(plain)(**inputs)
    scores = plain(**inputs).logits
    # torch normalises over the classes, the scores are normalised over the vocabulary.
    over_classes = F.cross_entropy(scores, classes(inputs), label_smoothing=epsilon)
    torch.testing.assert_close(found, over_classes - scores.logsumexp(1).mean())
    words = torch.tensor([VOCABULARY.index("bad"), VOCABULARY.index("good")])
    targets = torch.zeros(6, len(VOCABULARY))
    targets[:, words] = epsilon / 2
    targets[torch.arange(6), words[classes(inputs)]] += 1 - epsilon
    plain.remove()
    logits = plain.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 1]
    torch.testing.assert_close(found, F.cross_entropy(logits, targets))


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the regularizers put on word embeddings, one tensor a forward."""
    drawn: list[Tensor] = []

    @contextlib.contextmanager
    def recorded(model: nn.Module, noise: Callable[[Tensor], Tensor]) -> Iterator[None]:
        def kept(words: Tensor) -> Tensor:
            drawn.append(noise(words))
            return drawn[-1]

        with noisy_words(model, kept):
            yield

    monkeypatch.setattr("pets.regularizers.neftune.noisy_words", recorded)
    monkeypatch.setattr("pets.regularizers.r3f.noisy_words", recorded)
    return drawn


def by_hand(plain: PromptClassifier, inputs: dict[str, Tensor], z: Tensor) -> Tensor:
    """Scores of the model on embeddings with a given noise."""
    plm: Any = plain.model
    words = plm.get_input_embeddings()(inputs["input_ids"]) + z
    plain.remove()
    logits = plm(inputs_embeds=words, attention_mask=inputs["attention_mask"]).logits
    return plain.verbalizer.score(logits[:, 1])


def test_neftunes_noise_is_uniform_and_scaled_by_the_attended_length(noise: list[Tensor]) -> None:
    plain, inputs = classifier(), batch(40)
    loss = regularizers.get("neftune", weight=5.0).on(plain)
    for _ in range(3):
        loss(**inputs)
    lengths = inputs["attention_mask"].sum(1)
    assert len(lengths.unique()) > 1
    units = torch.stack(noise) * (lengths * 32).sqrt()[:, None, None] / 5.0
    assert units.shape == (3, 40, inputs["input_ids"].shape[1], 32)
    largest = units.abs().amax((0, 2, 3))  # of each text
    assert (largest <= 1 + 1e-6).all()
    assert (largest > 0.98).all()
    assert kstest(units.flatten().double().numpy(), "uniform", args=(-1, 2)).pvalue > 0.01
    assert not torch.equal(noise[0], noise[1])


def test_neftunes_loss_by_hand(noise: list[Tensor]) -> None:
    plain, inputs = classifier(), batch()
    found = regularizers.get("neftune", weight=5.0).on(plain)(**inputs)
    expected = F.nll_loss(by_hand(plain, inputs, noise[0]), classes(inputs))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, F.nll_loss(by_hand(plain, inputs, 0 * noise[0]), classes(inputs)))


def test_r3fs_loss_by_hand(noise: list[Tensor]) -> None:
    plain, inputs = classifier(), batch()
    output = plain(**inputs)
    found = regularizers.get("r3f", weight=0.7).on(plain)(**inputs)
    (z,) = noise  # of one of the two forwards
    sigma = plain.model.get_input_embeddings().weight.std()
    assert 0.98 * sigma < z.abs().max() <= sigma
    assert kstest((z / sigma).flatten().detach().double().numpy(), "uniform", args=(-1, 2)).pvalue > 0.01
    expected = penalised(output.loss, output.logits, by_hand(plain, inputs, z), 0.7)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert found > output.loss + 1e-3


def test_r3f_differentiates_both_passes() -> None:
    plain, inputs = classifier("bitfit"), batch()
    trained = [p for p in plain.parameters() if p.requires_grad]

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])

    loss = regularizers.get("r3f", weight=2.0).on(plain)
    torch.manual_seed(5)
    found = gradient(loss(**inputs))
    torch.manual_seed(5)
    plain_output = plain(**inputs)
    sigma = plain.model.get_input_embeddings().weight.std().item()
    with noisy_words(plain, lambda words: torch.empty_like(words).uniform_(-sigma, sigma)):
        noisy = plain(**inputs).logits
    p, q = plain_output.logits.softmax(1), noisy.softmax(1)
    kl = (p * (p / q).log() + q * (q / p).log()).sum(1).mean()
    torch.testing.assert_close(found, gradient(plain_output.loss + 2.0 * kl), rtol=1e-3, atol=1e-6)


def test_r_drops_loss_by_hand() -> None:
    plain, inputs = classifier(), batch()
    torch.manual_seed(5)
    found = regularizers.get("r-drop", weight=0.7).on(plain)(**inputs)
    torch.manual_seed(5)
    with ModelDropout(plain).active():
        one, two = plain(**inputs).logits, plain(**inputs).logits
    assert (one - two).abs().min() > 1e-4
    nll = (F.nll_loss(one, classes(inputs)) + F.nll_loss(two, classes(inputs))) / 2
    assert found.item() == pytest.approx(penalised(nll, one, two, 0.7 / 2), rel=1e-5)


def test_weight_decay_shrinks_matrices_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups: list[Any] = []
    inner = TuningLoop.run

    def watched(self: TuningLoop, *args: Any, **kwargs: Any) -> None:
        for group in self.optimizer.param_groups:
            groups.append(({p.dim() for p in group["params"]}, group["weight_decay"]))
        inner(self, *args, **kwargs)

    monkeypatch.setattr(TuningLoop, "run", watched)
    found = run(tmp_path / "run", pet="adapter", regularizer="weight-decay", weight=3.0, max_steps=1)
    assert groups == [({2}, 3.0), ({1}, 0.0)]
    assert found["settings"]["weight_decay"] == found["settings"]["weight"] == 3.0


# Dropout


def dropouts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The probabilities that act, in attention and elsewhere; they fill as forwards are made."""
    seen: dict[str, list[float]] = {"attention": [], "hidden": []}
    dropout, attention = F.dropout, F.scaled_dot_product_attention

    def watched(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training:
            seen["attention" if input.dim() == 4 else "hidden"].append(p)
        return dropout(input, p, training, inplace)

    def attended(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        if dropout_p:
            seen["attention"].append(dropout_p)
        return attention(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "dropout", watched)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    return seen


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_acts_in_attention_and_hidden_layers_and_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    plain, inputs = classifier(), batch()
    plain.model.set_attn_implementation(attention)
    before = plain(**inputs).loss
    loss = regularizers.get("dropout", weight=0.3).on(plain)
    seen = dropouts(monkeypatch)
    one, two = loss(**inputs), loss(**inputs)
    assert len({one.item(), two.item(), before.item()}) == 3
    assert seen == {"attention": [0.3] * 2 * 3, "hidden": [0.3] * 2 * (1 + 3 * 2)}
    for mode in (True, False):
        assert torch.equal(plain.train(mode)(**inputs).loss, before)
    assert sum(map(len, seen.values())) == 2 * 10


@pytest.mark.parametrize("model_type", MASKED)
def test_dropout_finds_the_attention_of_every_architecture(
    monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    plm = tiny_model(model_type)
    ids = batch()["input_ids"]
    before = everything(plm)
    expected = plm(ids).logits
    seen = dropouts(monkeypatch)
    with ModelDropout(plm).active(0.3):
        assert not torch.equal(plm(ids).logits, expected)
    assert set(seen["attention"]) == set(seen["hidden"]) == {0.3}
    assert len(seen["attention"]) == 2  # layers
    assert torch.equal(plm(ids).logits, expected)
    assert everything(plm) == before


@pytest.mark.parametrize(
    ("hidden", "attention", "used"),
    [(0.1, 0.1, (0.1, 0.1)), (0.2, 0.0, (0.2, 0.0)), (0.0, 0.0, (0.1, 0.1))],
)
def test_r_drop_uses_the_models_own_dropout(
    monkeypatch: pytest.MonkeyPatch, hidden: float, attention: float, used: tuple[float, float]
) -> None:
    plain = classifier(hidden_dropout_prob=hidden, attention_probs_dropout_prob=attention)
    loss = regularizers.get("r-drop", weight=1.0).on(plain)
    seen = dropouts(monkeypatch)
    loss(**batch())
    assert set(seen["hidden"]) == {used[0]}
    assert set(seen["attention"]) == {used[1]} - {0.0}


def test_a_pets_own_dropout_stays_as_it_is() -> None:
    plm = tiny_bert()
    wrapped = get_peft_model(plm, pets.get("adapter", dropout=0.25)).eval()
    own = [
        m for n, m in wrapped.named_modules() if "bottleneck_dropout" in n and isinstance(m, nn.Dropout)
    ]
    models = [m for m in wrapped.modules() if isinstance(m, nn.Dropout) and m not in own]
    with ModelDropout(wrapped).active(0.4):
        assert {(m.p, m.training) for m in own} == {(0.25, False)}
        assert {(m.p, m.training) for m in models} == {(0.4, True)}
    assert {(m.p, m.training) for m in models} == {(0.1, False)}


# Noise on words


@pytest.mark.parametrize("pet", pets.available())
def test_the_noise_is_on_words_and_not_on_virtual_tokens(pet: str) -> None:
    plain, inputs = classifier(pet), batch()
    inputs.pop("labels")
    shapes = []

    def one(words: Tensor) -> Tensor:
        shapes.append(words.shape)
        return torch.ones_like(words) * torch.linspace(0, 1, 32)

    clean = plain.model(**inputs, output_hidden_states=True).hidden_states[0]
    with noisy_words(plain.model, one):
        noisy = plain.model(**inputs, output_hidden_states=True).hidden_states[0]
    assert shapes == [(*inputs["input_ids"].shape, 32)]
    virtual = 20 if pet == "prompt" else 0
    assert clean.shape[1] == inputs["input_ids"].shape[1] + virtual
    changed = (clean != noisy).any(-1)
    assert changed[:, virtual:].all()
    assert not changed[:, :virtual].any()


def test_words_that_are_not_looked_up_are_refused() -> None:
    plm = tiny_bert()
    with pytest.raises(BadInput, match="BertForMaskedLM looked up its word embeddings 0 times"):  # noqa: SIM117
        with noisy_words(plm, torch.zeros_like):
            plm(inputs_embeds=torch.zeros(1, 3, 32))
    assert not plm.get_input_embeddings()._forward_hooks


# Runs


@pytest.mark.parametrize(
    ("name", "pet"),
    [pair for pair in itertools.product(NAMES, pets.available()) if pair != ("weight-decay", "bitfit")],
)
def test_every_regularizer_trains_every_pet(tmp_path: Path, name: str, pet: str) -> None:
    found = run(
        tmp_path, pet=pet, regularizer=name, weight=WEIGHTS[name], max_steps=10, learning_rate=0.03
    )
    first, last = found["curves"]
    assert last["dev_loss"] < first["dev_loss"]
    assert math.isfinite(last["loss"])
    assert last["running_cost"] is None
    assert found["settings"]["regularizer"] == name
    assert found["settings"]["weight"] == WEIGHTS[name]


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without any; only read it."""
    folder = tmp_path_factory.mktemp("runs") / "vanilla"
    run(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_nothing_behind_and_is_scored_without_it(
    tmp_path: Path, vanilla: Path, name: str
) -> None:
    plm = model()
    plm(input_ids=torch.tensor([[5]]), output_hidden_states=True)  # transformers' own hooks
    before = everything(plm), [m.p for m in plm.modules() if isinstance(m, nn.Dropout)]
    found = run(tmp_path / "run", plm=plm, regularizer=name, weight=WEIGHTS[name])
    assert (everything(plm), [m.p for m in plm.modules() if isinstance(m, nn.Dropout)]) == before
    assert not same_bytes(tmp_path / "run", vanilla, PET)
    run(tmp_path / "after", plm=plm)
    assert same_bytes(tmp_path / "after", vanilla, "result.json", "run.json", PET)

    assert found["curves"][0] == result(vanilla)["curves"][0]
    best = next(look for look in found["curves"] if look["step"] == found["best_step"])
    _, dev = splits.few_shot(examples(40, 0), TASK, 8, 42)
    rows = prompts.encode(tiny_tokenizer(), [e.text for e in dev], 40).rows
    pairs = [(row, e.label) for row, e in zip(rows, dev, strict=True)]
    pairs.sort(key=lambda pair: len(pair[0].input_ids))
    saved = load_pet(plm, tmp_path / "run" / "pet")
    scorer = PromptClassifier(saved, Verbalizer.of_words(tiny_tokenizer(), TASK.verbalizer)).eval()
    assert scorer(**prompts.collate(pairs, 0)).loss.item() == pytest.approx(best["dev_loss"], rel=1e-6)


@pytest.mark.parametrize("name", NOISY)
def test_an_error_in_the_forward_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plm = model()
    before = everything(plm), [m.p for m in plm.modules() if isinstance(m, nn.Dropout)]
    inner = Verbalizer.score

    def stopped(self: Verbalizer, logits: Tensor) -> Tensor:
        if logits.requires_grad:
            raise KeyboardInterrupt
        return inner(self, logits)

    monkeypatch.setattr(Verbalizer, "score", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plm=plm, regularizer=name, weight=WEIGHTS[name])
    assert (everything(plm), [m.p for m in plm.modules() if isinstance(m, nn.Dropout)]) == before


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("dropout", 0),
        ("label-smoothing", 0.0),
        ("neftune", 0.0),
        ("r-drop", 0),
        ("r3f", 0.0),
        ("weight-decay", 0.01),
    ],
)
def test_without_strength_it_is_vanilla(tmp_path: Path, vanilla: Path, name: str, weight: float) -> None:
    found = run(tmp_path, regularizer=name, weight=weight)  # 0.01: vanilla has it too
    assert found["curves"] == result(vanilla)["curves"]
    assert same_bytes(tmp_path, vanilla, PET)


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_a_function_of_seed_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changes = {"regularizer": name, "weight": WEIGHTS[name]}
    run(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        stop_at(patch, 17)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", **changes)
    torch.rand(3)  # whatever happens to the global generator meanwhile
    begun = stop_at(monkeypatch, -1)
    run(tmp_path / "run", **changes)
    assert begun == list(range(10, 30))
    assert same_bytes(tmp_path / "run", tmp_path / "whole", "result.json", "run.json", PET)


def test_the_regularizer_and_its_strength_belong_to_the_run(tmp_path: Path) -> None:
    run(tmp_path, regularizer="dropout", weight=0.1, max_steps=1)
    for changes, message in [
        ({"regularizer": "dropout", "weight": 0.2}, "weight 0.1 there, 0.2 here"),
        ({"regularizer": "neftune", "weight": 0.1}, "regularizer 'dropout' there, 'neftune' here"),
        ({}, "regularizer 'dropout' there, None here"),
    ]:
        with pytest.raises(BadInput, match=f"holds another run .*({message})"):
            run(tmp_path, max_steps=1, **changes)


# Refusals


@pytest.mark.parametrize(
    "call", [regularizers.strengths, lambda name, _: TuneSettings(regularizer=name)]
)
def test_an_unknown_name_is_refused(call: Callable[[str, int], Any]) -> None:
    with pytest.raises(
        BadInput, match=r"unknown regularizer 'dropuot'; did you mean 'dropout'\? \(known: an"
    ):
        call("dropuot", 3)


def test_a_count_of_strengths_below_one_is_refused() -> None:
    with pytest.raises(BadInput, match="count=0: expected a whole number above 0"):
        regularizers.strengths("r3f", 0)


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("dropout", 1.0, "weight=1.0: expected the probability of dropout, a number in [0, 1)"),
        (
            "label-smoothing",
            -0.1,
            "weight=-0.1: expected the epsilon of label-smoothing, a number in [0, 1)",
        ),
        ("neftune", math.inf, "weight=inf: expected the alpha of neftune, a finite number, 0 or more"),
        ("r3f", math.nan, "weight=nan: expected the lambda of r3f, a finite number, 0 or more"),
        ("r-drop", "1", "weight='1': expected the alpha of r-drop, a finite number, 0 or more"),
        (
            "weight-decay",
            True,
            "weight=True: expected the decay of weight-decay, a finite number, 0 or more",
        ),
    ],
)
def test_a_strength_out_of_range_is_refused(name: str, weight: Any, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        TuneSettings(regularizer=name, weight=weight)


def test_weight_decay_refuses_a_pet_without_matrices() -> None:
    """It would be vanilla under another name."""
    with pytest.raises(BadInput, match="weight-decay acts on the matrices of a PET, and this one"):
        regularizers.get("weight-decay", weight=1.0).on(classifier("bitfit"))
    for pet in ("lora", "adapter", "prompt", "prefix"):
        regularizers.get("weight-decay", weight=1.0).on(classifier(pet))


def test_a_cost_and_a_regularizer_are_refused(tmp_path: Path) -> None:
    plm = model()
    with pytest.raises(BadInput, match=r"a cost and regularizer 'r3f' too: .* give only one"):
        run(tmp_path / "run", plm=plm, cost=cost_for(plm), regularizer="r3f")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dropout", "r-drop"])
def test_a_model_without_dropout_is_refused(tmp_path: Path, name: str) -> None:
    plm = model()
    for module in list(plm.modules()):
        for child, inner in module.named_children():
            if isinstance(inner, nn.Dropout):
                setattr(module, child, nn.Identity())
    with pytest.raises(BadInput, match="BertForMaskedLM has no dropout to turn on: choose another"):
        run(tmp_path / "run", plm=plm, regularizer=name, weight=0.1)
    assert not list(tmp_path.iterdir())
