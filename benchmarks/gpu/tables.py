"""The result of ``python -m benchmarks.gpu`` as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.kernel_tables import errors, sizes, spread, worst

_HOW = """Host is until the call returns with the device's queue empty before it, wall until the device
is done, device the sum of its kernels' times under the profiler; p20 / p50 / p80 over rounds in which
the arms take turns (device: over a few profiled calls). Ratios are of wall times in the same round.
Added wall time is the median difference, or ratio, within a round with its interval of at least 95 %,
that of the sign test; added device time the difference of the medians, between those of p20 and p80.
"Alone" is a cost and its gradient without the model. Replayed: how many CUDA graphs the cost had.
"""


def render(name: str, record: dict[str, Any]) -> str:
    """The sections of one result file, as far as they were measured."""
    card = "the CPU" if record["device"] == "cpu" else record["environment"]["gpu"] or "an unknown GPU"
    notes = [record["label"], "tiny models" if record["quick"] else ""]
    said = "".join(f", {note}" for note in notes if note)
    lines = [f"## Everything on {card}{said}: `results/{name}`\n"]
    lines += _aims(record["aims"])
    lines += ["Wrong: " + said + ".\n" for said in record["wrong"]]
    lines += _check(record["check"]) if record["check"]["rows"] else []
    if clocks := record["clocks"]:
        said = ", ".join(f"{name} {value}" for name, value in clocks.items())
        lines.append(f"Clocks before the first part, read and not set: {said}.\n")
    lines += _ceilings(record["ceilings"])
    if record["training"] or record["pooling"] or record["times"]:
        lines.append(_HOW)
    lines += _pooling(record) if record["pooling"] else []
    for work in record["training"]:
        lines += _training(work)
    for group in record["times"]:
        lines += _group(group)
    for row in record["sanitizer"]:
        if row["errors"] is not None:
            said = f"{row['errors']} errors"
            lines.append(f"compute-sanitizer, {row['tool']}, on the odd shapes: {said}.\n")
    lines += [f"Not measured: {s['part']}: {s['reason']}.\n" for s in record["skipped"]]
    return "\n".join(lines)


def summary(record: dict[str, Any]) -> str:
    """What a terminal shows at the end: aims, and what is wrong."""
    wrong = [f"WRONG {said}" for said in record["wrong"]]
    skipped = [f"not measured: {s['part']}: {s['reason']}" for s in record["skipped"]]
    return "\n".join([*_aims(record["aims"]), *skipped, *wrong])


def _aims(aims: list[dict[str, Any]]) -> list[str]:
    lines = ["| aim | measured | aimed at | reached |", "| --- | --- | --- | --- |"]
    for aim in aims:
        measured = "" if aim["measured"] is None else f"{aim['measured']:.3g} {aim['unit']}"
        bound = f"{'at most' if aim['at_most'] else 'at least'} {aim['aim']:g} {aim['unit']}"
        unknown = "not measured" if aim["measured"] is None else "not resolved"
        reached = {True: "yes", None: unknown}.get(aim["reached"])
        if reached is None:
            reached = f"missed by {aim['missed_by']:.3g} {aim['unit']}"
        why = f" ({aim['reason']})" if aim["reason"] else ""
        lines.append(f"| {aim['what']} | {measured} | {bound} | {reached}{why} |")
    return [*lines, ""]


def _check(check: dict[str, Any]) -> list[str]:
    ran = sum(row["ok"] is not None for row in check["rows"])
    said = f"{ran} forms at a shape and dtype, {check['wrong']} wrong"
    if check["wrong"] is None:
        said = f"unfinished after {ran} forms"
    title = f"Against float64: {said}. Worst relative RMS error over shapes:\n"
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
    each = [error for row in ran for named in row["errors"].values() for error in named.values()]
    return f"{worst(each)} ({f'{wrong} of ' if wrong else ''}{len(ran)} {'WRONG' if wrong else 'right'})"


def _ceilings(ceilings: dict[str, Any]) -> list[str]:
    lines = []
    if memory := ceilings["bandwidth"]:
        rates = _rates(memory["gigabytes_per_second"], "GB/s")
        size = memory["bytes"] / 2**30
        lines.append(f"Memory, by a sum, a fill and a copy of {size:g} GiB: {rates}.\n")
    if products := ceilings["products"]:
        rates = _rates(products["teraflop_per_second"], "TFLOP/s")
        lines.append(
            f"Products of two matrices of {products['width']} x {products['width']}: {rates}.\n"
        )
    return lines


def _rates(rates: dict[str, float], unit: str) -> str:
    return ", ".join(f"{name} {rate:.4g} {unit}" for name, rate in rates.items())


def _pooling(record: dict[str, Any]) -> list[str]:
    memory = record["ceilings"]["bandwidth"]
    copy = memory["gigabytes_per_second"]["copy"] if memory else None
    lines = [
        "Pooling, counting the least that must be moved:\n",
        "| shape | backend | way | host | wall | device | kernels | GB/s | share of a copy's |",
        "| --- " * 9 + "|",
    ]
    for row in record["pooling"]:
        share = f"{100 * row['gigabytes_per_second'] / copy:.0f} %" if copy else ""
        lines.append(
            f"| {row['shape']} | {row['backend']} | {row['way']} | {_clocks(row)} | "
            f"{row['gigabytes_per_second']:.0f} by {row['by']} time | {share} |"
        )
    return [*lines, ""]


def _training(work: dict[str, Any]) -> list[str]:
    vanilla = work["arms"].get("vanilla", {})
    bound = {True: "host-bound", False: "GPU-bound"}.get(vanilla.get("host_bound"))
    lines = [
        f"**{work['says']}**, arms in turn; {sizes(work['shape'], work['sizes'])}"
        f"{f'; the vanilla step is {bound}' if bound else ''}; a gradient of every hidden state is "
        f"{work['state_gradients_mebibytes']:.0f} MiB:\n",
        "| arm | host ms | wall ms | device ms | kernels | added wall | added device ms | peak MiB "
        "| added MiB | error of the cost | replayed |",
        "| --- " * 11 + "|",
    ]
    for name in dict.fromkeys([*work["arms"], *work["errors"]]):
        error = work["errors"].get(name)
        off = "" if error is None else worst([error["error"]])
        arm = work["arms"].get(name)
        if arm is None:
            lines.append(f"| {name} | {error['reason'] if error else ''} | | | | | | | | {off} | |")
            continue
        wall, device, memory = ("", "", "") if name == "vanilla" else _added(arm)
        lines.append(
            f"| {name} | {_clocks(arm)} | {wall} | {device} | {arm['peak_mebibytes']:.0f} | "
            f"{memory} | {off} | {_replayed(arm)} |"
        )
    return [*lines, "", *_alone(work), *_added_kernels(work)]


def _added(arm: dict[str, Any]) -> tuple[str, str, str]:
    """Cells: wall time, device time and memory beyond the vanilla step's."""
    wall, device = arm["adds"]["wall"], arm["adds"]["device"]
    memory = f"{arm['adds']['mebibytes']:+.0f} ({arm['added_memory_percent']:+.1f} %)"
    on = "" if device is None else f"{_interval(device)}, {device['percent']:+.2f} %"
    low, high = wall["percent_low"], wall["percent_high"]
    zero = low is None or low <= 0 <= high
    resolved = ", not resolved from 0" if zero else ""
    between = "" if low is None else f" ({low:+.1f} to {high:+.1f})"
    share = f"{wall['percent']:+.1f}{between} % in {wall['rounds']} rounds{resolved}"
    return share if wall["milliseconds"] is None else f"{_interval(wall)}, {share}", on, memory


def _interval(found: dict[str, Any]) -> str:
    low, high = found["low"], found["high"]
    between = "" if low is None else f" ({low:+.3g} to {high:+.3g})"
    return f"{found['milliseconds']:+.3g}{between}"


def _replayed(arm: dict[str, Any]) -> str:
    if (made := arm.get("graphs")) is None:
        return "" if arm["arm"] == "vanilla" else "not measured"
    refused = "".join(f"; refused: {reason}" for reason in made["refused"])
    return f"{made['replayed'] or 'no'}{refused}"


def _alone(work: dict[str, Any]) -> list[str]:
    if not work["alone"]:
        return ["The costs alone: not measured.\n"]
    lines = ["| cost alone | host ms | wall ms | device ms | kernels |", "| --- " * 5 + "|"]
    lines += [f"| {name} | {_clocks(row)} |" for name, row in work["alone"].items()]
    return [*lines, ""]


def _added_kernels(work: dict[str, Any]) -> list[str]:
    """What a step of the first arm with a cost has more of on the device."""
    for name, arm in work["arms"].items():
        if found := arm.get("added_kernels"):
            each = "; ".join(
                f"`{row['name'].replace('|', ' ')[:60]}` {row['microseconds']:+.1f} in {row['count']:+g}"
                for row in found
            )
            return [f"Microseconds of kernels that {name} adds, and how many of them: {each}.\n"]
    return []


def _group(group: dict[str, Any]) -> list[str]:
    lines = [
        f"**{group['says']}**, {sizes(group['shape'], group['sizes'])}\n",
        f"| arm | host ms | wall ms | device ms | kernels | ratio to {group['baseline']} | extra MiB "
        "| errors |",
        "| --- " * 8 + "|",
    ]
    for name, arm in group["arms"].items():
        off = errors(arm["errors"])
        if arm["status"] != "timed":
            lines.append(f"| {name} | {arm['status']}: {arm['reason']} | | | | | | {off} |")
            continue
        ratio = spread(arm["ratio"], ".3f") if arm["ratio"] else ""
        lines.append(f"| {name} | {_clocks(arm)} | {ratio} | {arm['mebibytes']['extra']:.2f} | {off} |")
    return [*lines, ""]


def _clocks(row: dict[str, Any]) -> str:
    """Four cells: host, wall, device and kernels."""
    device = row["device"]
    if device is None:
        work = [row.get("device_reason", ""), ""]
    else:
        copies = f" + {device['copies']}" if device["copies"] else ""
        work = [spread(device["milliseconds"], ".3f"), f"{device['kernels']}{copies}"]
    return " | ".join([spread(row["host"], ".3f"), spread(row["wall"], ".3f"), *work])
