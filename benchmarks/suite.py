"""One operation at one shape: its arms guarded, timed in turn, and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import arms as forms
from benchmarks.flops import flops
from benchmarks.guard import Guard, Verdict, evaluate
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
    """

    def __init__(
        self, operation: str, shape: Shape, device: torch.device | str, *, compiled: bool | str = True
    ) -> None:
        if compiled is True:
            torch.compiler.reset()  # a form that was compiled for eight sizes is compiled no more
        self.operation, self.shape = forms.OPERATIONS[operation], shape
        self.device = torch.device(device)
        self.arms = {arm.name: arm for arm in forms.arms(operation, device, compiled)}
        self.inputs = make_inputs(shape, device).requiring(self.operation.leaves)
        self._guard: Guard | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._first_seconds: dict[str, float] = {}

    def verdict(self, name: str) -> Verdict:
        """What the guard says of an arm; it is asked once."""
        if name not in self._verdicts:
            operation = self._of(name)
            if self._guard is None or self._guard.operation is not operation:
                self._guard = Guard(operation, self.inputs)
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
        right = {name: self.call(name) for name in self.arms if self.verdict(name).ok}
        memory = {name: self._memory(call) for name, call in right.items()}
        calls: dict[str, Call] = dict(right)
        times = measure(calls, rounds, self.device, seconds=seconds)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {
            "operation": self.operation.name,
            "says": self.operation.says,
            "shape": self.shape.name,
            "sizes": self.shape.facts(),
            "backend": explain(self.device),
            "baseline": self.operation.baseline,
            "arms": {name: self._arm(name, times, memory) for name in self.arms},
        }

    def _arm(
        self, name: str, times: dict[str, list[float]], memory: dict[str, dict[str, float]]
    ) -> dict[str, Any]:
        verdict = self.verdict(name)
        checked: dict[str, Any] = {
            "status": "timed" if verdict.ok else verdict.reason.partition(":")[0],
            "errors": verdict.errors,
        }
        if not verdict.ok:
            return {**checked, "reason": verdict.reason.partition(": ")[2]}
        report = self.arms[name].report
        solve = report() if report else None
        gigaflop = flops(self._of(name).name, self.shape, solve) / 1e9
        spread = quantiles(times[name])
        baseline = times.get(self.operation.baseline)
        return {
            **checked,
            "check_seconds": round(self._first_seconds[name], 2),  # with compilation, where there is any
            "rounds": len(times[name]),
            "milliseconds": spread,
            "ratio": ratios(times[name], baseline) if baseline else None,
            "mebibytes": memory[name],
            "gigaflop": round(gigaflop, 6),
            "gigaflop_per_second": round(1e3 * gigaflop / spread["p50"], 3),
            **({"solve": vars(solve).copy()} if solve else {}),
        }

    def _memory(self, call: Callable[[], list[Tensor]]) -> dict[str, float]:
        """Peak of a call, of which the gradients that it returns, and the rest: the form's own."""
        sizes = [sum(gradient.nbytes for gradient in call()[1:])]
        sizes = [peak_bytes(call, self.device), *sizes]
        peak, gradients = (size / MEBIBYTE for size in sizes)
        return {
            "peak": round(peak, 3),
            "gradients": round(gradients, 3),
            "extra": round(peak - gradients, 3),
        }
