"""The first lines: what to use, how sure that is and at what price, or that nothing beats vanilla."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from pets.study.cells.arms import BRIDGE, CONTROL, REGULARIZER, VANILLA
from pets.study.report.document import Answer, interval, listed, number, p_value, plural, signed, size
from pets.study.report.scopes import Scope
from pets.study.statistics.arm_differences import ArmDifference
from pets.study.statistics.paired import ERROR, ROUNDING
from pets.study.statistics.power import detectable, pairs_needed

_FEWEST = 3  # pairs; from fewer a spread is hardly known
_EFFECTS = (0.02, 0.05)  # for which the number of pairs is told where there are too few
_KINDS = {BRIDGE: "bridges", REGULARIZER: "regularizers", CONTROL: "controls"}
_SURE = (
    (0.001, "as good as certain"),
    (0.01, "very sure"),
    (ERROR, "fairly sure"),
)
"""Below which corrected p how sure a difference is."""


def answer(scope: Scope) -> Answer:
    """The first line of one scope, and what else has to be known of it."""
    told = _told(scope)
    if not told:
        return Answer(
            f"There is nothing to compare on {scope.name}: no arm shares a seed with {VANILLA}."
        )
    most = max(c.difference.count for c in told)
    if most < _FEWEST:
        return _too_few(scope, told, most)
    if not _spread(told) and all(abs(c.difference.mean) <= ROUNDING for c in scope.against.values()):
        return Answer(
            f"Nothing can be said of {scope.name}: every run scores what {VANILLA}'s of the same split "
            f"does ({_pairs(_fullest(told))}), as where nothing is learned.",
            "Take more steps or another learning rate, and look whether the scores of the selection "
            "examples move.",
        )
    better, more = _clear(told, 1), []
    controls = _clear(scope.of_kind(CONTROL), 1)
    apart = [c for c in scope.candidates if c not in told and c.significant]
    worse = [*_clear(told, -1), *_clear(scope.of_kind(CONTROL), -1)]
    if better and better[0].arm in {c.arm for c in scope.candidates}:
        first = _use(scope, better[0])
        more += [f"Better than {VANILLA} too: {_arms(scope, better[1:])}."] if better[1:] else []
        more += [*_elsewhere(better[0]), *_doubts(scope, better[0], controls)]
    elif controls:
        first = (
            f"Only a control beats {VANILLA} on {scope.name}: {_arm(scope, controls[0])}. What a "
            "control gains speaks for no bridge and no regularizer."
        )
        more += [f"The gain of {_bound(scope, told)}", _power(scope, told)] if scope.candidates else []
    else:
        first = f"Nothing beats {VANILLA} on {scope.name}: the gain of {_bound(scope, told)}"
        more.append(_power(scope, told))
    more += [f"Worse than {VANILLA}: {_arms(scope, worse)}."] if worse else []
    more += [f"Seen in fewer settings: {_arms(scope, apart)}."] if apart else []
    return Answer(first, " ".join(more))


def _told(scope: Scope) -> list[ArmDifference]:
    """What the first line is about: arms that are no controls, where there are any.

    Of pooled settings those that ran in several: what ran in one only is no answer for all.
    """
    told = scope.candidates or list(scope.against.values())
    return [c for c in told if len(c.settings) > 1] or told


def _clear(comparisons: Iterable[ArmDifference], sign: int) -> list[ArmDifference]:
    """The significant ones of a sign, largest first."""
    found = [c for c in comparisons if c.significant and sign * c.difference.mean > 0]
    return sorted(found, key=lambda c: -abs(c.difference.mean))


def _use(scope: Scope, best: ArmDifference) -> str:
    d = best.difference
    sure = next(words for bound, words in _SURE if best.adjusted_p < bound)
    if best.over_examples is not None and best.over_examples[0] <= 0:
        sure += " on these examples"
    where = scope.name if len(best.settings) == len(scope.settings) else best.where
    return (
        f"On {where}, use {best.arm}: {signed(d.mean)} {scope.metric} over {VANILLA} "
        f"{interval(d.low, d.high)}, {sure} ({_pairs(best)}, corrected p {p_value(best.adjusted_p)}), "
        f"{_price(scope, best.arm)}."
    )


def _price(scope: Scope, arm: str) -> str:
    price = scope.prices.get(arm)
    if price is None:
        return "at a price that was not measured"
    if price.memory is None:
        return f"for {price.time:.2f} times the time of a step"
    kept = f" ({size(price.kept)})" if price.kept else ""
    return f"for {price.time:.2f} times the time and {price.memory:.2f} times the memory{kept} of a step"


def _elsewhere(best: ArmDifference) -> list[str]:
    """What is left of the gain where not only the splits might have been others."""
    if best.over_examples is None or best.by_example is None:
        return []
    low, high = best.over_examples
    count = f"{best.by_example.shape[1]:,}"
    doubt = "" if low > 0 else ": more scored examples would tell whether it holds for new ones"
    return [
        f"The interval is over splits; were the {count} scored examples others too, it is "
        f"{interval(low, high)}{doubt}."
    ]


def _doubts(scope: Scope, best: ArmDifference, controls: Sequence[ArmDifference]) -> list[str]:
    """What the controls say of the arm that is to be used."""
    told = []
    if controls:
        told.append(f"But controls beat {VANILLA} as well: {_arms(scope, controls)}.")
    own = {c: found for (arm, c), found in scope.to_controls.items() if arm == best.arm}
    alike = [c for c, found in own.items() if not (found.significant and found.difference.mean > 0)]
    if alike and scope.kinds[best.arm] == BRIDGE:
        told.append(
            f"It is not shown to be better than its {'control' if len(alike) == 1 else 'controls'} "
            f"{listed(alike)}, so the gain need not be the bridge's."
        )
    elif scope.kinds[best.arm] == BRIDGE and not own:
        told.append("No control of it was run, so the gain need not be the bridge's.")
    return told


def _bound(scope: Scope, told: Sequence[ArmDifference]) -> str:
    most = max(c.simultaneous[1] for c in told if c.family)
    kinds = dict.fromkeys(_KINDS[scope.kinds[c.arm]] for c in told)
    arms = told[0].arm if len(told) == 1 else f"any of the {len(told)} {listed(list(kinds))}"
    if not _spread(told):
        return f"{arms} has no bound, as all pairs differ alike ({_pairs(_fullest(told))})."
    held = "95 %" if len(told) == 1 else "95 %, all of them at once"
    return f"{arms} is at most {signed(most)} {scope.metric} ({held}; {_pairs(_fullest(told))})."


def _power(scope: Scope, told: Sequence[ArmDifference]) -> str:
    best, fullest, spread = max(told, key=lambda c: c.difference.mean), _fullest(told), _spread(told)
    head = f"{'The best of them' if len(told) > 1 else 'Measured'}: {_arm(scope, best)}."
    if not spread:
        return f"{head} All pairs differ alike, so these numbers do not know their own spread."
    least = detectable(spread, fullest.difference.count, ERROR / max(1, fullest.family))
    return (
        f"{head} With these pairs a true difference of {number(least)} would have been seen four times "
        "in five, a smaller one less often."
    )


def _too_few(scope: Scope, told: Sequence[ArmDifference], most: int) -> Answer:
    first = (
        f"Nothing can be said of {scope.name} yet: {plural(most, 'pair')} of runs with {VANILLA} "
        f"{'is' if most == 1 else 'are'} too few, {_FEWEST} are the least."
    )
    if most < 2:
        return Answer(first, "With a second seed the spread is seen, and how many are needed.")
    spread = _spread(told)
    if not spread:
        return Answer(first, "All pairs differ alike so far, so how many are needed cannot be told.")
    needed = [(effect, pairs_needed(effect, spread, ERROR / len(told))) for effect in _EFFECTS]
    numbers = [
        f"{effect} takes {'over 10,000' if n is None else f'about {n:,}'}" for effect, n in needed
    ]
    return Answer(
        first,
        f"At the spread seen (deviation {number(spread)}, itself hardly known from {most}), to see a "
        f"true difference of {' pairs and of '.join(numbers)} pairs, four times in five.",
    )


def _fullest(told: Sequence[ArmDifference]) -> ArmDifference:
    return max(told, key=lambda c: c.difference.count)


def _spread(told: Sequence[ArmDifference]) -> float:
    """The deviation of a pair's difference, over the arms that have all pairs; 0 for rounding alone."""
    count = _fullest(told).difference.count
    found = math.sqrt(fmean(c.difference.deviation**2 for c in told if c.difference.count == count))
    return found if found > ROUNDING else 0.0


def _pairs(c: ArmDifference) -> str:
    """How many, and of what where they are not just seeds."""
    pairs = plural(c.difference.count, "pair")
    return pairs if len(c.settings) == 1 else f"{pairs} of a task and a seed"


def _arms(scope: Scope, comparisons: Sequence[ArmDifference]) -> str:
    return ", ".join(_arm(scope, c) for c in comparisons)


def _arm(scope: Scope, c: ArmDifference) -> str:
    d = c.difference
    numbers = f"{c.arm} {signed(d.mean)} {interval(d.low, d.high)}, corrected p {p_value(c.adjusted_p)}"
    return numbers if len(c.settings) == len(scope.settings) else f"{numbers} ({c.where})"
