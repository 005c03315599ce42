"""A model sharded over two processes, by FSDP2 or FSDP1, learns what one process learns.

The ranks are this file run as a script, once for each; see `main`.
"""

from __future__ import annotations

import functools
import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import get_peft_model
from plug_cases import (
    NO_DROPOUT,
    ROWS,
    WEIGHT,
    WORLD,
    Batch,
    assert_same,
    batches,
    part,
)
from processes import run_ranks
from tiny import tiny_bert, tiny_model
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from transformers.models.bert.modeling_bert import BertLayer

import pets
from bridges import BadInput, RunningCost
from pets.methods.prompts import prompt_shape
from pets.tuning.models import load_pet

pytestmark = pytest.mark.slow

STEPS, RATE = 2, 1.0
OPTIONS = {
    "adapter": {"init_weights": False},
    "bitfit": {"init_weights": False},
    "lora": {"init_lora_weights": False},
    "prefix": {"num_virtual_tokens": 4},
    "prompt": {"num_virtual_tokens": 4},
}
# What is sharded: every layer and the rest, or everything as one.
CASES = {f"{pet}, fsdp2": (pet, "fsdp2") for pet in pets.available()} | {
    "lora, fsdp2 before the cost": ("lora", "fsdp2 first"),
    "lora, fsdp2 of the whole": ("lora", "fsdp2 root"),
    "lora, fsdp1": ("lora", "fsdp1"),
    "bitfit, fsdp1": ("bitfit", "fsdp1"),
    "lora, fsdp1 of the whole": ("lora", "fsdp1 root"),
}


def build(pet: str) -> tuple[nn.Module, RunningCost]:
    """A model with a PET, in train mode, and its cost, in float64; the same in every process."""
    torch.manual_seed(0)
    plm = tiny_bert(**NO_DROPOUT)
    cost = RunningCost.for_model(plm, "brownian")
    model = get_peft_model(plm, pets.get(pet, model=plm, **OPTIONS[pet]))
    return model.double().train(), cost.double()


def descend(model: nn.Module, compute: Any, whole: Any) -> dict[str, Tensor]:
    """Plain gradient descent: loss and cost, and how far every step moved every parameter."""
    found, before = {}, whole()
    for step in range(STEPS):
        found[f"{step} values"] = compute(batches()[step])
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.data -= RATE * parameter.grad
                parameter.grad = None
        after = whole()
        found |= {f"{step} step {name}": value - before[name] for name, value in after.items()}
        before = after
    return found | {f"end {name}": value for name, value in before.items()}


# One rank


def unsharded(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trained parameters under the names they have without FSDP."""
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            whole = p.full_tensor() if isinstance(p, DTensor) else p
            found[name.replace("_fsdp_wrapped_module.", "")] = whole.detach().clone()
    return found


def one_rank(rank: int, pet: str, way: str, folder: Path) -> dict[str, Tensor]:
    """What a rank sees: means of loss and cost over ranks, gradients, parameters at the end."""
    inner, cost = build(pet)
    model, layers = inner, inner.get_base_model().bert.encoder.layer
    if way != "fsdp2 first":
        pets.regularize(inner, cost, WEIGHT)
    if way.startswith("fsdp2"):
        for module in [inner] if way == "fsdp2 root" else [*layers, inner]:
            fully_shard(module)
        assert all(len(p.to_local()) < len(p) or len(p) == 1 for p in inner.parameters())
    else:
        policy = None if way == "fsdp1 root" else ModuleWrapPolicy({BertLayer})
        model = FullyShardedDataParallel(
            inner, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
    if way == "fsdp2 first":
        pets.regularize(inner, cost, WEIGHT)

    def compute(batch: Batch) -> Tensor:
        output = model(**part(batch, rank))
        output.loss.backward()
        values = torch.stack([output.loss.detach(), output.running_cost])
        dist.all_reduce(values)
        return values / WORLD

    def whole() -> Any:
        if model is inner:
            return unsharded(inner)
        with FullyShardedDataParallel.summon_full_params(model):
            return unsharded(inner)

    found = descend(model, compute, whole)
    if way == "fsdp2":
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        state = get_model_state_dict(inner, options=options)
        if pet in ("prefix", "prompt"):  # peft computes what it saves of them from the module
            inner.unshard()
        if rank == 0:
            inner.save_pretrained(folder / pet, state_dict=state)
        inner.reshard()
    return found


def a_dropped_prefix(rank: int) -> str:
    """What the first backward pass says where the model does not read its PET."""
    plm = tiny_model("distilbert")
    model = get_peft_model(plm, pets.get("prefix", num_virtual_tokens=3, **prompt_shape(plm))).train()
    plm.enable_input_require_grads()  # else the cost finds that nothing is trained, without a backward
    pets.regularize(model, RunningCost.for_model(plm), WEIGHT)
    fully_shard(model)
    batch = {**part(batches()[0], rank), "attention_mask": torch.ones(ROWS // WORLD, 9)}
    try:
        model(**batch).loss.backward()
        model(**batch)
    except BadInput as error:
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    """All cases in one process group; results go to a file, to be looked at in the test process."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    warnings: list[str] = []
    handler = logging.Handler()
    handler.addFilter(lambda record: "is not fitted" not in record.getMessage())
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("pets").addHandler(handler)
    found: dict[str, Any] = {name: one_rank(rank, *case, folder) for name, case in CASES.items()}
    found["warnings"] = list(warnings)
    found["dropped"] = a_dropped_prefix(rank)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both ranks, and the adapters that rank 0 saved."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(WORLD, [__file__, folder])
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


# All ranks together


@functools.cache
def alone(pet: str) -> dict[str, Tensor]:
    model, cost = build(pet)
    pets.regularize(model, cost, WEIGHT)

    def compute(batch: Batch) -> Tensor:
        output = model(**batch)
        output.loss.backward()
        return torch.stack([output.loss.detach(), output.running_cost])

    return descend(model, compute, lambda: unsharded(model))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does_with_the_whole_batch(
    case: str, ranks: list[dict[str, Any]]
) -> None:
    expected = alone(CASES[case][0])
    assert expected["0 values"][1] > 0.1  # so that leaving the cost out is no rounding error
    # The keys' bias shifts all scores of a softmax: its gradient is rounding and nothing else.
    noise = [name for name in expected if ".key.parametrizations" in name]
    for found in ranks:
        assert_same(
            *({n: v for n, v in side.items() if n not in noise} for side in (found[case], expected))
        )
        # relative to the weights that the step is added to, of size 0.02 and more
        assert all((found[case][n] - expected[n]).abs().max() < 1e-12 for n in noise)


@pytest.mark.parametrize("pet", pets.available())
def test_what_rank_0_saves_is_the_whole_pet(pet: str, folder: Path, ranks: list[dict[str, Any]]) -> None:
    model = load_pet(tiny_bert(**NO_DROPOUT).double(), folder / pet)
    ends = {n[4:]: v for n, v in ranks[0][f"{pet}, fsdp2"].items() if n.startswith("end ")}
    assert ends
    for name, value in ends.items():
        found = model.get_parameter(name)
        assert torch.equal(found, value.to(found.dtype)), name  # peft loads a prompt in float32


def test_the_guard_finds_nothing_missing_but_what_is(ranks: list[dict[str, Any]]) -> None:
    """Where FSDP hands out gradients at the end of the pass, and where it does so at flat parameters."""
    for found in ranks:
        assert found["warnings"] == []
        assert "1 of the PET's 1 trainable tensors got no gradient" in found["dropped"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
