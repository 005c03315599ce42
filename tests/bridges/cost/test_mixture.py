"""Labels with several words: mixtures over end points, and where targets are read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor

from bridges import BadInput, LabelEnds, RunningCost
from bridges.cost.documents import Layout
from bridges.cost.targets import read
from bridges.fitting.batches import encoder_decoder_batch

IDS = torch.tensor([[2, 5, 10, 11, 6, 7, 3], [2, 6, 12, 5, 20, 7, 3]])
CLASSES = torch.full_like(IDS, -100)
CLASSES[0, 2], CLASSES[1, 3], CLASSES[1, 5] = 0, 1, 2
BRIDGES = ["brownian", "ou:theta=2", "sde", "student:nu=3", "random:keep=1", "kinetic"]


def new_cost(bridge: str = "brownian") -> tuple[RunningCost, tuple[Tensor, ...]]:
    """In float64, with the states of a tiny BERT."""
    plm = tiny_bert()
    with torch.no_grad():
        hidden = plm.bert(IDS, output_hidden_states=True).hidden_states
    return RunningCost.for_model(plm, bridge, latent_dim=8).double(), tuple(h.double() for h in hidden)


def value(cost: RunningCost, hidden: Any, targets: Tensor, **options: Any) -> Tensor:
    return cost(hidden, targets, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_labels_of_one_word_are_that_word(bridge: str) -> None:
    cost, hidden = new_cost(bridge)
    ends = LabelEnds.of_words(cost.end_points, [[[7]], [[9]], [[30]]])
    tokens = torch.tensor([7, 9, 30])[CLASSES.clamp(min=0)].where(CLASSES != -100, -100)
    mine, plain = value(cost, hidden, CLASSES, labels=ends), value(cost, hidden, tokens)
    torch.testing.assert_close(mine, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_a_mixture_is_the_log_likelihood_of_the_whole_path(bridge: str) -> None:
    """-log(sum_k w_k exp(-n c_k)) / n, with c_k the cost of a token towards word k alone."""
    cost, hidden = new_cost(bridge)
    words = [[[7], [9]], [[30]], [[10], [11], [12]]]
    weights = [[1.0, 3.0], [5.0], [1.0, 1.0, 2.0]]
    ends = LabelEnds.of_words(cost.end_points, words, weights)
    layers = 1 if bridge == "sde" else len(hidden)
    rows, columns = (CLASSES != -100).nonzero(as_tuple=True)
    total = torch.zeros(())
    for n, (row, column) in enumerate(zip(rows, columns, strict=True)):
        label = int(CLASSES[row, column])
        terms = []
        for (token,), weight in zip(words[label], weights[label], strict=True):
            # All tokens of the batch stay targets, or an SDE would draw them other noise.
            targets = torch.full_like(IDS, token).where(CLASSES != -100, -100)
            each = cost.bridge.cost(
                cost.latent_map,
                cost.trajectory(hidden, targets)[0],
                cost.end_points(targets[targets != -100]),
                generator=torch.Generator().manual_seed(0),
            )
            terms.append(weight / sum(weights[label]) * torch.exp(-layers * each[n]))
        total = total - torch.stack(terms).sum().log() / layers / len(rows)
    torch.testing.assert_close(value(cost, hidden, CLASSES, labels=ends), total, rtol=1e-10, atol=0)


def test_its_gradient_is_that_of_the_likely_word_and_no_padding_leaks_in() -> None:
    """A label with fewer words than others has no end point at zero: the gradient is exact."""
    cost, hidden = new_cost()
    one, three = [[7]], [[7], [9], [30]]
    targets = torch.full_like(IDS, -100)
    targets[0, 2] = 0
    leaves = [h.clone().requires_grad_() for h in hidden]
    alone = LabelEnds.of_words(cost.end_points, [one, three])
    found = torch.autograd.grad(value(cost, leaves, targets, labels=alone), leaves)
    plain = torch.autograd.grad(value(cost, leaves, torch.where(targets == 0, 7, -100)), leaves)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-15)
    # With nearly all weight on one word the mixture is that word, up to a constant.
    heavy = LabelEnds.of_words(cost.end_points, [three], [[1.0, 1e-300, 1e-300]])
    found = torch.autograd.grad(value(cost, leaves, targets, labels=heavy), leaves)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)


def test_a_mixture_costs_at_most_its_best_word_and_its_weight() -> None:
    cost, hidden = new_cost()
    targets = torch.full_like(IDS, -100)
    targets[0, 2] = 0
    mixed = value(cost, hidden, targets, labels=LabelEnds.of_words(cost.end_points, [[[7], [9]]]))
    each = [value(cost, hidden, torch.where(targets == 0, t, -100)) for t in (7, 9)]
    assert min(each) - 1e-9 <= mixed <= min(each) + math.log(2) / len(hidden)


@pytest.mark.parametrize(
    ("words", "weights", "message"),
    [
        ([[[7]], []], None, "label 1 has no words"),
        ([[[]]], None, r"word of tokens \[\]: expected ids from 0 to 62"),
        ([[[63]]], None, r"word of tokens \[63\]: expected ids from 0 to 62"),
        ([[[7], [9]]], [[1.0]], r"weights \[1.0\] of label 0: expected 2 finite numbers above 0"),
        ([[[7]]], [[0.0]], r"weights \[0.0\] of label 0"),
        ([[[7]]], [[float("nan")]], r"weights \[nan\] of label 0"),
    ],
)
def test_bad_words_are_refused(words: Any, weights: Any, message: str) -> None:
    cost, _ = new_cost()
    with pytest.raises(BadInput, match=message):
        LabelEnds.of_words(cost.end_points, words, weights)


def test_words_that_cancel_are_refused() -> None:
    cost, _ = new_cost()
    cost.end_points.vectors[9] = -cost.end_points.vectors[7]
    with pytest.raises(BadInput, match=r"the end points of tokens \[7, 9\] cancel"):
        LabelEnds.of_words(cost.end_points, [[[7, 9]]])


def test_a_label_out_of_range_is_refused() -> None:
    cost, hidden = new_cost()
    ends = LabelEnds.of_words(cost.end_points, [[[7]], [[9]]])
    with pytest.raises(BadInput, match="targets from 0 to 2: expected labels from 0 to 1, or -100"):
        cost(hidden, CLASSES, labels=ends)


# Where targets are read


def test_a_causal_model_in_place_reads_at_the_target_with_all_as_context() -> None:
    cost = RunningCost.for_model(tiny_llama())
    mask = torch.ones_like(IDS)
    mask[0, :1] = 0
    where = read(cost.spec, CLASSES, Layout.of((2, 7), mask), classes=3, in_place=True)
    assert where.rows.tolist() == [0, 1, 1]
    assert where.columns.tolist() == [2, 3, 5]
    assert where.targets.tolist() == [0, 1, 2]
    assert torch.equal(where.context, mask.bool())
    shifted = read(cost.spec, CLASSES, Layout.of((2, 7), mask), classes=3)
    assert shifted.columns.tolist() == [1, 2, 4]
    assert shifted.context.tolist() == [[False, True, *[False] * 5], [*[True] * 3, *[False] * 4]]


def test_a_decoder_reads_at_the_target_with_what_it_has_seen_as_context() -> None:
    """Its input at position s is the target before s: the first one that is read has seen no answer."""
    cost = RunningCost.for_model(tiny_model("t5"))
    assert cost.spec.encoder_decoder
    assert not cost.spec.causal
    where = read(cost.spec, CLASSES, Layout.of((2, 7)), classes=3)
    assert where.columns.tolist() == [2, 3, 5]
    assert where.context.tolist() == [[*[True] * 3, *[False] * 4], [*[True] * 4, *[False] * 3]]


@pytest.mark.parametrize(
    ("model_type", "head", "causal"),
    [
        ("bert", "ForSequenceClassification", False),
        ("bert", "ForTokenClassification", False),
        ("llama", "ForSequenceClassification", True),
        ("gpt2", "ForSequenceClassification", True),
        ("modernbert", "ForSequenceClassification", False),
        ("t5", "ForSequenceClassification", False),
    ],
)
def test_a_classifiers_kind_is_its_backbones(model_type: str, head: str, causal: bool) -> None:
    """So a cost fitted with the language model fits a classifier on the same weights."""
    plm = tiny_model(model_type)
    classifier = tiny_model(model_type, head=head)
    classifier.base_model.load_state_dict(plm.base_model.state_dict(), strict=False)
    cost = RunningCost.for_model(plm)
    assert cost.spec.causal is causal
    cost.check_model(classifier)


def test_rows_of_an_encoder_decoder_are_cut_in_two() -> None:
    rows = [list(range(5, 15)), [20, 21], list(range(30, 37))]
    batch = encoder_decoder_batch(rows, tiny_tokenizer(), start=1, rng=torch.Generator().manual_seed(0))
    assert batch.decoder_input_ids is not None
    for k, row in enumerate(rows):
        seen = batch.input_ids[k][batch.attention_mask[k].bool()].tolist()
        targets = batch.targets[k][batch.targets[k] != -100].tolist()
        assert seen
        assert targets
        assert seen + targets == row
        assert batch.decoder_input_ids[k, : len(targets)].tolist() == [1, *targets[:-1]]
    assert (batch.target_mask == 1).all()
    assert batch.target_mask.shape == batch.targets.shape
