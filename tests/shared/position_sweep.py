"""The position a cost reads against the position the loss reads, for every class of transformers."""

from __future__ import annotations

import re
import warnings
from typing import Any, NamedTuple

import torch
import transformers
from every_class import names, tiny
from tiny import tiny_tokenizer
from torch import Tensor

import pets
from bridges import BadInput, RunningCost
from bridges.cost.documents import Layout
from bridges.cost.targets import read
from bridges.model.forward import states_of
from bridges.model.spec import encoder_of

MAPPINGS = {
    "masked": "MASKED_LM",
    "causal": "CAUSAL_LM",
    "encoder-decoder": "SEQ_TO_SEQ_CAUSAL_LM",
    "images and text": "IMAGE_TEXT_TO_TEXT",
    "sequence classifier": "SEQUENCE_CLASSIFICATION",
}
CLASSIFIERS = "sequence classifier"
WORDS = ["bad", "good", "fine"]
IDS = torch.tensor([[2, 20, 21, 22, 23, 24, 3], [2, 25, 26, 27, 28, 29, 3]])
LABELLED = [(0, 3), (0, 5), (1, 4)]
OF_A_DECODER = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


class Outcome(NamedTuple):
    """What came of a class.

    Attributes:
        kind: "checked", "refused", "not built", or "stops" where it is refused by no message of ours.
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
        except Wrong:
            raise
        except Exception as error:  # that the model itself stops with
            return Outcome("stops", f"{type(error).__name__}: {_one_line(error)}")
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
    seen = None if cost.spec.encoder_decoder else mask
    where = read(cost.spec, labels, Layout.of((len(IDS), IDS.shape[1]), seen))
    mine = list(zip(where.rows.tolist(), where.columns.tolist(), strict=True))
    for made in (output.logits, *into_head):
        (gradient,) = torch.autograd.grad(output.loss, made, retain_graph=True, allow_unused=True)
        if gradient is not None:
            break
    used = gradient.abs().double().sum(-1).reshape(len(IDS), -1, IDS.shape[1]).sum(1) > 1e-9
    if mine != (theirs := [tuple(pair) for pair in used.nonzero().tolist()]):
        raise Wrong(f"the loss reads {theirs}, the cost {mine} for labels at {places}")
    expected = cost(states, labels, seen)
    torch.testing.assert_close(output.running_cost, expected.detach())
    _check_encoder(plm, cost)
    return cost.reads


def _classifier(plm: Any) -> str:
    cost = RunningCost.for_model(plm, latent_dim=4)
    words = pets.Verbalizer.of_words(tiny_tokenizer(), WORDS[: plm.config.num_labels])
    mask, labels = torch.ones_like(IDS), torch.tensor([1, 0])
    last: list[Tensor] = []  # what the head gets; the states are copies in some models
    hook = encoder_of(plm).register_forward_hook(lambda *given: last.append(given[-1].last_hidden_state))
    with pets.regularize(plm, cost, in_eval=True, verbalizer=words):
        output = plm(input_ids=IDS, attention_mask=mask, labels=labels, output_hidden_states=True)
    hook.remove()
    states = states_of(output)
    assert states is not None
    (gradient,) = torch.autograd.grad(output.logits.sum(), last[-1], retain_graph=True)
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
    text = text.removeprefix("which state predicts a label cannot be asked of the model: ")
    text = text.partition(" Say it: ")[0]
    return text[:160] + (" ..." if len(text) > 160 else "")


Results = dict[str, dict[str, Outcome]]
KINDS = ("checked", "refused", "stops", "wrong", "not built")
HEADING = "## Which position is read"


def everything() -> Results:
    """What comes of every class: about a minute and a half."""
    found: Results = {}
    for kind in MAPPINGS:
        found[kind] = {}
        for name in classes(kind):
            try:
                found[kind][name] = outcome(kind, name)
            except Wrong as error:
                found[kind][name] = Outcome("wrong", str(error))
    return found


def section(results: Results) -> str:
    """The part of docs/support.md on it."""
    rows = [f"| classes | {' | '.join(KINDS)} |", "| --- |" + " --- |" * len(KINDS)]
    for kind, found in results.items():
        counts = [sum(o.kind == k for o in found.values()) for k in KINDS]
        rows.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    lists = "\n\n".join(
        f"### {kind[0].upper()}{kind[1:]}\n\n{_list(of)}" for kind, of in results.items()
    )
    return f"""{HEADING}

Transformers {transformers.__version__}. Every class of its auto mappings, built at tiny size: the
position whose state the cost reads is the one that the loss reads (by its gradient), or the model is
refused with a message. "stops" is another error; "not built" are those that do not become small by
general rules, or need packages that are not installed. Models of images and text are run on text alone.
A language model that cannot be asked can be told: `RunningCost.for_model(plm, reads="next")`, or "same".

{chr(10).join(rows)}

{lists}
"""


def _list(found: dict[str, Outcome]) -> str:
    lines = []
    for what in sorted({o.what for o in found.values() if o.kind == "checked"}):
        lines.append(
            f"- checked, {what}: {', '.join(n for n, o in found.items() if o == ('checked', what))}"
        )
    for kind in KINDS[1:]:
        reasons = dict.fromkeys(o.what for o in found.values() if o.kind == kind)
        for what in reasons:
            named = ", ".join(n for n, o in found.items() if o == (kind, what))
            lines.append(f"- {kind}, {_escaped(what)}: {named}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return re.sub(r"([<>*_`\[\]])", r"\\\1", text).replace(":", ";")


def listed(text: str) -> dict[str, dict[str, tuple[str, str]]]:
    """The written section: for each kind of classes, what it says of each of them."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for part in text.split("\n### ")[1:]:
        title, _, lines = part.partition("\n")
        entries = found[title[0].lower() + title[1:]] = {}
        for line in lines.strip().splitlines():
            said, _, of = line.removeprefix("- ").rpartition(": ")
            kind, _, what = said.partition(", ")
            entries |= dict.fromkeys(of.split(", "), (kind, what))
    return found
