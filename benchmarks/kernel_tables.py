"""The results of `benchmarks.suite` as Markdown."""

from __future__ import annotations

import math
from typing import Any

_HOW = """The arms of a group run once a round, in turn; times are p20 / p50 / p80 over the rounds, and
the ratio is to the baseline's time of the same round. Memory is the peak of a call without the
gradients that it returns. GFLOP/s divide the count of `flops.py`, which only Picard's sweeps add to, by
the median time. Errors are relative RMS against float64, of the value and of the worst gradient
(torchsde: of the mean over paths); an arm beyond the bound is not timed.
"""


def render(name: str, record: dict[str, Any]) -> str:
    """The sections of one result file, as far as they were measured."""
    gpu = record["environment"]["gpu"] if record["device"] != "cpu" else None
    lines = [f"## Kernels on {gpu or 'the CPU'}: `results/{name}`\n"]
    if record.get("groups"):
        lines.append(_HOW)
        for group in record["groups"]:
            lines += _group(group)
    lines += [f"Not measured: {s['part']}: {s['reason']}.\n" for s in record.get("skipped", [])]
    return "\n".join(lines)


def _group(group: dict[str, Any]) -> list[str]:
    lines = [
        f"**{group['says']}**, {sizes(group['shape'], group['sizes'])}; "
        f"backend {group['backend'].partition(' ')[0]}\n",
        f"| arm | ms | ratio to {group['baseline']} | extra MiB | GFLOP | GFLOP/s | errors |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in group["arms"].items():
        off = errors(arm["errors"])
        if arm["status"] != "timed":
            lines.append(f"| {name} | {arm['status']}: {arm['reason']} | | | | | {off} |")
            continue
        ratio = spread(arm["ratio"], ".3f") if arm["ratio"] else ""
        lines.append(
            f"| {name} | {spread(arm['milliseconds'], '.3f')} | {ratio} | "
            f"{arm['mebibytes']['extra']:.2f} | {arm['gigaflop']:.3g} | "
            f"{arm['gigaflop_per_second']:.1f} | {off} |"
        )
    return [*lines, ""]


def sizes(name: str, sizes: dict[str, Any]) -> str:
    """A shape in words, of what `benchmarks.shapes.Shape.facts` says."""
    widths = ", ".join(map(str, sizes["widths"]))
    return (
        f"{name}: {sizes['layers']} layers, H {sizes['hidden']}, batch {sizes['batch']} x "
        f"{sizes['length']}, {sizes['targets']} targets a row, g ({widths}), {sizes['dtype']} states"
    )


def spread(quantiles: dict[str, float], form: str) -> str:
    """The three quantiles in a format of numbers."""
    return " / ".join(format(quantiles[name], form) for name in ("p20", "p50", "p80"))


def errors(errors: dict[str, dict[str, float | None]]) -> str:
    """Of an arm, the worst over what was compared with."""
    names = dict.fromkeys(name for each in errors.values() for name in each)
    return ", ".join(worst([each[name] for each in errors.values() if name in each]) for name in names)


def worst(errors: list[float | None]) -> str:
    """The largest; in a result file null stands for a number that is none."""
    numbers = [error for error in errors if error is not None and not math.isnan(error)]
    return f"{max(numbers):.1e}" if errors and len(numbers) == len(errors) else "not a number"
