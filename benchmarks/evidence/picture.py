"""The picture of EVIDENCE.md: what each arm adds to the accuracy of the PET alone, place by place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.places import place_name
from benchmarks.evidence.plan import Plan
from benchmarks.evidence.questions import ACCURACY, Effect, answer
from benchmarks.evidence.records import Cell
from pets.inside.images import new_figure, style
from pets.inside.plots import check_picture, save_picture
from pets.study.report.effects import draw_interval
from pets.study.statistics.paired import ERROR

_SHOWN, _HIDDEN = "#0072B2", "0.55"
_MANY = 3  # studies: a panel for each arm of one or two would be too many
_WIDEST = 0.2  # of accuracy, to either side

Place = tuple[str, str]
"""A study, and how a setting of it is called here."""
Effects = Mapping[str, Mapping[Place, Effect]]
"""By arm, then by place, in the order of the plan."""


def effects(plan: Plan, cells: Mapping[str, Sequence[Cell]]) -> Effects:
    """The differences to vanilla in accuracy, in all studies that were run.

    Of the arms of the plan's comparisons, and of others that were tried in three studies or more.
    """
    found: dict[str, dict[Place, Effect]] = {}
    for study in plan.studies:
        told = answer([cell for cell in cells.get(study.name, ()) if cell.is_accuracy], ACCURACY)
        for (setting, arm), effect in (told.effects if told else {}).items():
            place = study.name, f"{place_name(study, setting)} ({effect.difference.count})"
            found.setdefault(arm, {})[place] = effect
    compared = {arm for one in plan.comparisons for arm in (one.arm, *one.controls)}
    return {arm: own for arm, own in found.items() if arm in compared or _studies(own) >= _MANY}


def _studies(own: Iterable[Place]) -> int:
    return len({study for study, _ in own})


def draw(plan: Plan, found: Effects, path: Path) -> None:
    """A panel for each arm, a line for each place; a PNG file.

    Args:
        plan: whose comparisons come first.
        found: its `effects`.
        path: of the file.

    Raises:
        BadInput: if matplotlib is not installed, or something other than a picture of this project is
            there.
    """
    check_picture(path)
    planned = {name for one in plan.comparisons for name in one.studies}
    places = list(dict.fromkeys(place for own in found.values() for place in own))
    places.sort(key=lambda place: place[0] not in planned)
    apart = sum(study in planned for study, _ in places) - 0.5
    with style():
        figure = new_figure(3.2 + 1.45 * len(found), 1.4 + 0.26 * len(places))
        axes = figure.subplots(1, len(found), squeeze=False, sharey=True, sharex=True)[0]
        for axis, (arm, own) in zip(axes, found.items(), strict=True):
            _panel(axis, arm, [own.get(place) for place in places])
            axis.axhline(apart, color="0.7", linewidth=0.7, linestyle=":")
        axes[0].set_yticks(range(len(places)), [name for _, name in places])
        axes[0].set_ylim(len(places) - 0.5, -0.5)
        axes[0].set_xlim(*_limits(found))
        figure.suptitle(
            "Accuracy minus that of the PET alone, mean and 95 % interval over splits (their number in "
            "brackets); above the dotted line the planned comparisons.\nFilled: p below 0.05 after "
            "Holm's correction over a study. An interval at the edge goes on beyond it.",
            fontsize=9,
        )
        save_picture(figure, path, 110)


def _panel(axis: Any, arm: str, own: Sequence[Effect | None]) -> None:
    axis.axvline(0, color="0.3", linewidth=0.9)
    axis.grid(alpha=0.25, axis="x")
    axis.tick_params(axis="y", length=0)
    axis.set_title(arm.replace("@", "\n@"), fontsize=8.5)
    for place, effect in enumerate(own):
        if effect is None:
            continue
        told = effect.adjusted_p < ERROR
        draw_interval(axis, effect.difference, place, _SHOWN if told else _HIDDEN, told)


def _limits(found: Effects) -> tuple[float, float]:
    """From the least to the greatest end of an interval; a rare wide one is cut."""
    ones = [effect.difference for own in found.values() for effect in own.values()]
    ends = [end for one in ones for end in ((one.low, one.high) if one.count > 1 else (one.mean,))]
    return max(min(ends) - 0.01, -_WIDEST), min(max(ends) + 0.01, _WIDEST)
