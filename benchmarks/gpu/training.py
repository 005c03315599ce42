"""What a running cost adds to a training step: host, wall and device time, kernels and memory.

Every arm has a model of its own and is plugged once: the first steps after plugging, which are watched
for parameters without a gradient, are not timed. Steps alternate between the arms. On a busy host a
step's time varies by more than a cost takes, so that differences within a round have an interval, and
each cost is also timed by itself.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import pets
from benchmarks.gpu import added, workloads
from benchmarks.gpu.added import MEBIBYTE
from benchmarks.gpu.aims import TIME
from benchmarks.gpu.clock import Taken, in_turn, three
from benchmarks.gpu.plan import PROFILE, Context
from benchmarks.gpu.workloads import WEIGHT, Workload
from benchmarks.meter import Call, peak_bytes
from bridges import RunningCost

VANILLA = "vanilla"

WARM_STEPS = 2
"""After plugging: kernels are compiled, the optimiser's state is made, the gradient guard looks."""

ROUNDS = 10
"""In which all arms take turns."""

MORE_ROUNDS = 500
"""Of the arms that an aim is about, at most, after these: as many as there is time for."""

AIMED = (VANILLA, *TIME)

ALONE_ROUNDS, ALONE_SECONDS = 200, 2.5
"""At most, of the costs by themselves."""

PROFILED_ARMS = (VANILLA, "brownian")
"""In the table of the profiler."""

TABLE_SECONDS = 5
"""That a table takes, more or less: with less left there is none."""

KEPT_SECONDS = 18
"""Of a part's time, for profiles, memory, tables and the costs alone, after the timed steps."""


class Arm:
    """A copy of the workload's model with LoRA, plugged once, and its optimiser.

    Args:
        cost: None for the vanilla arm.
    """

    def __init__(self, work: Workload, cost: RunningCost | None) -> None:
        self.cost, self.inputs = cost, work.inputs
        self.model: nn.Module = work.tuned()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.handle = pets.regularize(self.model, cost, WEIGHT) if cost is not None else None
        for _ in range(WARM_STEPS):
            self.step()

    def step(self) -> None:
        """Forward, backward, update."""
        loss = self.model(**self.inputs).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def resident(self) -> int:
        """Bytes that this arm holds between steps: model, optimiser, gradients and cost."""
        held = [*self.model.parameters(), *self.model.buffers()]
        held += [p.grad for p in self.model.parameters() if p.grad is not None]
        held += [v for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        if self.cost is not None:
            held += [*self.cost.parameters(), *self.cost.buffers()]
        return sum({t.data_ptr(): t.nbytes for t in held}.values())


def run(context: Context) -> None:
    """Rows "workload", "error" for each cost, "training" with all arms, and the profiler's table."""
    work = workloads.BY_NAME[context.option](context.device, quick=context.quick)
    facts = {"workload": work.name, "says": work.says, "sizes": work.shape.facts()}
    context.add("workload", **facts, shape=work.shape.name)
    arms = plugged(context, work)
    rounds, more = (3, 0) if context.quick else (ROUNDS, MORE_ROUNDS)
    seconds = max(context.left() - KEPT_SECONDS, 2.0)
    for name, row in measured(arms, work.device, rounds, more, seconds).items():
        _said(context, name, row)
        context.add("training", workload=work.name, arm=name, **row)
    rounds = 3 if context.quick else ALONE_ROUNDS
    for name, row in alone(arms, work, rounds).items():
        context.say(f"{name} alone: host {row['host']['p50']:.2f}  wall {row['wall']['p50']:.2f}")
        context.add("alone", workload=work.name, arm=name, **row)
    for name in PROFILED_ARMS:
        if name in arms and context.left() > TABLE_SECONDS:
            with (context.folder / PROFILE).open("a", encoding="utf-8") as out:
                out.write(f"{work.name}, {name}\n{table_of(arms[name], work.device)}\n\n")


def plugged(context: Context, work: Workload) -> dict[str, Arm]:
    """The arms that are right, warm; of a wrong one the error is written, and the others go on."""
    arms = {VANILLA: Arm(work, None)}
    for name, make in work.costs():
        reason, error = "", None
        try:
            cost = make()
            error = work.error(cost)
            if error <= work.allowed:
                arms[name] = Arm(work, cost)
            else:
                reason = f"the {name} cost is off by {error:.1e}, allowed {work.allowed:.1e}"
        except Exception as failure:
            reason = f"{type(failure).__name__}: {str(failure)[:300]}"
        if reason:
            context.say(f"WRONG {work.name}, {reason}")
        row = {"workload": work.name, "arm": name, "error": error, "allowed": work.allowed}
        context.add("error", **row, ok=not reason, reason=reason)
    return arms


def measured(
    arms: dict[str, Arm], device: torch.device, rounds: int, more: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Times and memory of every arm; ratios, shares, differences and kernels are to the vanilla arm's.

    Args:
        rounds: of all arms, for at most half of the seconds.
        more: further ones of those in `AIMED`, in what is left of the seconds.
    """
    calls: dict[str, Call] = {name: arm.step for name, arm in arms.items()}
    start = time.perf_counter()
    taken = in_turn(calls, rounds, device, seconds=seconds / 2)
    aimed = {name: call for name, call in calls.items() if name in AIMED}
    if more:
        left = seconds - (time.perf_counter() - start)
        for name, times in in_turn(aimed, more, device, seconds=left).items():
            taken[name].host += times.host
            taken[name].wall += times.wall
    rows = three(taken, calls, device, VANILLA, names=True)
    peaks = {name: (a.resident() + peak_bytes(a.step, device)) / MEBIBYTE for name, a in arms.items()}
    names = {name: (row["device"] or {}).pop("by_name", None) for name, row in rows.items()}
    for name, row in rows.items():
        row["peak_mebibytes"] = round(peaks[name], 3)
        row["added_memory_percent"] = round(100 * (peaks[name] / peaks[VANILLA] - 1), 3)
        row["host_bound"] = host_bound(row)
        if name != VANILLA:
            row["paired"] = paired(taken[name], taken[VANILLA])
            row["graphs"] = graphs(arms[name].cost)
            if names[name] and names[VANILLA]:
                row["added_kernels"] = added.kernels(names[name], names[VANILLA])
    return rows


def paired(arm: Taken, vanilla: Taken) -> dict[str, Any]:
    """Differences to the vanilla step of the same round, on both clocks."""
    count = len(arm.wall)
    pairs = {"host": (arm.host, vanilla.host[:count]), "wall": (arm.wall, vanilla.wall[:count])}
    return {clock: added.paired(*pair) for clock, pair in pairs.items()}


def graphs(cost: RunningCost | None) -> dict[str, Any]:
    """How many CUDA graphs the cost has been replayed as, and why others were not made."""
    made = getattr(cost, "_graphs", None)
    refused = sorted(set(made.refused.values())) if made is not None else []
    return {"replayed": len(made) if made is not None else 0, "refused": refused}


def alone(arms: dict[str, Arm], work: Workload, rounds: int) -> dict[str, dict[str, Any]]:
    """Times of each cost and its gradient to the model's hidden states, without the model."""
    mask, labels = work.inputs["attention_mask"], work.inputs["labels"]
    states = [h.detach().requires_grad_() for h in work.hidden(work.inputs["input_ids"], mask)]

    def call(cost: RunningCost) -> Call:
        return lambda: torch.autograd.grad(cost(states, labels, mask).mean(), states)

    calls = {name: call(arm.cost) for name, arm in arms.items() if arm.cost is not None}
    taken = in_turn(calls, rounds, work.device, seconds=ALONE_SECONDS)
    return three(taken, calls, work.device, "")


def host_bound(row: dict[str, Any]) -> bool | None:
    """Whether the host takes longer to start a step's work than the device to do it, if there is one."""
    if row["device"] is None:
        return None
    return bool(row["host"]["p50"] > row["device"]["milliseconds"]["p50"])


def table_of(arm: Arm, device: torch.device, rows: int = 40) -> str:
    """The profiler's table of a step, by the time on the device and on the host."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        arm.step()
        if on_cuda:
            torch.cuda.synchronize(device)
    averages = profiler.key_averages()
    orders = (["self_device_time_total"] if on_cuda else []) + ["self_cpu_time_total"]
    return "\n".join(averages.table(sort_by=order, row_limit=rows) for order in orders)


def _said(context: Context, name: str, row: dict[str, Any]) -> None:
    clock = row["device"]
    device = f"{clock['milliseconds']['p50']:.2f} in {clock['kernels']} kernels" if clock else "none"
    context.say(
        f"{name:10} host {row['host']['p50']:.2f}  wall {row['wall']['p50']:.2f} "
        f"({100 * (row['ratio']['p50'] - 1):+.1f} %)  device {device}  "
        f"{row['peak_mebibytes']:.0f} MiB ({row['added_memory_percent']:+.1f} %)"
    )
