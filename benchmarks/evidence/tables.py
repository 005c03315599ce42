"""The tables of the evidence: the verdict, and one a question and study, effects with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.evidence.plan import Comparison, Plan, Study
from benchmarks.evidence.questions import (
    ACCURACY,
    QUESTIONS,
    Answer,
    Question,
    answer,
    pairs,
    steps_to,
    table,
)
from benchmarks.evidence.records import Cell
from bridges.errors import BadInput
from pets.study.cells.arms import VANILLA
from pets.study.statistics.arm_differences import Setting
from pets.study.statistics.intervals import Summary
from pets.study.statistics.paired import ERROR, difference, holm
from pets.study.statistics.power import detectable

_READ = (
    "Vanilla: mean (deviation over splits, count). Other arms: mean difference to vanilla, paired by "
    "split, with its 95 % interval; bold where p is below 0.05 after Holm's correction over the table."
)
_TITLE = f"""# The evidence in detail

Made from `results/evidence/`; what it says is in [EVIDENCE.md](EVIDENCE.md). {_READ}"""


Facts = Mapping[str, Mapping[str, Any]]
"""Of a study what its cells do not say, see `benchmarks.evidence.records.write_facts`."""


def summary(plan: Plan, cells: Mapping[str, Sequence[Cell]], facts: Facts) -> str:
    """The verdicts, then the scores of each study.

    Args:
        plan: what was to be run.
        cells: what was, by study.
        facts: likewise.
    """
    parts = [verdict(one, [cells.get(name, ()) for name in one.studies]) for one in plan.comparisons]
    parts.append(_READ)
    for study in plan.studies:
        own = cells.get(study.name, ())
        parts.append(_heading(study, own) + _untuned(facts.get(study.name, {})))
        if scores := answer(own, ACCURACY):
            parts.append(_effects(ACCURACY, scores))
    return "\n\n".join(parts) + "\n"


def details(plan: Plan, cells: Mapping[str, Sequence[Cell]], facts: Facts) -> str:
    """A page of everything else that was asked of the studies that were run.

    Args:
        plan: what was to be run.
        cells: what was, by study.
        facts: likewise.
    """
    parts = [_TITLE]
    for study in plan.studies:
        if own := cells.get(study.name, ()):
            parts += [_heading(study, own), *_of_study(own)]
            if times := facts.get(study.name, {}).get("step_times"):
                parts.append(_prices(times))
    return "\n\n".join(parts) + "\n"


def verdict(compared: Comparison, studies: Sequence[Sequence[Cell]]) -> str:
    """A comparison that counts: the arm against vanilla and every control.

    A pair is a study, a task and a split. Intervals hold together (Bonferroni), p are Holm's, for as
    many tests as there are baselines.
    """
    tests = len(compared.baselines)
    lines = [
        f"### The {compared.name} comparison: `{compared.arm}`\n",
        "| against | pairs | mean difference in accuracy [95 % for all at once] | p (Holm, "
        f"{tests} tests) | true difference seen four times in five |",
        "| --- | --- | --- | --- | --- |",
    ]
    scores = {name: _pairs(studies, compared.arm, name) for name in compared.baselines}
    if not all(len(ours) > 1 for ours, _ in scores.values()):
        return f"{lines[0]}\nNot run to its end: no verdict."
    error = ERROR / tests
    found = {name: difference(ours, theirs, (0.0, 1.0)) for name, (ours, theirs) in scores.items()}
    adjusted = holm([d.p for d in found.values()])
    for (name, one), p in zip(found.items(), adjusted, strict=True):
        low, high = one.interval(error)
        least = detectable(one.deviation, one.count, error)
        lines.append(
            f"| {_code(name)} | {one.count} | {_interval(one.mean, low, high)} | {p:.2g} | {least:.3f} |"
        )
    clear = [name for name, one in found.items() if one.interval(error)[0] > 0]
    if len(clear) == len(found):
        said = "Above vanilla and above every control, with every corrected interval clear of 0."
    elif VANILLA in clear:
        said = "Above vanilla with the corrected interval clear of 0, but not above every control."
    else:
        said = "Not above vanilla with the corrected interval clear of 0: the goal is not reached."
    return "\n".join([*lines, "", said])


def _pairs(
    studies: Sequence[Sequence[Cell]], arm: str, baseline: str
) -> tuple[list[float], list[float]]:
    ours, theirs = [], []
    for cells in studies:
        for arms in table(cells, ACCURACY.value).values():
            own, other = pairs(arms, arm, baseline)
            ours += own
            theirs += other
    return ours, theirs


def _heading(study: Study, cells: Sequence[Cell]) -> str:
    if not cells:
        return f"## {study.name}\n\nNot run."
    seeds = len({cell.seed for cell in cells})
    expected = len(study.options["seeds"])
    of = "" if seeds == expected else f" of {expected} that were planned"
    return f"## {study.name}\n\n{study.model}, {len(cells)} cells, {seeds} splits{of}."


def _untuned(facts: Mapping[str, Any]) -> str:
    scores = [f"{score:.3f} on {task}" for task, score in facts.get("untuned", {}).items()]
    return f" Before it is tuned the model is at {', '.join(scores)}." if scores else ""


def _of_study(cells: Sequence[Cell]) -> Iterable[str]:
    for question in QUESTIONS:
        if question is not ACCURACY and (found := answer(cells, question)):
            yield _effects(question, found)
    yield _steps(cells)
    if scores := answer(cells, ACCURACY):
        yield _spread(scores)


def _table(title: str, columns: Iterable[object], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A row for each arm, an entry for each column."""
    names = [str(column) for column in columns]
    lines = [f"**{title}\n", f"| arm | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {_code(arm)} | {' | '.join(entries)} |" for arm, entries in rows]
    return "\n".join(lines)


def _arms(keys: Iterable[tuple[Setting, str]]) -> list[str]:
    return list(dict.fromkeys(arm for _, arm in keys))


def _effects(question: Question, found: Answer) -> str:
    rows = [
        (arm, [_entry(found, setting, arm) for setting in found.settings]) for arm in _arms(found.values)
    ]
    return _table(f"{question.title}** ({found.family} tests)", found.settings, rows)


def _entry(found: Answer, setting: Setting, arm: str) -> str:
    if (setting, arm) not in found.values:
        return ""
    if arm == VANILLA:
        own = found.values[setting, arm]
        deviation = "" if own.count == 1 else f"{own.deviation:.3f}, "
        return f"{own.mean:.3f} ({deviation}{own.count})"
    if (setting, arm) not in found.effects:
        return ""
    effect = found.effects[setting, arm]
    one = effect.difference
    if one.count == 1:
        return f"{_signed(one.mean)} (1)"
    text = _interval(one.mean, one.low, one.high)
    return f"**{text}**" if effect.adjusted_p < ERROR else text


def _steps(cells: Sequence[Cell]) -> str:
    """In how many splits an arm came to vanilla's last dev score, and in how many steps there."""
    found = steps_to(cells)
    settings = list(dict.fromkeys(setting for setting, _ in found))

    def entry(steps: Sequence[int | None]) -> str:
        came = [step for step in steps if step is not None]
        middle = f"; {median(came):g}" if came else ""
        return f"{len(came)} of {len(steps)}{middle}" if steps else ""

    return _table(
        "Steps to what vanilla scores on dev at its last step** (splits that came there; median of "
        "their steps)",
        settings,
        [(arm, [entry(found.get((setting, arm), [])) for setting in settings]) for arm in _arms(found)],
    )


def _spread(found: Answer) -> str:
    def entry(own: Summary | None) -> str:
        return "" if own is None or own.count == 1 else f"{own.deviation:.3f}"

    rows = [
        (arm, [entry(found.values.get((setting, arm))) for setting in found.settings])
        for arm in _arms(found.values)
    ]
    return _table("Deviation of the accuracy over splits**", found.settings, rows)


def _interval(mean: float, low: float, high: float) -> str:
    return f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _prices(times: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A step's time over vanilla's, taken in turn; memory as what it keeps for the backward pass."""

    def entry(own: Mapping[str, Mapping[str, float]], arm: str) -> str:
        one, plain = own.get(arm), own.get(VANILLA, {})
        if one is None:
            return ""
        known = "memory" in one and "memory" in plain
        memory = f"; {one['memory'] / plain['memory']:.3f}" if known else ""
        return f"{one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f}){memory}"

    arms = dict.fromkeys(arm for own in times.values() for arm in own)
    return _table(
        "A training step's time over vanilla's** (median of rounds in turn; 20 to 80 % of them), "
        "and what it keeps for the backward pass, over vanilla's",
        times,
        [(arm, [entry(own, arm) for own in times.values()]) for arm in arms],
    )


def _code(arm: str) -> str:
    return arm if arm == VANILLA else f"`{arm}`"


BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def put_into(page: str, tables: str) -> str:
    """A page with the tables between its two marks.

    Raises:
        BadInput: if the marks are not there, once each, in this order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise BadInput(f"the page has no {BEGIN} with an {END} behind it: put them where tables go")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"
