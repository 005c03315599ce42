"""Tables of `benchmarks.anytime`'s result files: accuracy before the last layer, and paired differences.

python -m benchmarks.anytime_tables anytime_minilm.json anytime_smollm2.json
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.anytime_runs import EARLY_EXIT, TRUNCATED, VANILLA
from pets.study.cells import depth
from pets.study.statistics.intervals import summarise
from pets.study.statistics.paired import PairedDifference, difference, holm
from pets.study.statistics.power import detectable

SHARES = tuple(depth.SHARES.items())
_READERS = ("exit", "probe", "head", "lens")
_SPAN = (0.0, 1.0)


@dataclass(frozen=True)
class Setting:
    """The runs of one task and number of shots on one model.

    Attributes:
        name: of the three.
        layers: L.
        arms: by arm the runs, by split.
    """

    name: str
    layers: int
    arms: Mapping[str, Mapping[int, Mapping[str, Any]]]

    def at(self, share: float) -> int:
        """The layer at a share of the depth; one before the last."""
        return min(max(1, math.floor(share * self.layers + 0.5)), self.layers - 1)

    def values(self, arm: str, reader: str, share: float | None) -> dict[int, float]:
        """Accuracies by split: of what a reader says at a share of the depth, or of the full model."""
        runs = self.arms.get(arm, {})
        if share is None or arm.startswith(TRUNCATED):
            return {split: run["full"] for split, run in runs.items()}
        layer = self.at(share)
        return {split: run[reader][layer - 1] for split, run in runs.items() if reader in run}


@dataclass(frozen=True)
class Comparison:
    """A paired difference, and what it is of."""

    setting: str
    what: str
    share: str
    found: PairedDifference


def settings(record: Mapping[str, Any]) -> Iterator[Setting]:
    """Of one result file."""
    found: dict[tuple[str, int], dict[str, dict[int, Any]]] = {}
    for run in record["runs"]:
        arms = found.setdefault((run["task"], run["shots"]), {})
        arms.setdefault(run["arm"], {})[run["split"]] = run
    for (task, shots), arms in found.items():
        yield Setting(f"{record['model']}, {task}, {shots} shots", record["layers"], arms)


def accuracies(setting: Setting) -> str:
    """Means and deviations: a row for each arm and reader."""
    layers = [f"{name} (layer {setting.at(share)} of {setting.layers})" for name, share in SHARES]
    lines = [f"| {setting.name} | {' | '.join([*layers, 'full model'])} |", "| --- " * 5 + "|"]
    for arm in setting.arms:
        readers = ("own head",) if arm.startswith(TRUNCATED) else _READERS
        for reader in readers:
            cells = [setting.values(arm, reader, share) for _, share in SHARES]
            if reader == "own head":
                own = int(arm.rsplit("-", 1)[1])
                cells = [
                    c if setting.at(s) == own else {} for c, (_, s) in zip(cells, SHARES, strict=True)
                ]
            full = {} if reader == "own head" else setting.values(arm, reader, None)
            told = [_cell(list(cell.values())) for cell in (*cells, full)]
            lines.append(f"| {arm}, {reader} | {' | '.join(told)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    found = summarise(values)
    return f"{found.mean:.3f} ({found.deviation:.3f}, n {found.count})"


def comparisons(setting: Setting) -> Iterator[Comparison]:
    """What is asked of a setting: the exits against all that people would use in their place."""
    arms = [arm for arm in setting.arms if not arm.startswith(TRUNCATED)]
    for name, share in SHARES:
        against = {
            "probe on vanilla": setting.values(VANILLA, "probe", share),
            "full vanilla model": setting.values(VANILLA, "exit", None),
            "exit on vanilla": setting.values(VANILLA, "exit", share),
            "head of early-exit": setting.values(EARLY_EXIT, "head", share),
        }
        for arm in setting.arms:
            if arm.startswith(TRUNCATED) and int(arm.rsplit("-", 1)[1]) == setting.at(share):
                against["model truncated, then tuned"] = setting.values(arm, "", None)
        for arm in arms:
            mine = setting.values(arm, "exit", share)
            for what, theirs in against.items():
                both = sorted(mine.keys() & theirs.keys())
                if len(both) < 2 or (what == "exit on vanilla" and arm == VANILLA):
                    continue
                found = difference([mine[s] for s in both], [theirs[s] for s in both], _SPAN)
                yield Comparison(setting.name, f"exit on {arm} - {what}", name, found)


def differences(found: Sequence[Comparison]) -> str:
    """Mean, 95 % interval and p of each, Holm's over all of them, and what could have been seen."""
    adjusted = holm([one.found.p for one in found])
    lines = [
        "| setting | difference | depth | mean [95 %] | n | p | Holm | seen with 80 % power |",
        "| --- " * 8 + "|",
    ]
    for one, p in zip(found, adjusted, strict=True):
        d = one.found
        seen = detectable(d.deviation, d.count)
        lines.append(
            f"| {one.setting} | {one.what} | {one.share} "
            f"| {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] | "
            f"{d.count} | {d.p:.3g} | {p:.3g} | {seen:.3f} |"
        )
    return "\n".join(lines)


def anytime_table(name: str, record: Mapping[str, Any]) -> str:
    """Of `benchmarks.anytime`: accuracies by depth, and the exits against what people would use."""
    found = record["anytime"]
    lines = [
        f"## How early the answer is there, {found['model']}: `results/{name}`\n",
        "LoRA on the queries and values (r 8, learning rate 0.001, batch 8; 60 steps, 120 with 64 "
        "shots), cross-entropy among the label words in every arm, nothing selected: the last step. "
        "Accuracy on the same 300 test examples of what a layer says, mean (deviation, number of "
        "splits). The exit and the probe have learned from the same labelled examples, the K a class "
        "that the PET was tuned on and K more; the lens has only its temperature and bias from them, "
        "the head nothing. An arm's number is the ratio of its cost's gradient to the task's, 0.5 "
        "where none stands there; early-exit has weight 0.3. `truncated` is the model cut at that "
        "layer, then tuned, with its own head.\n",
    ]
    every: list[Comparison] = []
    for setting in settings(found):
        lines += [accuracies(setting), ""]
        every += comparisons(setting)
    lines += [
        "Paired differences over splits, 95 % t intervals; Holm's correction over all of this table:\n",
        differences(every),
        "",
    ]
    return "\n".join(lines)


def times_table(name: str, record: Mapping[str, Any]) -> str:
    """Of `benchmarks.anytime_times`."""
    found = record["anytime_times"]
    lines = [
        f"## What leaving early saves, {found['model']}: `results/{name}`\n",
        f"32 prompts of {found['tokens']:.0f} tokens on average, in {found['dtype']}, a LoRA on the "
        f"model. `cut` is the model cut at layer {found['layer']} of {found['layers']} with its exit; "
        f"in `leaving` rows leave at the first layer that is {found['threshold']:g} sure. Times of the "
        "full model over theirs, round by round, p20 / p50 / p80.\n",
        "| batch | full, ms a prompt | full / cut | full / leaving | mean layer of leaving |",
        "| --- " * 5 + "|",
    ]
    for size, batch in found["batches"].items():
        full = sorted(batch["milliseconds"]["full"])[len(batch["milliseconds"]["full"]) // 2] / 32
        told = [_quantiles(batch[f"full / {way}"]) for way in ("cut", "leaving")]
        lines.append(f"| {size} | {full:.1f} | {' | '.join(told)} | {batch['mean_layer']:.1f} |")
    return "\n".join([*lines, ""])


def _quantiles(found: Mapping[str, float]) -> str:
    return " / ".join(f"{found[q]:.2f}" for q in ("p20", "p50", "p80"))
