"""Scores of every layer: states where the label is told, and what three readers make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import TEXTS, tiny_model, tiny_tokenizer

import pets
from bridges import BadInput, RunningCost, Trajectory
from pets import tasks
from pets.anytime.by_layer import read, scores_by_layer
from pets.anytime.exits import Exits
from pets.anytime.probe import Probe
from pets.inside.lens import lens
from pets.tasks.answering import Answering, Rows
from pets.tasks.asking import Asking
from pets.tasks.base import Example
from pets.tasks.prompts import Encoder
from pets.tuning.evaluation import evaluate

pytestmark = pytest.mark.slow

TASK = tasks.get("sst2")
EXAMPLES = [Example(text, k % 2) for k, text in enumerate(TEXTS[:40])]
TOKENIZER = tiny_tokenizer()
TOKENIZER.eos_token = "[SEP]"
LONG = ("bad film", "good film")


def asked(kind: str = "bert", pet: str | None = "lora", *, words: Any = None) -> tuple[Answering, Rows]:
    """A model with a PET of random weights, put to SST-2."""
    head = {"head": "ForSequenceClassification", "num_labels": 2} if kind == "classifier" else {}
    plm = tiny_model("bert" if kind == "classifier" else kind, initializer_range=0.3, **head)
    model: Any = plm
    if pet is not None:
        model = get_peft_model(plm, pets.get(pet, model=plm)).eval()
        rng = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    task = TASK if kind == "bert" and words is None else TASK.with_template("{text} it was {mask}")
    if words is not None:
        task = task.with_words(words)
    asking = Asking(plm, Encoder(TOKENIZER), task)
    return asking.on(model), asking.encode(EXAMPLES, 32)[0]


def cost_of(answering: Answering, bridge: str = "posterior", **options: Any) -> RunningCost:
    cost = RunningCost.for_model(answering, bridge, **{"map": "lens", "fit": False, **options})
    return cost


@pytest.mark.parametrize("pet", [None, "lora", "prompt", "prefix"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_states_are_those_of_the_models_own_forward(kind: str, pet: str | None) -> None:
    answering, rows = asked(kind, pet)
    found = read(answering, rows)
    assert found.answers is not None
    assert found.answers.tolist() == [label for _, label in rows]
    for k in (0, 3, 17):
        batch = answering.collate(rows[k : k + 1])
        place = int((batch.pop("labels") != -100).long().argmax()) - (kind == "llama")
        with torch.no_grad():
            output = answering.model(**batch, output_hidden_states=True)
        place += output.hidden_states[0].shape[1] - batch["input_ids"].shape[1]
        own = torch.stack([layer[0, place] for layer in output.hidden_states])
        torch.testing.assert_close(found.states[:, k], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama", "t5", "classifier"])
def test_the_head_at_the_last_layer_is_the_model(kind: str) -> None:
    answering, rows = asked(kind)
    found = scores_by_layer(answering, rows[:24], rows[24:], TASK)
    assert found["exit"] is None
    assert found["head"] is not None
    assert found["probe"] is not None
    assert len(found["head"]) == len(found["probe"])
    assert found["head"][-1] == evaluate(answering, rows[24:], TASK)[0]["accuracy"]


def test_readers_are_what_they_say_they_are() -> None:
    """Each fitted and asked by hand on the states of one whole reading."""
    answering, rows = asked()
    cost = cost_of(answering)
    found = scores_by_layer(answering, rows[:24], rows[24:], TASK, cost)
    known, other = read(answering, rows[:24]), read(answering, rows[24:])
    right = other.answers
    assert right is not None
    assert known.answers is not None
    words = answering.verbalizer
    assert words is not None

    def score(odds: Any) -> list[float]:
        return [float((layer.argmax(1) == right).double().mean()) for layer in odds]

    assert found["probe"] == score(Probe.fitted(known.states, known.answers, 2)(other.states))
    assert found["head"] == score(lens(answering, other.states, words))
    exits = Exits(cost, words.ends(cost), range(len(known.states)))
    exits.fit(known.states, known.answers)
    states = dict(enumerate(other.states))
    assert found["exit"] == score([exits[k](states) for k in range(len(states))])
    # Of a marginal law they are the adapted posterior, calibrated.
    path = Trajectory(other.states, other.states[:, :0], torch.arange(other.states.shape[1]))
    adapted = exits.cost.posterior(path, words.ends(exits.cost))
    for k, odds in enumerate(adapted):
        torch.testing.assert_close(
            exits[k](states), exits[k].calibration(odds).float(), rtol=0, atol=1e-4
        )


def test_a_layer_that_knows_is_read_and_one_that_does_not_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """States in which the label stands from layer 2 on."""
    answering, rows = asked()
    inner = RunningCost.trajectory

    def planted(self: RunningCost, *args: Any, **options: Any) -> Any:
        path, answers = inner(self, *args, **options)
        states = torch.randn(path.states.shape, generator=torch.Generator().manual_seed(len(answers)))
        states[2:, :, :8] += 3.0 * (2 * answers[:, None] - 1)
        return Trajectory(states, path.context, path.rows), answers

    monkeypatch.setattr(RunningCost, "trajectory", planted)
    found = scores_by_layer(answering, rows[:24], rows[24:], TASK, cost_of(answering))
    for reader in ("probe", "exit"):
        scores = found[reader]
        assert scores is not None
        assert max(scores[:2]) < 0.9 < min(scores[2:]), reader


@pytest.mark.parametrize(
    ("bridge", "options"), [("sde", {"map": "mlp"}), ("brownian", {"map": "mlp"}), ("regression", {})]
)
def test_costs_without_a_lens_or_a_law_have_no_exits(bridge: str, options: dict[str, Any]) -> None:
    answering, rows = asked()
    found = scores_by_layer(answering, rows[:24], rows[24:], TASK, cost_of(answering, bridge, **options))
    assert found["exit"] is None
    assert found["probe"] is not None


def test_words_of_several_tokens_are_probed_and_the_head_is_left_out() -> None:
    answering, rows = asked("llama", words=LONG)
    found = scores_by_layer(answering, rows[:24], rows[24:], TASK, cost_of(answering))
    assert found["head"] is None
    assert found["probe"] is not None
    assert found["exit"] is not None
    one, _ = asked("llama")
    # The prompt is the same, whatever is said behind it.
    states = read(answering, rows).states
    torch.testing.assert_close(states, read(one, rows).states, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    answering, rows = asked()
    answering.train()
    modes = [module.training for module in answering.modules()]
    weights = {name: tensor.clone() for name, tensor in answering.state_dict().items()}
    cost, before = cost_of(answering), torch.get_rng_state()
    lens_before = cost.lens.weight.clone()
    scores_by_layer(answering, rows[:24], rows[24:], TASK, cost)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in answering.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in answering.state_dict().items())
    assert torch.equal(cost.lens.weight, lens_before)
    pets.regularize(answering, "r-drop").remove()  # nothing is plugged in


def test_the_labels_of_reported_examples_have_no_part_in_the_readers() -> None:
    answering, rows = asked()
    flipped = [(row, 1 - label) for row, label in rows[24:]]
    one = scores_by_layer(answering, rows[:24], rows[24:], TASK, cost_of(answering))
    two = scores_by_layer(answering, rows[:24], flipped, TASK, cost_of(answering))
    for name, scores in one.items():
        assert scores == pytest.approx([1 - score for score in two[name] or ()]), name


def test_answers_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    answering, rows = asked()
    answering.verbalizer = None
    with pytest.raises(BadInput, match="no classes"):
        read(answering, rows)
    answering, _ = asked()
    with pytest.raises(BadInput, match="no prompts"):
        read(answering, [])
