"""The results of `benchmarks.suite` and `benchmarks.gpu` as Markdown."""

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
    if "check" in record:
        lines += _check(record["check"])
    if "bandwidth" in record:
        lines += _bandwidth(record["bandwidth"])
    if "training" in record:
        lines += _training(record["training"])
    if record.get("groups"):
        lines.append(_HOW)
        for group in record["groups"]:
            lines += _group(group)
    lines += [f"Not measured: {s['part']}: {s['reason']}.\n" for s in record.get("skipped", [])]
    return "\n".join(lines)


def _group(group: dict[str, Any]) -> list[str]:
    lines = [
        f"**{group['says']}**, {_sizes(group['shape'], group['sizes'])}; "
        f"backend {group['backend'].partition(' ')[0]}\n",
        f"| arm | ms | ratio to {group['baseline']} | extra MiB | GFLOP | GFLOP/s | errors |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in group["arms"].items():
        errors = _errors(arm["errors"])
        if arm["status"] != "timed":
            lines.append(f"| {name} | {arm['status']}: {arm['reason']} | | | | | {errors} |")
            continue
        ratio = _spread(arm["ratio"], ".3f") if arm["ratio"] else ""
        lines.append(
            f"| {name} | {_spread(arm['milliseconds'], '.3f')} | {ratio} | "
            f"{arm['mebibytes']['extra']:.2f} | {arm['gigaflop']:.3g} | "
            f"{arm['gigaflop_per_second']:.1f} | {errors} |"
        )
    return [*lines, ""]


def _check(check: dict[str, Any]) -> list[str]:
    title = f"Against the float64 oracle: {_said(check)}. Worst relative RMS error over shapes:\n"
    return [title, *check_table(check["rows"]), ""]


def check_table(rows: list[dict[str, Any]]) -> list[str]:
    """The worst error over the shapes, a line for each form and a column for each pair of dtypes."""
    columns = list(dict.fromkeys((row["states"], row["g"]) for row in rows))
    heads = [f"{states} states, {g} g" for states, g in columns]
    lines = [f"| {' | '.join(['operation', 'backend', *heads])} |", "| --- " * (2 + len(heads)) + "|"]
    forms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        solver = f" {row['solver']}" if row["solver"] else ""
        forms.setdefault((row["operation"] + solver, row["backend"]), []).append(row)
    for form, of_form in forms.items():
        cells = [_cell([r for r in of_form if (r["states"], r["g"]) == pair]) for pair in columns]
        lines.append(f"| {' | '.join([*form, *cells])} |")
    return lines


def _cell(rows: list[dict[str, Any]]) -> str:
    if all(row["ok"] is None for row in rows):
        return "cannot run" if rows else ""
    ran = [row for row in rows if row["ok"] is not None]
    wrong = sum(not row["ok"] for row in ran)
    errors = [each for row in ran for each in row["errors"].values()]
    worst = _worst([error for each in errors for error in each.values()])
    return f"{worst} ({f'{wrong} of ' if wrong else ''}{len(ran)} {'WRONG' if wrong else 'right'})"


def _said(check: dict[str, Any]) -> str:
    ran = sum(row["ok"] is not None for row in check["rows"])
    if check["wrong"] is None:
        return f"unfinished after {ran} forms"
    return f"{ran} forms at a shape and dtype, {check['wrong']} wrong"


def _bandwidth(bandwidth: dict[str, Any]) -> list[str]:
    ceilings = ", ".join(f"{way} {rate:.0f} GB/s" for way, rate in bandwidth["ceilings"].items())
    lines = [
        f"Memory, by a sum, a fill and a copy of {bandwidth['bytes'] / 2**30:g} GiB: {ceilings}. "
        f"Pooling at {bandwidth['shape']}, counting the least that must be moved:\n",
        "| backend | way | ms, p20 / p50 / p80 | GB/s | share of |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in bandwidth["pooling"]:
        lines.append(
            f"| {row['backend']} | {row['way']} | {_spread(row['milliseconds'], '.3f')} | "
            f"{row['gigabytes_per_second']:.0f} | {100 * row['share']:.0f} % of {row['ceiling']} |"
        )
    return [*lines, ""]


def _training(training: dict[str, Any]) -> list[str]:
    lines = [
        "A LoRA step of a BERT with random weights, arms in turn; "
        f"{_sizes(training['shape'], training['sizes'])}:\n",
        "| arm | ms, p20 / p50 / p80 | added, of the ratios in a round | peak MiB | added |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, arm in training["arms"].items():
        added = {quantile: 100 * (ratio - 1) for quantile, ratio in arm["ratio"].items()}
        lines.append(
            f"| {name} | {_spread(arm['milliseconds'], '.2f')} | {_spread(added, '+.1f')} % | "
            f"{arm['peak_mebibytes']:.0f} | {arm['added_memory_percent']:+.1f} % |"
        )
    return [*lines, ""]


def _sizes(name: str, sizes: dict[str, Any]) -> str:
    widths = ", ".join(map(str, sizes["widths"]))
    return (
        f"{name}: {sizes['layers']} layers, H {sizes['hidden']}, batch {sizes['batch']} x "
        f"{sizes['length']}, {sizes['targets']} targets a row, g ({widths}), {sizes['dtype']} states"
    )


def _spread(quantiles: dict[str, float], form: str) -> str:
    return " / ".join(format(quantiles[name], form) for name in ("p20", "p50", "p80"))


def _errors(errors: dict[str, dict[str, float | None]]) -> str:
    """The worst over what was compared with."""
    names = dict.fromkeys(name for each in errors.values() for name in each)
    return ", ".join(_worst([each[name] for each in errors.values() if name in each]) for name in names)


def _worst(errors: list[float | None]) -> str:
    """In a result file null stands for a number that is none."""
    numbers = [error for error in errors if error is not None and not math.isnan(error)]
    return f"{max(numbers):.1e}" if errors and len(numbers) == len(errors) else "not a number"
