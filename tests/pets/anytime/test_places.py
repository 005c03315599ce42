"""What an anytime classifier refuses, in one line each: models, costs, words, inputs, examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anytime_cases import CLASSIFIER, LAYERS, MASK, TOKENIZER, WORDS, batch, cost_of, labelled, plm_of
from tiny import tiny_model
from torch import nn

from bridges import BadInput, RunningCost
from pets import AnytimeClassifier, Verbalizer
from pets.tasks.classifier import PromptClassifier


def new(model: nn.Module | None = None, cost: Any = None, words: Any = WORDS, **options: Any) -> Any:
    model = plm_of("bert") if model is None else model
    return AnytimeClassifier(model, cost_of("bert") if cost is None else cost, words, **options)


@pytest.mark.parametrize("threshold", [0, 1, 0.0, 1.0, -0.1, float("nan"), "x", "0.9", True, None])
def test_a_threshold_that_is_no_probability_is_refused(threshold: Any) -> None:
    message = r"threshold=.*: expected a probability between 0 and 1, as 0\.9"
    with pytest.raises(BadInput, match=message):
        new(threshold=threshold)
    anytime = new()
    with pytest.raises(BadInput, match=message):
        anytime.threshold = threshold
    assert anytime.threshold == 0.9


@pytest.mark.parametrize("layers", [0, LAYERS, 1.5, "3", [], [1, 0], [2.0], -1, True, ["2"], {}])
def test_layers_that_are_none_are_refused(layers: Any) -> None:
    with pytest.raises(BadInput, match=r"layer .*: expected one from 1 to 3|layers is empty"):
        new(layers=layers)


def word(text: str) -> Verbalizer:
    return Verbalizer(("a", "b"), (("a",), (text,)), (((7,),), ((9, 10),)), MASK)


def compiled_in_place() -> nn.Module:
    model = plm_of("bert")
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "brownian"}, r"expected a bridges\.RunningCost"),
        ({"cost": lambda: RunningCost.for_model(plm_of("bert"))}, "make the cost with map='lens'"),
        ({"cost": lambda: cost_of("gpt2")}, "does not fit the model"),
        (
            {"cost": lambda: RunningCost.for_model(plm_of("bert"), "student", map="lens", latent_dim=8)},
            "'student' has no Gaussian law",
        ),
        ({"words": None}, r"verbalizer=None: expected the words of the labels"),
        ({"words": {"a": "bad", "b": "good"}}, r"verbalizer=.*: expected the words"),
        ({"words": lambda: word("very good")}, "label word 'very good' is several tokens"),
        ({"words": lambda: Verbalizer.of_words(TOKENIZER, ["bad"])}, "has one label, bad: expected two"),
        (
            {"words": lambda: Verbalizer(WORDS.labels, WORDS.words, WORDS.tokens)},
            "tells the label at a mask, and the verbalizer knows of none",
        ),
        ({"together": 1}, "together=1: expected True or False"),
        ({"model": lambda: PromptClassifier(plm_of("bert"), WORDS)}, "give the model inside"),
        ({"model": lambda: torch.compile(plm_of("bert"), backend="eager")}, "is compiled, and what"),
        ({"model": compiled_in_place}, "is compiled, and what"),
        ({"model": lambda: nn.Linear(2, 2)}, "holds no transformers model"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    made = {k: v() if callable(v) and not isinstance(v, nn.Module) else v for k, v in options.items()}
    with pytest.raises(BadInput, match=message):
        new(**made)


@pytest.mark.parametrize(
    ("name", "changes", "words", "message"),
    [
        (
            "bert",
            {"num_labels": 3},
            WORDS,
            "2 labels .* and the BertForSequenceClassification 3 classes",
        ),
        (
            "bert",
            {"problem_type": "multi_label_classification"},
            WORDS,
            "tells several labels at once",
        ),
    ],
)
def test_classifiers_that_do_not_fit_are_refused(
    name: str, changes: dict[str, Any], words: Verbalizer, message: str
) -> None:
    model = plm_of(name, CLASSIFIER, **changes)
    cost = RunningCost.for_model(model, map="lens", latent_dim=8)
    with pytest.raises(BadInput, match=message):
        new(model, cost, words)


def test_models_without_one_label_a_row_are_refused() -> None:
    tokens = plm_of("bert", "ForTokenClassification")
    cost = RunningCost.for_model(tokens, map="lens", latent_dim=8)
    with pytest.raises(BadInput, match="tells a label at every token: expected one label for a row"):
        new(tokens, cost)
    t5 = tiny_model("t5")
    cost = RunningCost.for_model(t5, map="lens", latent_dim=8)
    with pytest.raises(BadInput, match="T5ForConditionalGeneration has an encoder and a decoder"):
        new(t5, cost)
    thin = tiny_model("bert", num_hidden_layers=1)
    cost = RunningCost.for_model(thin, map="lens", latent_dim=8)
    with pytest.raises(BadInput, match="has 1 layer: there is none before the last to leave at"):
        new(thin, cost)


IDS = batch(3, masked=True)["input_ids"]
ONES = torch.ones_like(IDS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input_ids=None: expected token ids"),
        ({"inputs_embeds": torch.zeros(2, 4, 32)}, r"input_ids=None: expected token ids \[B, S\]"),
        ({"input_ids": IDS[:0]}, r"input_ids of shape \(0, 8\): expected one row or more"),
        ({"input_ids": IDS[0]}, r"expected token ids \[B, S\]"),
        (
            {"input_ids": IDS.clamp(min=6)},
            "a row has 0 mask tokens: BertForMaskedLM is read at one place",
        ),
        ({"input_ids": torch.full((2, 4), MASK)}, "a row has 4 mask tokens"),
        (
            {"input_ids": IDS, "attention_mask": ONES[:, :-1]},
            r"attention_mask \(3, 7\): expected \(3, 8\)",
        ),
        ({"input_ids": IDS, "past_key_values": ()}, "past_key_values was given: an early answer is of"),
    ],
)
def test_inputs_that_do_not_say_where_are_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        new()(**inputs)


def test_a_prompt_without_tokens_is_refused() -> None:
    anytime = new(plm_of("llama"), cost_of("llama"))
    mask = ONES.clone()
    mask[1] = 0
    with pytest.raises(BadInput, match="a row of attention_mask is all 0: expected a prompt"):
        anytime(input_ids=IDS, attention_mask=mask)
    labels = torch.full_like(IDS, -100)
    labels[:, 0] = 9
    with pytest.raises(BadInput, match="a row's label is its first token"):
        anytime(input_ids=IDS, labels=labels)


def with_labels(labels: Any) -> list[dict[str, Any]]:
    return [{"input_ids": IDS, "labels": labels}]


TOKENS = torch.full_like(IDS, -100)
TOKENS[:, 3] = 40


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there are no batches"),
        (with_labels(torch.zeros(3).long())[0], "batches are a dict: expected several"),
        (None, "batches are a NoneType"),
        ([3], "batch 0 is 3: expected what the model is called with"),
        ([{"input_ids": IDS}], "the batches have no labels: exits learn from labelled examples"),
        (
            [*with_labels(torch.tensor([0, 1, 0])), {"input_ids": IDS}],
            "some batches have labels and some",
        ),
        (with_labels(torch.tensor([0, 1, 2])), "labels from 0 to 2: expected class indices from 0 to 1"),
        (with_labels(torch.tensor([0, -1, 1])), "labels from -1 to 1: expected class indices"),
        (with_labels(torch.tensor([0.0, 1, 0])), r"labels=.*: expected class indices \[B\]"),
        (with_labels(torch.tensor([True, False, True])), r"labels=.*: expected class indices \[B\]"),
        (with_labels([0, 1, 0]), r"labels=\[0, 1, 0\]: expected class indices \[B\]"),
        (with_labels(torch.tensor([0, 1])), r"labels of shape \(2,\) for input_ids of \(3, 8\)"),
        (with_labels(torch.zeros(3, 1, 1).long()), r"expected class indices \[B\]"),
        (with_labels(TOKENS[:, :5]), r"labels of shape \(3, 5\) for input_ids"),
        (with_labels(TOKENS), "target token 40 is none of the verbalizer's words"),
        (with_labels(torch.where(TOKENS == 40, 10**6, -100)), "target token 1000000 is none of"),
        (with_labels(torch.where(TOKENS == 40, -5, -100)), "target token -5 is none of"),
        (with_labels(torch.full_like(IDS, -100)), "a row has 0 labels that are not -100"),
        (with_labels(torch.tensor([0, 1, 1])), r"\[1, 2\] examples of the labels: .*each twice"),
    ],
)
def test_examples_that_do_not_fit_are_refused(batches: Any, message: str) -> None:
    anytime = new()
    with pytest.raises(BadInput, match=message):
        anytime.fit(batches)


def test_inputs_that_are_not_the_models_are_named() -> None:
    """A column of a data set, which a model with keyword arguments hands on to its layers."""
    anytime = new(threshold=1e-6).fit(labelled(2, masked=True))
    inputs = batch(8, masked=True, seed=9)
    anytime.threshold = anytime(**inputs).probabilities.amax(1).median().item()  # some leave, some stay
    assert len(anytime(**inputs).layers.unique()) > 1
    with pytest.raises(BadInput, match=r"a tensor of 8, 'idx', on its way .* no input of the model"):
        anytime(**inputs, idx=torch.arange(8))


def test_a_classifiers_labels_are_classes() -> None:
    anytime = new(plm_of("bert", CLASSIFIER), cost_of("bert", CLASSIFIER))
    with pytest.raises(BadInput, match=r"labels of shape \(3, 8\): expected class indices \[B\]"):
        anytime.fit(with_labels(TOKENS))


def test_examples_whose_states_are_no_numbers_are_refused() -> None:
    model = plm_of("bert")
    anytime = new(model)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.bias[0] = float("nan")
    with pytest.raises(BadInput, match="not all finite"):
        anytime.fit(labelled(2, masked=True))
    with pytest.raises(BadInput, match=r"odds of shape .*: expected finite ones"):
        anytime.calibrate(labelled(2, masked=True))
