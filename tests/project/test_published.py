"""docs/published.md says what the code does: every ``name=value`` in it, every option, every fault."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import click
import pytest
from places import REPOSITORY

import bridges
from bridges import FitSettings
from pets import methods, tasks
from pets.cli import cli
from pets.study.cells.grid import Grid
from pets.study.compare.presets import PRESETS
from pets.tasks.protocol import OURS, PROTOCOLS, PUBLISHED, Protocol
from pets.tuning.settings import TuneSettings

PAGE = (REPOSITORY / "docs" / "published.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")]
SAID = re.findall(r"`([\w-]+)\.(\w+)=([^`]+)`", PAGE)
"""(owner, name, value) of everything in the tables."""
_OWNERS: dict[str, Any] = {
    "OURS": OURS,
    "PUBLISHED": PUBLISHED,
    "TuneSettings": TuneSettings(),
    "FitSettings": FitSettings(),
}


def actual(owner: str, name: str) -> Any:
    if owner in _OWNERS:
        return getattr(_OWNERS[owner], name)
    if owner in tasks.available():
        return getattr(tasks.get(owner), name)
    if owner in methods.available():
        if name == "learning_rate":
            return methods.learning_rate(owner)
        cls = methods.info(owner).cls
        return cls.settings.get(name, getattr(cls.config_class, name, None))
    return bridges.get(owner).hyperparameters[name]


def written(value: str) -> Any:
    return json.loads({"True": "true", "False": "false"}.get(value, value))


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if hasattr(value, "items") else value


@pytest.mark.parametrize(("owner", "name", "value"), SAID)
def test_what_is_said_of_a_value_is_so(owner: str, name: str, value: str) -> None:
    assert plain(actual(owner, name)) == written(value)


def test_every_difference_of_the_protocols_is_in_the_tables() -> None:
    for protocol, called in ((OURS, "OURS"), (PUBLISHED, "PUBLISHED")):
        named = {name for owner, name, _ in SAID if owner == called} | {"name"}
        assert named == {field.name for field in dataclasses.fields(Protocol)}
        assert PROTOCOLS[protocol.name] is protocol


def test_every_setting_of_a_run_or_a_fit_that_the_paper_names_is_in_the_tables() -> None:
    named = {name for owner, name, _ in SAID if owner == "TuneSettings"}
    assert {"max_length", "weight_decay", "batch_size", "max_steps", "eval_every", "schedule"} <= named
    fit = {name for owner, name, _ in SAID if owner == "FitSettings"}
    assert {"max_steps", "batch_size", "max_length", "learning_rate", "mask_share", "masking"} <= fit
    assert {task for task, name, _ in SAID if name == "words"} == set(tasks.available())


def test_what_is_bold_is_what_the_option_changes() -> None:
    """By the rows: a bold one has another cell under `published` than by default, any other has not."""
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != 5 or cells[0] in ("what", "---"):
            continue
        unchanged = cells[3].startswith(("the same", "as by default", "float32", "off", "without"))
        if cells[0] in ("share masked", "80/10/10"):  # follow from the masking
            continue
        assert cells[0].startswith("**") != unchanged, row


def test_all_ten_faults_are_named() -> None:
    numbers = [int(match) for row in ROWS if (match := row.strip("| ").partition(" ")[0]).isdigit()]
    assert numbers == list(range(1, 11))
    assert set(map(int, re.findall(r"Fault (\d+)", PAGE))) <= set(numbers)


def test_the_options_it_names_exist() -> None:
    named = dict(re.findall(r"`(tune|compare|fit) --([\w-]+)", PAGE))
    assert named == {"tune": "protocol", "compare": "protocol", "fit": "whole-words"}
    context = click.Context(cli)
    for name, option in [*named.items(), ("tune", "schedule"), ("compare", "schedule")]:
        command = cli.get_command(context, name)
        assert command is not None
        assert f"--{option}" in {opt for p in command.params for opt in p.opts}
    assert bridges.parse("sde:reads=state").hyperparameters["reads"] == "state"


def test_a_comparison_hands_the_protocol_and_the_schedule_on() -> None:
    options = {**PRESETS["quick"], "protocol": "published", "schedule": "cosine"}
    grid = Grid.of_options(options)
    for cell in grid.cells():
        for settings in grid.tries(cell):
            assert (settings.conventions, settings.schedule) == (PUBLISHED, "cosine")
    assert FitSettings(**grid.fit).masking == "words"
    plain_grid = Grid.of_options(PRESETS["quick"])
    assert plain_grid.settings == dataclasses.replace(
        grid.settings, protocol="ours", schedule="constant"
    )
    assert "masking" not in plain_grid.fit
    full, few = PRESETS["paper-full"], PRESETS["paper-fewshot"]
    assert (full["steps"], full["batch_size"], full["seeds"]) == (50_000, 32, (42, 43, 44))
    assert (few["fit_steps"], few["fit_batch_size"], few["fit_length"]) == (100_000, 128, 512)
