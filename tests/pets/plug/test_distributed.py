"""Several processes, accumulated batches and interrupted runs end where one plain run does.

The distributed part is this file run as a script, once for each rank; see `main`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState
from peft import get_peft_model
from plug_cases import NO_DROPOUT, ROWS, STEPS, WEIGHT, WORLD, assert_same, batches, part
from processes import run_ranks
from tiny import tiny_bert
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

import pets
from bridges import RunningCost

pytestmark = pytest.mark.slow

RATE = 1.0
DRAWS = 100
"""Of the SDE's noise, for the test in law."""


def build(bridge: str, **changes: Any) -> tuple[nn.Module, RunningCost]:
    """A model with a LoRA, in train mode, and its cost, in float64; the same in every process."""
    torch.manual_seed(0)
    plm = tiny_bert(**changes)
    cost = RunningCost.for_model(plm, bridge)
    # Not the usual start: there B = 0 and the factor A has no gradient.
    model = get_peft_model(plm, pets.get("lora", init_lora_weights=False))
    return model.double().train(), cost.double()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def descend(inner: nn.Module, compute: Any) -> dict[str, Tensor]:
    """Plain gradient descent; ``compute(step)`` leaves the gradients and returns loss and cost."""
    found = {}
    parameters = trainable(inner)
    for step in range(STEPS):
        found[f"{step} values"] = compute(step)
        for name, parameter in parameters.items():
            assert parameter.grad is not None, name
            found[f"{step} gradient {name}"] = parameter.grad.clone()
            parameter.data -= RATE * parameter.grad
            parameter.grad = None
    return found | {f"end {n}": p.detach().clone() for n, p in parameters.items()}


# One rank


def one_rank(rank: int, bridge: str, place: str, **options: Any) -> dict[str, Tensor]:
    """What rank ``rank`` sees: means of loss and cost over ranks, gradients, parameters at the end."""
    inner, cost = build(bridge, **NO_DROPOUT)
    if place == "inner":
        pets.regularize(inner, cost, WEIGHT)
    model = DistributedDataParallel(inner, **options)
    if place == "wrapped":
        pets.regularize(model, cost, WEIGHT)

    def compute(step: int) -> Tensor:
        torch.manual_seed(noise_seed(step, rank))
        output = model(**part(batches()[step], rank))
        output.loss.backward()
        values = torch.stack([output.loss.detach(), output.running_cost])
        dist.all_reduce(values)
        return values / WORLD

    return descend(inner, compute)


def noise_seed(step: int, rank: int) -> int:
    return 100 * step + rank


def draws(rank: int) -> Tensor:
    """The cost of one batch, averaged over ranks, under many draws of noise."""
    inner, cost = build("sde", **NO_DROPOUT)
    pets.regularize(inner, cost, WEIGHT)
    model = DistributedDataParallel(inner)
    torch.manual_seed(rank)
    batch = part(batches()[0], rank)
    values = torch.stack([model(**batch).running_cost for _ in range(DRAWS)])
    dist.all_reduce(values)
    return values / WORLD


# With these options DDP takes the output apart and builds it anew; the Trainer sets the first.
UNUSED, STATIC = {"find_unused_parameters": True}, {"static_graph": True}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "brownian": ("brownian", "inner", {}),
    "brownian-wrapped": ("brownian", "wrapped", {}),
    "brownian-unused": ("brownian", "inner", UNUSED),
    "brownian-static": ("brownian", "inner", STATIC),
    "brownian-wrapped-unused": ("brownian", "wrapped", UNUSED),
    "brownian-wrapped-static": ("brownian", "wrapped", STATIC),
    "sde": ("sde", "inner", {}),
}


def main(folder: Path) -> None:
    """All cases in one process group; results go to a file, to be looked at in the test process."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found: dict[str, Any] = {name: one_rank(rank, b, p, **o) for name, (b, p, o) in CASES.items()}
    found["draws"] = draws(rank)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(WORLD, [__file__, folder])
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


# All ranks together


def alone(bridge: str, pieces: int) -> dict[str, Tensor]:
    """One process; ``pieces`` forward passes a step, with the noise the ranks draw for them."""
    model, cost = build(bridge, **NO_DROPOUT)
    pets.regularize(model, cost, WEIGHT)

    def compute(step: int) -> Tensor:
        batch = batches()[step]
        values = torch.zeros(2, dtype=torch.float64)
        for piece in range(pieces):
            torch.manual_seed(noise_seed(step, piece))
            output = model(**(batch if pieces == 1 else part(batch, piece)))
            (output.loss / pieces).backward()
            values += torch.stack([output.loss.detach(), output.running_cost]) / pieces
        return values

    return descend(model, compute)


@pytest.mark.parametrize("case", [case for case in CASES if case != "sde"])
def test_two_processes_do_what_one_does_with_the_whole_batch(
    case: str, ranks: list[dict[str, Any]]
) -> None:
    expected = alone("brownian", 1)
    assert expected["0 values"][1] > 0.1  # so that leaving the cost out is no rounding error
    for found in ranks:
        assert_same(found[case], expected)


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_have_the_same_parameters_to_the_bit(case: str, ranks: list[dict[str, Any]]) -> None:
    first, second = (found[case] for found in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_with_noise_do_what_one_does_with_their_noise(ranks: list[dict[str, Any]]) -> None:
    """One draw for the whole batch is another draw; two with the ranks' seeds are the same."""
    expected, other = alone("sde", WORLD), alone("sde", 1)
    assert_same(ranks[0]["sde"], expected)
    assert (other["0 values"] - expected["0 values"]).norm() > 1e-4 * expected["0 values"].norm()


def test_noise_of_two_processes_has_the_law_of_one(ranks: list[dict[str, Any]]) -> None:
    """Mean and deviation of the whole batch's cost."""
    model, cost = build("sde", **NO_DROPOUT)
    pets.regularize(model, cost, WEIGHT)
    torch.manual_seed(7)
    expected = torch.stack([model(**batches()[0]).running_cost for _ in range(DRAWS)])
    found = ranks[0]["draws"]
    assert found.std() > 0
    error = (found.var() / DRAWS + expected.var() / DRAWS).sqrt()
    assert (found.mean() - expected.mean()).abs() < 4 * error
    # The deviation of 100 normal draws is known to 7 %, a ratio of two to 10 %: 1.5 is 4 of those.
    assert 1 / 1.5 < found.std() / expected.std() < 1.5


# transformers' Trainer


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps precision and accumulation for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def trainer(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    rows = [{k: v[i] for k, v in batch.items()} for batch in batches() for i in range(ROWS)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=0.0,
        **{"save_strategy": "no", **options},
    )
    return Trainer(model=model, args=arguments, train_dataset=rows)


def test_four_batches_of_one_do_what_a_batch_of_four_does(tmp_path: Path) -> None:
    """Over an epoch of shuffled rows, with momentum: every step counts in the end."""
    ends = []
    for size in (1, 4):
        model, cost = build("brownian", **NO_DROPOUT)
        start = {n: p.detach().clone() for n, p in trainable(model).items()}
        with pets.regularize(model, cost, WEIGHT):
            run = trainer(
                model,
                tmp_path / str(size),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=4 // size,
                num_train_epochs=1,
                optim="sgd",
                optim_args="momentum=0.9",
                learning_rate=1.0,
            )
            run.loss_is_scaled_for_ga = False  # BERT's loss is a mean, which the Trainer would sum
            run.train()
        ends.append({n: p.detach() - start[n] for n, p in trainable(model).items()})
    assert all(moved.norm() > 1e-4 for moved in ends[1].values())
    assert_same(*ends)


@pytest.mark.parametrize("bridge", ["brownian", "sde"])
def test_a_resumed_trainer_ends_at_the_same_bytes(bridge: str, tmp_path: Path) -> None:
    """With dropout, and with the SDE's noise: the Trainer restores the generators too."""
    options = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 5,
        "learning_rate": 0.01,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    ends = []
    for resume in (None, str(tmp_path / "checkpoint-3")):
        model, cost = build(bridge)
        if resume:
            torch.manual_seed(5)  # a new process has other random numbers behind it
        with pets.regularize(model, cost, WEIGHT):
            run = trainer(model, tmp_path, **options)
            run.train(resume_from_checkpoint=resume)
        assert run.state.global_step == 5
        model.save_pretrained(tmp_path / "adapter")
        ends.append((tmp_path / "adapter" / "adapter_model.safetensors").read_bytes())
    middle = (tmp_path / "checkpoint-3" / "adapter_model.safetensors").read_bytes()
    assert ends[0] == ends[1] != middle


if __name__ == "__main__":
    main(Path(sys.argv[1]))
