"""Regularizers that run the model twice, on two processes, by DDP and by FSDP2: as one process does.

Their noise is a function of the words here, so that it is the same wherever a text is read.
The ranks are this file run as a script, once for each; see `main`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import get_peft_model
from plug_cases import NO_DROPOUT, WORLD, assert_same, batches, part
from processes import run_ranks
from tiny import tiny_bert
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import pets
from bridges import RunningCost
from pets.regularizers import R3F, RDrop
from pets.regularizers.noise import noisy_words

pytestmark = pytest.mark.slow

STEPS, RATE = 2, 1.0


class FixedR3F(R3F):
    """With noise that is a function of the words."""

    def _noise(self, words: Tensor) -> Tensor:
        return self._sigma * (50 * words).sin()


class FixedRDrop(RDrop):
    """With the same in the place of dropout, other in every second forward."""

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        self._model, self._forwards = model, 0

    def around(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        self._forwards += 1
        factor = 50 + self._forwards % 2
        return noisy_words(self._model, lambda words: 0.05 * (factor * words).sin())


KINDS = {"r3f": FixedR3F, "r-drop": FixedRDrop}
WAYS = ("ddp", "fsdp2")


def build(name: str | None) -> nn.Module:
    """In float64, with a cost beside what runs twice; the same in every process."""
    torch.manual_seed(0)
    plm = tiny_bert(**NO_DROPOUT)
    cost = RunningCost.for_model(plm)
    model = get_peft_model(plm, pets.get("lora", init_lora_weights=False)).double().train()
    twice = [KINDS[name](weight=20.0)] if name else []
    pets.regularize(model, [(cost.double(), 0.5), *twice])
    return model  # type: ignore[no-any-return]


def descend(inner: nn.Module, model: Any, given: Any) -> dict[str, Tensor]:
    """Plain gradient descent: the losses, and where the parameters end."""
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        loss = model(**given(batches()[step])).loss
        loss.backward()
        found[f"{step} loss"] = loss.detach()
        for name, parameter in inner.named_parameters():
            if parameter.grad is not None:
                moved = RATE * parameter.grad
                found[f"{step} {name}"] = moved.full_tensor() if isinstance(moved, DTensor) else moved
                parameter.data -= moved
                parameter.grad = None
    return found


def one_rank(rank: int, name: str, way: str) -> dict[str, Tensor]:
    inner: Any = build(name)
    model: Any = inner
    if way == "ddp":
        model = DistributedDataParallel(inner)
    else:
        for module in (*inner.get_base_model().bert.encoder.layer, inner):
            fully_shard(module)
    found = descend(inner, model, lambda batch: part(batch, rank))
    for step in range(STEPS):
        dist.all_reduce(found[f"{step} loss"])
        found[f"{step} loss"] /= WORLD
    return found


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found = {f"{name} {way}": one_rank(rank, name, way) for name in KINDS for way in WAYS}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(WORLD, [__file__, folder])
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_two_processes_do_what_one_does_with_the_whole_batch(
    name: str, way: str, ranks: list[dict[str, Any]]
) -> None:
    expected = descend(model := build(name), model, lambda batch: batch)
    plain = descend(model := build(None), model, lambda batch: batch)
    assert (expected["0 loss"] - plain["0 loss"]).abs() > 1e-3
    for found in ranks:
        assert_same(found[f"{name} {way}"], expected)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
