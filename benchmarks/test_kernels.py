"""Timings under pytest-benchmark: ``pytest benchmarks/``, or ``--shapes tiny -k 'pdf and ours'``.

An arm whose values or gradients are wrong fails and is not timed. pytest-benchmark finishes one arm
before the next begins; for a result file (``--out auto``) a group's arms are measured again in turn.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.suite import Group

ROUNDS = 5


def test_time(benchmark: Any, group: Group, arm: str) -> None:
    verdict = group.verdict(arm)
    if verdict.reason.startswith("skipped: "):
        pytest.skip(verdict.reason.removeprefix("skipped: "))
    assert verdict.ok, f"{verdict.reason}; found {verdict.errors}"
    benchmark.group = f"{group.operation.says}, {group.shape.name}"
    benchmark.extra_info.update(verdict.errors)
    call = group.call(arm)

    def whole() -> None:
        call()
        if group.device.type == "cuda":
            torch.cuda.synchronize(group.device)

    benchmark.pedantic(whole, rounds=ROUNDS, warmup_rounds=1)


def test_in_turn(group: Group, records: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--out"):
        pytest.skip("only for a result file: --out")
    record = group.record(
        request.config.getoption("--rounds"), request.config.getoption("--group-seconds")
    )
    records.append(record)
    wrong = {name: arm for name, arm in record["arms"].items() if arm["status"] == "wrong"}
    assert not wrong, f"not timed: {wrong}"
