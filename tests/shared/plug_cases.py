"""What several tests of the plug use: models with their costs, batches, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from peft import get_peft_model
from tiny import tiny_bert, tiny_llama
from torch import Tensor, nn
from transformers import PreTrainedModel

import pets
from bridges import RunningCost
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer

WEIGHT = 0.7
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

Batch = dict[str, Tensor]


class Setup(NamedTuple):
    """A model in train mode without dropout, the language model in it, and its cost."""

    model: nn.Module
    plm: PreTrainedModel
    cost: RunningCost


def bert_without_dropout() -> PreTrainedModel:
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def with_lora(plm: PreTrainedModel) -> nn.Module:
    # Not the usual start: there B = 0 and the factor A has no gradient.
    return get_peft_model(plm, pets.get("lora", init_lora_weights=False))  # type: ignore[no-any-return]


def classifier_with_lora(plm: PreTrainedModel) -> nn.Module:
    every_token = tuple(map(str, range(63)))  # a class each, so that labels are tokens and classes alike
    words = Verbalizer(every_token, tuple((w,) for w in every_token), tuple(((i,),) for i in range(63)))
    return PromptClassifier(with_lora(plm), words)


KINDS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[PreTrainedModel], nn.Module]]] = {
    "bert": (bert_without_dropout, lambda plm: plm),
    "bert-lora": (bert_without_dropout, with_lora),
    "llama": (tiny_llama, lambda plm: plm),
    "llama-lora": (tiny_llama, with_lora),
    "classifier": (bert_without_dropout, classifier_with_lora),
}


LENSES = ("llama-lora@lens", "classifier@lens")
"""Kinds whose cost reads through a lens."""


def build(kind: str) -> Setup:
    torch.manual_seed(0)
    name, _, reader = kind.partition("@")
    make, wrap = KINDS[name]
    plm = make()
    cost = RunningCost.for_model(plm, map=reader or "mlp")
    return Setup(wrap(plm).train(), plm, cost)


def make_batch(rows: int = 4, length: int = 9) -> dict[str, Tensor]:
    """Two targets a row, so that means over parts of a batch agree with the mean over all of it."""
    ids = torch.randint(5, 63, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(ids, -100)
    labels[:, [3, 6]] = ids[:, [3, 6]]
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(named[n]) if g is None else g for n, g in zip(named, found, strict=True)}


ROWS, STEPS, WORLD = 4, 3, 2
"""Of a batch, batches, and processes that share each."""


def batches(count: int = STEPS) -> list[Batch]:
    """Two targets in each row, so that every part of a batch has its share of them."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 63, (ROWS, 9), generator=generator)
        labels = torch.full_like(ids, -100)
        labels[:, [3, 6]] = ids[:, [3, 6]]
        mask = torch.ones_like(ids)
        mask[0, 7:] = 0
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def part(batch: Batch, rank: int) -> Batch:
    return {name: value.chunk(WORLD)[rank] for name, value in batch.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        # the same terms, added up in another order
        assert (found[name] - value).norm() <= 1e-5 * value.norm(), name
