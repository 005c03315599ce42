"""A plan: what is compared, written down before it is run, and read from where it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.made_tasks import TASKS
from benchmarks.evidence.readings import READINGS
from bridges.errors import BadInput, check_name, shown, unknown
from bridges.storage.shapes import COUNT, FINITE, TEXT, Each, Optional, misfit
from pets.study.cells.arms import VANILLA, Arm
from pets.study.compare.presets import PRESETS
from pets.tasks.own.task_file import parse_toml
from pets.tuning.models import DTYPES

OPTIONS = (*PRESETS["small"], "ratios", "loss", "schedule")
"""Of a study, as ``bridge-pets compare`` has them."""
_SHAPES: dict[str, Any] = {
    **{name: [TEXT] for name in ("tasks", "pets", "arms", "readings", "text")},
    **{name: [COUNT] for name in ("shots", "seeds")},
    **{name: [FINITE] for name in ("weights", "ratios")},
    **dict.fromkeys(("model", "dtype", "loss", "schedule"), TEXT),
    "lr": FINITE,
}
"""What is said of a study; all that is not here is a count."""
_OF_STUDY = {
    n: Optional(_SHAPES.get(n, COUNT)) for n in ("model", "dtype", "readings", "text", *OPTIONS)
}
_COMPARISON: dict[str, Any] = {"name": TEXT, "studies": [TEXT], "arm": TEXT, "controls": [TEXT]}
_PLAN: dict[str, Any] = {
    "models": Each(TEXT),
    "text": [TEXT],
    "common": _OF_STUDY,
    "studies": [{"name": TEXT, **_OF_STUDY}],
    "comparisons": [_COMPARISON],
}
_BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Study:
    """A comparison of arms.

    Attributes:
        name: of its folder.
        model: one of the plan's.
        options: of ``bridge-pets compare``, all that are needed; tasks are names of
            `benchmarks.evidence.made_tasks.TASKS`.
        readings: what is asked of its tuned PETs, of `benchmarks.evidence.readings.READINGS`.
        dtype: of the frozen weights.
        text: files that its costs are fitted on, where they are others than the plan's.
    """

    name: str
    model: str
    options: Mapping[str, Any] = field(hash=False)
    readings: tuple[str, ...] = ()
    dtype: str = DTYPES[0]
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What a verdict is given on.

    Attributes:
        name: above its table.
        studies: where it is; a pair is a study, a task of it and a split.
        arm: which is compared with vanilla.
        controls: which it has to beat too.
    """

    name: str
    studies: tuple[str, ...]
    arm: str
    controls: tuple[str, ...]

    @property
    def baselines(self) -> tuple[str, ...]:
        """All that the arm is compared with: a family of as many tests."""
        return (VANILLA, *self.controls)


@dataclass(frozen=True)
class Plan:
    """What a plan's one block of TOML says.

    Attributes:
        models: by name, the names of their folders.
        text: files that costs are fitted on, seen from the shared data, where a study has no others.
        studies: in the order in which they run.
        comparisons: those that count; the first is the primary one.
    """

    models: Mapping[str, str]
    text: tuple[str, ...]
    studies: tuple[Study, ...]
    comparisons: tuple[Comparison, ...]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan in a Markdown file.

        Raises:
            BadInput: if there is not one block of TOML in it, or that says what is no plan.
        """
        try:
            blocks = _BLOCK.findall(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"plan {path} cannot be read: {error.strerror}") from error
        if len(blocks) != 1:
            raise BadInput(f"plan {path} has {len(blocks)} blocks of ```toml, expected one")
        try:
            return cls.of(parse_toml(blocks[0]))
        except ValueError as error:  # of a key or a value, or no TOML at all
            raise BadInput(f"plan {path}: {error}") from error

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Plan:
        """From what the TOML says.

        Raises:
            BadInput: for a key that is missing or that there is not, or a value that is none.
        """
        _check_keys("plan", said, tuple(_PLAN))
        if wrong := misfit(said, _PLAN):
            raise BadInput(wrong)
        models, common = said["models"], said["common"]
        studies = tuple(_study(own, common, models) for own in said["studies"])
        names = [study.name for study in studies]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadInput(f"studies: {shown(twice[0])} is there twice")
        comparisons = tuple(_comparison(told, studies) for told in said["comparisons"])
        return cls(models, tuple(said["text"]), studies, comparisons)


def _study(own: Mapping[str, Any], common: Mapping[str, Any], models: Mapping[str, str]) -> Study:
    options = {**common, **own}
    _check_keys("study", options, ("name", *_OF_STUDY))
    for key in ("model", "tasks", "arms", "seeds"):
        if key not in options:
            raise BadInput(f"study {shown(own['name'])} lacks {key!r}")
    name, model = options.pop("name"), options.pop("model")
    readings, text = (tuple(options.pop(key, ())) for key in ("readings", "text"))
    dtype = check_name("dtype", options.pop("dtype", DTYPES[0]), DTYPES)
    check_name("model", model, models)
    for reading in readings:
        check_name("reading", reading, READINGS)
    for task in options["tasks"]:
        check_name("task", task, TASKS)
    for arm in options["arms"]:
        Arm.parse(arm)
    return Study(name, model, options, readings, dtype, text)


def _comparison(told: Mapping[str, Any], studies: Sequence[Study]) -> Comparison:
    _check_keys("comparison", told, tuple(_COMPARISON))
    arms = {study.name: study.options["arms"] for study in studies}
    for name in told["studies"]:
        for arm in (told["arm"], *told["controls"]):
            check_name("arm", arm, arms[check_name("study", name, tuple(arms))])
    return Comparison(told["name"], tuple(told["studies"]), told["arm"], tuple(told["controls"]))


def _check_keys(what: str, said: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in said:
        if key not in keys:
            raise unknown(f"key of the {what}", key, keys)
