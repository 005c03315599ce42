"""The tables of the evidence: the verdict, and one a question and study, effects with intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.evidence.markdown import code, interval, signed, table
from benchmarks.evidence.places import everywhere
from benchmarks.evidence.plan import Plan, Study
from benchmarks.evidence.questions import (
    ACCURACY,
    QUESTIONS,
    Answer,
    Effect,
    Question,
    answer,
    compared,
    family,
    steps_to,
    values_of,
)
from benchmarks.evidence.records import Cell
from benchmarks.evidence.verdict import verdict
from bridges.errors import BadInput
from pets.study.cells.arms import VANILLA
from pets.study.statistics.intervals import Summary
from pets.study.statistics.paired import ERROR
from pets.study.statistics.power import detectable
from pets.study.statistics.setting import Setting

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
    parts += [*([everywhere(plan, cells)] if plan.comparisons else []), _READ]
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
            parts.append(_heading(study, own))
            for arm, controls in _controls(plan).items():
                parts += _over_controls(arm, controls, own)
            parts += _of_study(own)
            if times := facts.get(study.name, {}).get("step_times"):
                parts.append(_prices(times))
    return "\n\n".join(parts) + "\n"


def _controls(plan: Plan) -> Mapping[str, Sequence[str]]:
    """Of each arm that the plan compares, all that it has to beat anywhere but vanilla."""
    found: dict[str, dict[str, None]] = {}
    for one in plan.comparisons:
        found.setdefault(one.arm, {}).update(dict.fromkeys(one.controls))
    return {arm: tuple(controls) for arm, controls in found.items()}


def _heading(study: Study, cells: Sequence[Cell]) -> str:
    if not cells:
        return f"## {study.name}\n\nNot run."
    seeds = len({cell.seed for cell in cells})
    expected = len(study.options["seeds"])
    of = "" if seeds == expected else f" of {expected} that were planned"
    return f"## {study.name}\n\n{study.model} in {study.dtype}, {len(cells)} cells, {seeds} splits{of}."


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


def _arms(keys: Iterable[tuple[Setting, str]]) -> list[str]:
    return list(dict.fromkeys(arm for _, arm in keys))


def _effects(question: Question, found: Answer) -> str:
    rows = [
        (arm, [_entry(found, setting, arm) for setting in found.settings]) for arm in _arms(found.values)
    ]
    return table(question.title, _power(found.effects.values()), found.settings, rows)


def _over_controls(arm: str, controls: Sequence[str], cells: Sequence[Cell]) -> Iterable[str]:
    """The accuracy of an arm minus that of each control, where a study has any."""
    by = values_of(cells, ACCURACY.value)
    found = compared(by, [(arm, control) for control in controls], ACCURACY.span)
    if not found:
        return
    settings = list(dict.fromkeys(setting for setting, _, _ in found))

    def entries(control: str) -> list[str]:
        effects = [found.get((setting, arm, control)) for setting in settings]
        return ["" if effect is None else _effect(effect) for effect in effects]

    rows = [(one, entries(one)) for one in dict.fromkeys(control for _, _, control in found)]
    title = f"Accuracy of {code(arm)} minus that of"
    yield table(title, _power(found.values()), settings, rows)


def _power(effects: Collection[Effect]) -> str:
    """How many tests there are, and from which to which true differences they tell, each corrected."""
    tests = family(effects)
    ones = [effect.difference for effect in effects if effect.difference.count > 1]
    least = sorted(detectable(one.deviation, one.count, ERROR / tests) for one in ones)
    if not least:
        return f"{tests} tests"
    span = f"{least[0]:.3f} to {least[-1]:.3f}"
    return f"{tests} tests; a true difference of {span} is told four times in five"


def _entry(found: Answer, setting: Setting, arm: str) -> str:
    if (setting, arm) not in found.values:
        return ""
    if arm == VANILLA:
        own = found.values[setting, arm]
        deviation = "" if own.count == 1 else f"{own.deviation:.3f}, "
        return f"{own.mean:.3f} ({deviation}{own.count})"
    if (setting, arm) not in found.effects:
        return ""
    return _effect(found.effects[setting, arm])


def _effect(effect: Effect) -> str:
    one = effect.difference
    if one.count == 1:
        return f"{signed(one.mean)} (1)"
    text = interval(one.mean, one.low, one.high)
    return f"**{text}**" if effect.adjusted_p < ERROR else text


def _steps(cells: Sequence[Cell]) -> str:
    """In how many splits an arm came to vanilla's last dev score, and in how many steps there."""
    found = steps_to(cells)
    settings = list(dict.fromkeys(setting for setting, _ in found))

    def entry(steps: Sequence[int | None]) -> str:
        came = [step for step in steps if step is not None]
        middle = f"; {median(came):g}" if came else ""
        return f"{len(came)} of {len(steps)}{middle}" if steps else ""

    return table(
        "Steps to what vanilla scores on dev at its last step",
        "splits that came there; median of their steps",
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
    return table("Deviation of the accuracy over splits", "", found.settings, rows)


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
    return table(
        "A training step's time over vanilla's; what it keeps for the backward pass, over vanilla's",
        "time: median of rounds in turn, 20 to 80 % of them",
        times,
        [(arm, [entry(own, arm) for own in times.values()]) for arm in arms],
    )


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
