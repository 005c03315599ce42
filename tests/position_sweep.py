"""The position a cost reads against the position the loss reads, for every class of transformers."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from every_class import names, tiny
from tiny import tiny_tokenizer
from torch import Tensor

import pets
from bridges import BadInput, RunningCost
from bridges.model_spec import encoder_of
from bridges.probe import states_of
from bridges.reading import read

MAPPINGS = {
    "masked": "MASKED_LM",
    "causal": "CAUSAL_LM",
    "encoder-decoder": "SEQ_TO_SEQ_CAUSAL_LM",
    "images and text": "IMAGE_TEXT_TO_TEXT",
    "sequence classifier": "SEQUENCE_CLASSIFICATION",
}
CLASSIFIERS = "sequence classifier"
WORDS = ["bad", "good"]
IDS = torch.tensor([[2, 20, 21, 22, 23, 24, 3], [2, 25, 26, 27, 28, 29, 3]])
LABELLED = [(0, 3), (0, 5), (1, 4)]
OF_A_DECODER = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


class Outcome(NamedTuple):
    """What came of a class.

    Attributes:
        kind: "checked", "refused" or "not built".
        what: which position is read, or why not.
    """

    kind: str
    what: str


class Wrong(AssertionError):
    """A cost that reads other positions than the loss."""


def classes(kind: str) -> list[str]:
    return names(MAPPINGS[kind])


def outcome(kind: str, name: str) -> Outcome:
    """Build a model of the class, plug a cost in and compare what is read.

    Raises:
        Wrong: if it is not the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plm = tiny(name)
        except Exception as error:  # whatever stops a tiny one from being built
            return Outcome("not built", _one_line(error))
        try:
            what = _classifier(plm) if kind == CLASSIFIERS else _language_model(plm)
        except BadInput as error:
            return Outcome("refused", _one_line(error).replace(name, "the model"))
    return Outcome("checked", what)


def _language_model(plm: Any) -> str:
    cost = RunningCost.for_model(plm, latent_dim=4)
    mask, labels = torch.ones_like(IDS), torch.full_like(IDS, -100)
    places = OF_A_DECODER if cost.spec.encoder_decoder else LABELLED
    for row, column in places:
        labels[row, column] = IDS[row, column]
    inputs = {"input_ids": IDS, "attention_mask": mask, "labels": labels}
    into_head: list[Tensor] = []
    head = plm.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: into_head.extend(given)) if head else None
    with pets.regularize(plm, cost, in_eval=True):
        output = plm(**inputs, output_hidden_states=True)
    if hook:
        hook.remove()
    states = states_of(output)
    assert states is not None
    where = read(cost.spec, labels, None if cost.spec.encoder_decoder else mask)
    mine = list(zip(where.rows.tolist(), where.columns.tolist(), strict=True))
    for made in (output.logits, *into_head):
        (gradient,) = torch.autograd.grad(output.loss, made, retain_graph=True, allow_unused=True)
        if gradient is not None:
            break
    used = gradient.abs().double().sum(-1).reshape(len(IDS), -1, IDS.shape[1]).sum(1) > 1e-9
    if mine != (theirs := [tuple(pair) for pair in used.nonzero().tolist()]):
        raise Wrong(f"the loss reads {theirs}, the cost {mine} for labels at {places}")
    expected = cost(states, labels, None if cost.spec.encoder_decoder else mask)
    torch.testing.assert_close(output.running_cost, expected.detach())
    _check_encoder(plm, cost)
    return cost.reads


def _classifier(plm: Any) -> str:
    cost = RunningCost.for_model(plm, latent_dim=4)
    words = pets.Verbalizer.of_words(tiny_tokenizer(), WORDS)
    mask, labels = torch.ones_like(IDS), torch.tensor([1, 0])
    with pets.regularize(plm, cost, in_eval=True, verbalizer=words):
        output = plm(input_ids=IDS, attention_mask=mask, labels=labels, output_hidden_states=True)
    states = states_of(output)
    assert states is not None
    (gradient,) = torch.autograd.grad(output.logits.sum(), states[-1], retain_graph=True)
    used = gradient.abs().double().sum(-1) > 1e-9
    targets = torch.where(used, labels[:, None], -100)
    expected = cost(states, targets, mask, labels=words.ends(cost), in_place=True)
    if not torch.allclose(output.running_cost, expected):
        raise Wrong(f"the head reads {used.nonzero().tolist()}, the cost something else")
    return {0: "the first", IDS.shape[1] - 1: "the last"}.get(int(used[0].nonzero()[0]), "another")


def _check_encoder(plm: Any, cost: RunningCost) -> None:
    """What a fit runs gives the states of the whole model."""
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    if cost.spec.encoder_decoder:
        inputs["decoder_input_ids"] = IDS
    with torch.no_grad():
        whole, alone = (
            states_of(m(**inputs, output_hidden_states=True, return_dict=True))
            for m in (plm, encoder_of(plm))
        )
    torch.testing.assert_close(alone, whole)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return text[:160] + (" ..." if len(text) > 160 else "")
