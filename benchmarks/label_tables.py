"""What readers see of the label, and what costs about it do: the tables of these result files."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from pets.study.statistics.intervals import markdown_table, paired, summarise
from pets.study.statistics.power import detectable

_MOST_COLUMNS = 12


def reader_table(name: str, record: dict[str, Any]) -> str:
    """Of `benchmarks.reader`: AUC by layer of each reader and task, the adapted lens beside probes."""
    found = record["reader"]
    states = len(next(iter(found["head"].values()))["by_layer"])
    shown = _columns(states)
    lines = [
        f"## What readers see of the label, {found['model']}: `results/{name}`\n",
        "AUC of telling a class from the others on test examples, by the reading along the end points "
        "of the label words, at the state that predicts the word; mean over the classes. `kept` is the "
        "least and the most of (AUC - 0.5) over the head's own (AUC - 0.5) in the upper third of the "
        "layers. The logit lens is the head read at every layer.\n",
    ]
    if "note" in found:
        lines.append(f"{found['note']}\n")
    for entry, fit in found["readers"].items():
        own = [layer["r2"] for layer in fit["fit"].get("layers", [])]
        what = f"{entry}: fitted in {fit['seconds']:.0f} s"
        if own:
            what += f", held-out R2 of what it is regressed on {_series(own, shown)}"
        else:
            what += f" ({fit['fit']['steps']} steps), held-out R2 of the end points "
            what += _series(fit["r2"], shown)
        lines.append(f"- {what}; the axes keep {fit['fit']['contrasts_kept']:.2f} of the contrasts.")
    head = f"| task, head's AUC | reader | {' | '.join(f'layer {k}' for k in shown)} | kept |"
    lines += ["", head, "| --- " * (len(shown) + 3) + "|"]
    for task, of_head in found["head"].items():
        rows = {"logit lens": of_head["by_layer"]}
        rows |= {entry: fit["auc"][task] for entry, fit in found["readers"].items()}
        for entry, values in rows.items():
            cells = " | ".join(f"{values[k]:.2f}" for k in shown)
            kept = _kept(values, of_head["auc"])
            lines.append(f"| {task}, {of_head['auc']:.3f} | {entry} | {cells} | {kept} |")
    lines += ["", *_adapted(found, shown)]
    return "\n".join(lines)


def _kept(values: Sequence[float], head: float) -> str:
    """Of a head that tells nothing there is nothing to keep."""
    if head < 0.55:
        return ""
    upper = values[-(-2 * len(values) // 3) :]
    shares = [(value - 0.5) / (head - 0.5) for value in upper]
    return f"{min(shares):.2f} to {max(shares):.2f}"


def _adapted(found: dict[str, Any], shown: Sequence[int]) -> list[str]:
    if not found["adapted"]:
        return []
    first = next(iter(found["adapted"].values()))
    splits = len(first["reader"])
    lines = [
        f"Accuracy of the lens adapted to {first['shots']} examples of each class, and of logistic "
        f"regressions of the same standardised states; mean over {splits} splits.\n",
        f"| task | reader | {' | '.join(f'layer {k}' for k in shown)} |",
        "| --- " * (len(shown) + 2) + "|",
    ]
    for task, kinds in found["adapted"].items():
        for kind, rows in kinds.items():
            if kind == "shots":
                continue
            label = "adapted lens" if kind == "reader" else kind
            cells = " | ".join(f"{mean(row[k] for row in rows):.3f}" for k in shown)
            lines.append(f"| {task} | {label} | {cells} |")
    return [*lines, ""]


def label_costs_table(name: str, record: dict[str, Any]) -> str:
    """Of `benchmarks.label_costs`: accuracy of each arm, paired by split, and what splits could show."""
    found = record["label_costs"]
    settings, arms = found["settings"], list(found["label_share"])
    splits = sorted({run["split"] for run in found["runs"]})
    whole = [s for s in splits if sum(run["split"] == s for run in found["runs"]) == len(arms)]
    runs = {(run["arm"], run["split"]): run for run in found["runs"]}
    lines = [
        f"## Costs about the label, {found['model']} on {found['task']}: `results/{name}`\n",
        f"LoRA, {settings['shots']} examples of each class, {settings['steps']} steps of batch "
        f"{settings['batch']}, learning rate {settings['lr']:g}, cross-entropy over the label words in "
        f"every arm, the cost's gradient {settings['ratio']:g} of its norm before the first step; "
        f"nothing selected, the last step on {found['test']} test examples at most; splits {whole}.\n",
        "Share of the squared gradient at the PET's parameters, of 32 examples before any step, that "
        "depends on their labels: "
        + ", ".join(f"{arm} {share:.1%}" for arm, share in found["label_share"].items())
        + ".\n",
    ]
    for metric in ("accuracy", "auc"):
        values = {arm: [runs[arm, s][metric] for s in whole] for arm in arms}
        lines += [markdown_table(values, arms[0], metric), ""]
        if metric == "accuracy" and len(whole) > 2:
            lines += [f"{_seen(values, arms)}\n"]
    layers = len(runs[arms[0], whole[0]]["lens_auc"])
    shown = _columns(layers)
    lines += [
        "AUC of the lens (fitted on text, not adapted) on the tuned model's states:\n",
        f"| arm | {' | '.join(f'layer {k}' for k in shown)} |",
        "| --- " * (len(shown) + 1) + "|",
    ]
    for arm in arms:
        each = [mean(runs[arm, s]["lens_auc"][k] for s in whole) for k in shown]
        lines.append(f"| {arm} | {' | '.join(f'{value:.3f}' for value in each)} |")
    seconds = summarise([run["seconds"] for run in found["runs"]])
    return "\n".join([*lines, "", f"Seconds a run: {seconds}.\n"])


def _seen(values: dict[str, list[float]], arms: Sequence[str]) -> str:
    """The difference to the first arm that so many splits would show with a power of 80 %."""
    spread = [paired(values[arm], values[arms[0]]).deviation for arm in arms[1:]]
    count = len(values[arms[0]])
    least = detectable(mean(spread), count)
    return f"With {count} splits a difference of about {least:.3f} is seen four times in five."


def _columns(count: int) -> list[int]:
    """Layers to show: all, or every so many and the last."""
    step = -(-count // _MOST_COLUMNS)
    return sorted({*range(0, count, step), count - 1})


def _series(values: Sequence[float], shown: Sequence[int]) -> str:
    return ", ".join(f"{values[k]:.2f}" for k in shown)
