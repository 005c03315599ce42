"""Analyses of a model layer by layer: against hand computation, known truths, and the plug itself."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import TEXTS, tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import BertForMaskedLM, PreTrainedModel

import bridges
import pets
from bridges import BadInput, RunningCost, Trajectory
from pets import tasks
from pets.inside import analysis, trajectories
from pets.inside.analysis import analyse
from pets.inside.lens import lens
from pets.inside.plots import make_panel
from pets.inside.separability import separability
from pets.inside.trajectories import Seen
from pets.plug.regularize import regularize
from pets.study.report.analysis_figures import analysis_figures
from pets.tasks import prompts
from pets.tasks.base import Example
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer
from pets.tuning.evaluation import room

pytestmark = pytest.mark.slow

TASK = tasks.get("sst2")
WORDS = ["negative", "positive"]
EXAMPLES = [Example(text, k % 2) for k, text in enumerate(TEXTS[:24])]
TOKENIZER = tiny_tokenizer()
VERBALIZER = Verbalizer.of_words(TOKENIZER, WORDS)
MASKED = [
    "albert",
    "bert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "megatron-bert",
    "modernbert",
    "roberta",
    "xlm-roberta",
]


def encoded(examples: list[Example] = EXAMPLES) -> list[tuple[prompts.Row, int]]:
    rows = prompts.encode(TOKENIZER, [e.text for e in examples], 32).rows
    return [(row, e.label) for row, e in zip(rows, examples, strict=True)]


def record(model: torch.nn.Module, cost: RunningCost, **changes: Any) -> dict[str, Any]:
    given = {"task": TASK, "examples": EXAMPLES, "max_length": 32, **changes}
    return analyse(
        model, TOKENIZER, given["task"], given["examples"], cost, max_length=given["max_length"]
    )


def tuned(pet: str, model_type: str = "bert", **options: Any) -> torch.nn.Module:
    """A tiny model with a PET of random weights, as if trained."""
    plm = tiny_model(model_type)
    model = get_peft_model(plm, pets.get(pet, model=plm, **options)).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def loud(model_type: str) -> PreTrainedModel:
    """A tiny model whose layers change more than the sixth digit of what it says."""
    model = tiny_model(model_type)
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.dim() > 1 else 1
    return model


@pytest.mark.parametrize("pet", ["lora", "prompt", "prefix", "adapter", "bitfit"])
def test_trajectories_are_those_of_the_plug(pet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One example at a time through regularize and the PeftModel's own forward, no batching."""
    model = tuned(pet, **({"num_virtual_tokens": 4} if pet in ("prompt", "prefix") else {}))
    cost = RunningCost.for_model(model, "ou")
    rows = encoded()
    seen = trajectories.see(model, cost, VERBALIZER, rows, 0)
    found = []
    inner = RunningCost.of_trajectory

    def spy(self: RunningCost, path: Trajectory, answers: Tensor, **options: Any) -> Any:
        found.append((path, answers))
        return inner(self, path, answers, **options)

    monkeypatch.setattr(RunningCost, "of_trajectory", spy)
    costs = []
    with regularize(model, cost, verbalizer=VERBALIZER, in_eval=True), torch.no_grad():
        for row, label in rows:
            batch = prompts.collate([(row, VERBALIZER.tokens[label][0][0])], 0)
            costs.append(model(**batch).running_cost)
    states = torch.cat([path.states for path, _ in found], 1)
    latent = torch.cat([cost.latent_map(path) for path, _ in found], 1)
    torch.testing.assert_close(seen.states, states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.latent, latent, rtol=1e-4, atol=1e-5)
    assert seen.labels.tolist() == [int(label) for _, label in found]
    assert seen.cost == pytest.approx(float(torch.stack(costs).mean()), rel=1e-4)
    # What the model without the PET would show is something else.
    frozen = trajectories.see(tiny_model("bert"), cost, VERBALIZER, rows, 0)
    assert (frozen.latent - latent).abs().max() > 1e-2


@pytest.mark.parametrize("pet", ["lora", "prompt", "prefix"])
def test_states_of_a_pet_by_the_models_own_forward(pet: str) -> None:
    """Without the plug: [MASK] of the states that the PeftModel returns, behind a soft prompt."""
    model = tuned(pet, **({"num_virtual_tokens": 4} if pet != "lora" else {}))
    cost = RunningCost.for_model(model)
    row, label = encoded()[3]
    seen = trajectories.see(model, cost, VERBALIZER, encoded()[:8], 0)
    batch = prompts.collate([(row, label)], 0)
    del batch["labels"]
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    place = row.mask_position + (4 if pet == "prompt" else 0)
    assert output.hidden_states[0].shape[1] == len(row.input_ids) + (4 if pet == "prompt" else 0)
    mine = torch.stack([hidden[0, place] for hidden in output.hidden_states])
    torch.testing.assert_close(seen.states[:, 3], mine, rtol=1e-4, atol=1e-5)
    scores = VERBALIZER.score(output.logits[:, place])
    torch.testing.assert_close(seen.scores[3:4], scores, rtol=1e-4, atol=1e-5)


def test_panels_of_the_demo_read_a_prompt_too() -> None:
    model = tuned("prompt", num_virtual_tokens=4)
    cost = RunningCost.for_model(model)
    panel = make_panel("x", model, TOKENIZER, cost, encoded(), WORDS)
    found = record(model, cost)["progress"]
    for word in WORDS:
        mean = panel.progress[word].mean(0).tolist()
        assert mean == pytest.approx(found[word]["mean"], rel=1e-4, abs=1e-5)
    frozen = make_panel("x", tiny_model("bert"), TOKENIZER, cost, encoded(), WORDS)
    assert (frozen.progress["negative"] - panel.progress["negative"]).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", MASKED)
def test_lens_of_the_last_layer_is_the_models_answer(model_type: str) -> None:
    model = loud(model_type)
    rows, cost = encoded(), RunningCost.for_model(model)
    seen = trajectories.see(model, cost, VERBALIZER, rows, 0)
    found = lens(model, seen.states, VERBALIZER)
    batch = prompts.collate(rows, 0)
    del batch["labels"]
    with torch.no_grad():
        answers = model(**batch).logits[torch.arange(len(rows)), rows[0][0].mask_position]
    torch.testing.assert_close(found[-1], VERBALIZER.score(answers), rtol=1e-4, atol=1e-5)
    assert found.shape == (3, len(rows), 2)
    assert (found[1] - found[-1]).abs().max() > 1e-2
    assert record(model, cost)["lens"] is not None


def test_what_a_cost_with_a_lens_sees_are_its_guesses_times_the_mean_factors() -> None:
    """So that they lie about m(t) v, as the latents of the published map do."""
    model = loud("bert")
    cost, rows = RunningCost.for_model(model, "ou", map="lens"), encoded()
    seen = trajectories.see(model, cost, VERBALIZER, rows, 0)
    path = bridges.Trajectory(seen.states, seen.states[:, :0], torch.zeros(len(rows), dtype=torch.int64))
    assert isinstance(cost.bridge, bridges.GaussianBridge)
    factor, _ = cost.bridge.marginal(path.times())
    with torch.no_grad():
        expected = factor.float()[:, None, None] * cost.latent_map(path)
    torch.testing.assert_close(seen.latent, expected, rtol=1e-5, atol=1e-6)
    assert record(model, cost)["examples"] == len(rows)


def test_lens_of_debertas_other_head() -> None:
    """It takes the word embeddings beside the states, and its encoder has a convolution."""
    model = tiny_model("deberta-v2", legacy=False, conv_kernel_size=3)
    seen = trajectories.see(model, RunningCost.for_model(model), VERBALIZER, encoded(), 0)
    found = lens(model, seen.states, VERBALIZER)
    torch.testing.assert_close(found[-1], seen.scores, rtol=1e-4, atol=1e-5)


def test_lens_passes_middle_layers_through_the_final_norm() -> None:
    """Cutting the last layer off leaves a model whose answer is the lens of the layer before."""
    for model_type, stack in (
        ("megatron-bert", "bert.encoder.layer"),
        ("modernbert", "model.layers"),
        ("bert", "bert.encoder.layer"),
        ("deberta-v2", "deberta.encoder.layer"),
    ):
        model = loud(model_type)
        rows = encoded()
        seen = trajectories.see(model, RunningCost.for_model(model), VERBALIZER, rows, 0)
        found = lens(model, seen.states, VERBALIZER)
        del model.get_submodule(stack)[-1]
        model.config.num_hidden_layers = 1
        cut = trajectories.see(model, RunningCost.for_model(model), VERBALIZER, rows, 0)
        torch.testing.assert_close(found[1], cut.scores, rtol=1e-4, atol=1e-5, msg=model_type)


@pytest.mark.parametrize("pet", ["lora", "prompt", "bitfit", "adapter"])
@pytest.mark.parametrize("model_type", ["bert", "modernbert", "megatron-bert"])
def test_lens_of_a_pet_is_the_models_answer(pet: str, model_type: str) -> None:
    """A tuned bias of the head or the final norm counts in the lens."""
    if (pet, model_type) == ("bitfit", "modernbert"):
        pytest.skip("has no biases")
    model = tuned(pet, model_type)
    seen = trajectories.see(model, RunningCost.for_model(model), VERBALIZER, encoded(), 0)
    found = lens(model, seen.states, VERBALIZER)
    torch.testing.assert_close(found[-1], seen.scores, rtol=1e-4, atol=1e-4)


def test_a_head_that_cannot_be_read_gives_no_lens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Scaled(BertForMaskedLM):
        """A head whose answer depends on the length of the text."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * (1 + output.logits.shape[1])
            return output

    model = tiny_bert()
    model.__class__ = Scaled
    with caplog.at_level(logging.WARNING):
        found = record(model, RunningCost.for_model(model))
    assert found["lens"] is None
    assert "the head of Scaled cannot be read at other layers: at the last one it is" in caplog.text
    caplog.clear()
    model = tiny_bert()
    model.bert.register_forward_hook(
        lambda module, args, output: setattr(output, "last_hidden_state", output[0] * 1.0)
    )
    assert record(model, RunningCost.for_model(model))["lens"] is None
    assert "ends in what is neither a layer nor a norm" in caplog.text


def synthetic() -> Seen:
    """Two labels of 20 examples; four layers: all the same, noise, parted, parted far."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(40) % 2
    states = torch.randn(4, 40, 6, generator=generator)
    states[0] = torch.randn(6, generator=generator)
    states[0] += 1e-7 * torch.randn(40, 6, generator=generator)  # rounding
    states[2, :, 0] += 8 * labels
    states[3] = 0.01 * states[3] + labels[:, None]
    ends = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    latent = torch.randn(4, 40, 3, generator=generator)
    scores = torch.randn(40, 2, generator=generator).log_softmax(1)
    return Seen(states, latent, labels, ends, scores, 0.0)


def test_separability_of_known_truths() -> None:
    seen = synthetic()
    found = separability(seen.states, seen.labels)
    assert found["chance"] == 0.5
    assert found["probe"][0] == 0.5
    assert found["probe_deviation"][0] == 0.0
    assert found["silhouette"][0] == 0.0
    assert 0.2 < found["probe"][1] < 0.8
    assert abs(found["silhouette"][1]) < 0.1
    assert found["probe"][2:] == [1.0, 1.0]
    assert found["silhouette"][3] > 0.9
    assert found["silhouette"][2] < found["silhouette"][3]


def test_a_probe_does_not_see_what_it_is_tested_on() -> None:
    """Random labels over many more features than examples: perfect in training, chance when held out."""
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(5, 60, 200, generator=generator)
    labels = torch.randperm(60, generator=generator) % 2
    found = separability(states, labels)["probe"]
    assert 0.35 < sum(found) / 5 < 0.65


def test_unbalanced_labels_have_another_chance() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    assert separability(torch.zeros(1, 40, 3), labels) == {
        "probe": [0.75],
        "probe_deviation": [0.0],
        "silhouette": [0.0],
        "chance": 0.75,
    }


def test_distances_and_progress_are_those_computed_by_hand() -> None:
    seen = synthetic()
    distance = analysis._distance(seen, WORDS)
    progress = analysis._by_word(seen.progress(), seen, WORDS)
    contrast = analysis._contrast(seen, WORDS)
    for label, word in enumerate(WORDS):
        for i in range(4):
            z = [seen.latent[i, n].double() for n in range(40) if seen.labels[n] == label]
            for end, other in enumerate(WORDS):
                v = seen.ends[end].double()
                by_hand = sum(float(((x - v) ** 2).sum().sqrt()) for x in z) / len(z)
                assert distance[word][other][i] == pytest.approx(by_hand, rel=1e-5)
            along = sorted(float(x @ seen.ends[label].double()) for x in z)
            mean = sum(along) / len(along)
            assert progress[word]["mean"][i] == pytest.approx(mean, rel=1e-5, abs=1e-6)
            # The 10th percentile of 20 numbers lies 0.9 of the way from the second to the third.
            low = along[1] + 0.9 * (along[2] - along[1])
            assert progress[word]["low"][i] == pytest.approx(low, rel=1e-5, abs=1e-6)
            assert low < mean < progress[word]["high"][i]
            axis = (seen.ends[label] - seen.ends[1 - label]).double()
            across = [float(x @ axis / axis.norm()) for x in z]
            assert contrast[word]["mean"][i] == pytest.approx(sum(across) / 20, rel=1e-5, abs=1e-6)
        # End points are of unit length, so each lies half their distance from the middle.
        assert contrast[word]["end"] == pytest.approx(math.sqrt(0.4**2 + 0.8**2) / 2, rel=1e-5)
        assert len(progress[word]["examples"]) == 12
        assert len(progress[word]["examples"][0]) == 4


def test_the_record_is_json_and_the_same_again() -> None:
    model = tiny_bert().train()
    cost = RunningCost.for_model(model, "ou:theta=3")
    digest = cost.digest()
    first = record(model, cost)
    text = json.dumps(first, allow_nan=False)
    torch.manual_seed(99)
    assert json.dumps(record(model, cost), allow_nan=False) == text
    assert model.training
    assert cost.digest() == digest
    assert first["times"] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert first["labels"] == WORDS
    assert first["examples"] == 24
    bridge = bridges.get("ou", theta=3.0)
    middle = torch.tensor([0.5], dtype=torch.float64)
    assert first["tube"]["t"][50] == 0.5
    assert first["tube"]["mean"][50] == pytest.approx(float(bridge.marginal(middle)[0]), rel=1e-5)
    assert first["tube"]["deviation"][50] == pytest.approx(
        float(bridge.variance(middle).sqrt()), rel=1e-5
    )
    order = [3, 1, 0, 2, *range(4, 24)]
    shuffled = record(model, cost, examples=[EXAMPLES[k] for k in order])
    assert shuffled["distance"]["negative"]["positive"] == pytest.approx(
        first["distance"]["negative"]["positive"], rel=1e-4
    )


def test_a_record_has_all_that_its_pictures_need() -> None:
    found = record(tiny_bert(), RunningCost.for_model(tiny_bert()))
    about = {"task": "sst2", "shots": 4, "pet": "lora", "arm": "ou", "seed": 1, "reader": "brownian"}
    read_back = json.loads(json.dumps([about | found]))
    assert len(analysis_figures(read_back)) == 4


def test_the_lens_scores_by_the_tasks_metric() -> None:
    """Matthews correlation, and probabilities in the whole vocabulary."""
    model = tiny_bert()
    cost = RunningCost.for_model(model)
    task = tasks.get("cola")
    found = record(model, cost, task=task)
    verbalizer = Verbalizer.of_words(TOKENIZER, task.verbalizer)
    classifier = PromptClassifier(model, verbalizer)
    batch = prompts.collate(encoded(), 0)
    with torch.no_grad():
        scores = classifier(**batch).logits
    labels = [e.label for e in EXAMPLES]
    assert found["lens"]["score"][-1] == pytest.approx(
        pets.tasks.metrics.score(task, scores.argmax(1).tolist(), labels)["matthews"], abs=1e-5
    )
    own = scores.exp()[torch.arange(24), torch.tensor(labels)]
    expected = float(own[torch.tensor(labels) == 1].mean())
    assert found["lens"]["probability"]["yes"][-1] == pytest.approx(expected, rel=1e-4)
    assert list(found["lens"]["probability"]) == ["no", "yes"]


def test_several_words_of_a_label_and_parameters_in_each_dimension() -> None:
    model = tiny_bert()
    task = TASK.with_words(["bad,poor", "good"])
    cost = RunningCost.for_model(model, bridges.get("brownian", sigma=[1.0, 2.0]), latent_dim=2)
    found = record(model, cost, task=task)
    assert found["tube"] is None
    assert found["labels"] == ["bad,poor", "good"]
    assert list(found["distance"]["good"]) == ["bad,poor", "good"]


def test_a_prompt_takes_its_positions_from_the_text() -> None:
    model = tuned("prompt", num_virtual_tokens=58)
    cost = RunningCost.for_model(model)
    assert room(model, 32) == 6
    assert record(model, cost)["examples"] == 24
    assert room(tuned("prefix", num_virtual_tokens=58), 32) == 32
    assert room(tiny_bert(), 100) == 40


@pytest.mark.parametrize("bridge", ["sde", "regression", "student"])
def test_readers_without_a_tube_are_refused(bridge: str) -> None:
    model = tiny_bert()
    with pytest.raises(BadInput, match=f"'{bridge}' is not a Gaussian bridge.*'brownian'"):
        record(model, RunningCost.for_model(model, bridge))


@pytest.mark.parametrize("about", ["posterior", "axis"])
def test_a_cost_about_the_label_reads_by_its_process(about: str) -> None:
    model = tiny_bert()
    by_label = RunningCost.for_model(model, bridges.get(about, process="ou", layers="flat"))
    assert record(model, by_label) == record(model, RunningCost.for_model(model, "ou"))


def test_bad_input() -> None:
    model = tiny_bert()
    cost = RunningCost.for_model(model)
    few = [Example("good", 1)] * 9 + [Example("bad", 0)] * 4
    with pytest.raises(BadInput, match=r"'negative': 4 examples.*at least 5"):
        record(model, cost, examples=few)
    with pytest.raises(BadInput, match="an example has label 2; expected 0 to 1"):
        record(model, cost, examples=[*EXAMPLES, Example("x", 2)])
    with pytest.raises(BadInput, match="max_length 3 leaves no room"):
        record(model, cost, max_length=3)
    with pytest.raises(BadInput, match="does not fit the model"):
        record(tiny_model("roberta"), cost)


def test_the_model_is_left_without_a_cost_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert().train()
    cost = RunningCost.for_model(model)
    model(
        input_ids=torch.tensor([[2, 4, 3]]), output_hidden_states=True
    )  # transformers hooks in its own

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    with monkeypatch.context() as patch:
        patch.setattr(RunningCost, "trajectory", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            record(model, cost)
    assert model.training
    assert hooks() == before
    record(model, cost)
    assert hooks() == before
