"""One operation at one shape: its arms guarded, timed in turn, and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks import arms as forms
from benchmarks.flops import flops
from benchmarks.guard import TARGETS, Guard, Verdict, evaluate
from benchmarks.meter import Call, measure, peak_bytes, quantiles, ratios
from benchmarks.shapes import Shape, make_inputs
from kernels.dispatch import explain

MEBIBYTE = 2**20


class Refused(RuntimeError):
    """There is nothing to time: the arm cannot run here, or it is wrong."""


class Group:
    """The arms of one operation at one shape; each is compared with the truth before it can be called.

    Args:
        compiled: whether torch.compile is tried; a text is the reason why it is not.
        targets: for the oracle, as `benchmarks.guard.Guard`.
        without: names of arms that are left out.
    """

    def __init__(
        self,
        operation: str,
        shape: Shape,
        device: torch.device | str,
        *,
        compiled: bool | str = True,
        targets: int | None = TARGETS,
        without: Collection[str] = (),
    ) -> None:
        if compiled is True:
            torch.compiler.reset()  # a form that was compiled for eight sizes is compiled no more
        self.operation, self.shape = forms.OPERATIONS[operation], shape
        self.device = torch.device(device)
        made = forms.arms(operation, device, compiled)
        self.arms = {arm.name: arm for arm in made if arm.name not in without}
        self.inputs = make_inputs(shape, device).requiring(self.operation.leaves)
        self._targets = targets
        self._guard: Guard | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._first_seconds: dict[str, float] = {}

    def verdict(self, name: str) -> Verdict:
        """What the guard says of an arm; it is asked once."""
        if name not in self._verdicts:
            operation = self._of(name)
            if self._guard is None or self._guard.operation is not operation:
                self._guard = Guard(operation, self.inputs, targets=self._targets)
            start = time.perf_counter()
            self._verdicts[name] = self._guard.check(self.arms[name])
            self._first_seconds[name] = time.perf_counter() - start
            if len(self._verdicts) == len(self.arms):
                self._guard = None  # the float64 truth is larger than all that is measured
        return self._verdicts[name]

    def _of(self, name: str) -> forms.Operation:
        """The operation whose truth an arm is compared with."""
        return forms.OPERATIONS[self.arms[name].of or self.operation.name]

    def call(self, name: str) -> Callable[[], list[Tensor]]:
        """The arm as what is timed: the scalar and its gradient.

        Raises:
            Refused: unless the arm's values and gradients are right.
        """
        verdict = self.verdict(name)
        if not verdict.ok:
            raise Refused(f"{self.operation.name}, {self.shape.name}, {name}: {verdict.reason}")
        value, inputs, leaves = self.arms[name].value, self.inputs, self.operation.leaves
        return lambda: evaluate(value, inputs, leaves)

    def record(self, rounds: int, seconds: float = float("inf")) -> dict[str, Any]:
        """Time, memory and arithmetic of every arm that is right; of the others, why not."""
        right = self.right()
        memory = {name: self.memory(call) for name, call in right.items()}
        times = measure(right, rounds, self.device, seconds=seconds)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        arms = {name: self._arm(name, times, memory) for name in self.arms}
        return {**self.head(), "backend": explain(self.device), "arms": arms}

    def right(self) -> dict[str, Call]:
        """Every arm that is right, by name."""
        return {name: self.call(name) for name in self.arms if self.verdict(name).ok}

    def head(self) -> dict[str, Any]:
        """What a record says of the operation and the shape."""
        return {
            "operation": self.operation.name,
            "says": self.operation.says,
            "shape": self.shape.name,
            "sizes": self.shape.facts(),
            "baseline": self.operation.baseline,
        }

    def checked(self, name: str) -> dict[str, Any]:
        """What a record says of an arm before its times: "timed", "wrong" or "skipped", and why."""
        verdict = self.verdict(name)
        status = "timed" if verdict.ok else verdict.reason.partition(":")[0]
        row = {"status": status, "errors": verdict.errors}
        return row if verdict.ok else {**row, "reason": verdict.reason.partition(": ")[2]}

    def work(self, name: str) -> dict[str, Any]:
        """The arithmetic of an arm that has run, and what its solver took."""
        report = self.arms[name].report
        solve = report() if report else None
        gigaflop = flops(self._of(name).name, self.shape, solve) / 1e9
        return {"gigaflop": round(gigaflop, 6), **({"solve": vars(solve).copy()} if solve else {})}

    def _arm(
        self, name: str, times: dict[str, list[float]], memory: dict[str, dict[str, float]]
    ) -> dict[str, Any]:
        checked = self.checked(name)
        if checked["status"] != "timed":
            return checked
        spread, work = quantiles(times[name]), self.work(name)
        baseline = times.get(self.operation.baseline)
        rate = round(1e3 * work["gigaflop"] / spread["p50"], 3)
        return {
            **checked,
            "check_seconds": round(self._first_seconds[name], 2),  # with compilation, where there is any
            "rounds": len(times[name]),
            "milliseconds": spread,
            "ratio": ratios(times[name], baseline) if baseline else None,
            "mebibytes": memory[name],
            **work,
            "gigaflop_per_second": rate,
        }

    def memory(self, call: Call) -> dict[str, float]:
        """Peak of a call, of which the gradients that it returns, and the rest: the form's own."""
        _, *found = cast(list[Tensor], call())
        held = sum(gradient.nbytes for gradient in found)
        del found
        peak, gradients = (size / MEBIBYTE for size in (peak_bytes(call, self.device), held))
        return {
            "peak": round(peak, 3),
            "gradients": round(gradients, 3),
            "extra": round(peak - gradients, 3),
        }
