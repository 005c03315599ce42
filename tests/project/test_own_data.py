"""docs/own_data.md: its commands run one after another, and say what the page says, numbers aside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from console_page import commands, masked, run_page, written_anew
from places import REPOSITORY

from pets.demo import demo, docstrings
from pets.demo.tiny_lm import Settings, tiny_lm

pytestmark = pytest.mark.slow

PAGE = (REPOSITORY / "docs" / "own_data.md").read_text(encoding="utf-8")


def test_the_page_says_what_its_commands_say(tmp_path: Path) -> None:
    """On the demo's model, in a hurry: words are as on the page, numbers are not."""
    hurried = dataclasses.replace(Settings(), steps=20)
    words = demo.Docstrings().load().task.words
    tiny_lm(tmp_path / "tiny-lm", docstrings.corpus(), words, settings=hurried)
    (tmp_path / "page").mkdir()
    short = PAGE.replace("--steps 100", "--steps 4").replace("--eval-every 25", "--eval-every 2")
    assert short.count("--steps 4") == 3
    found = run_page(short, tmp_path / "page", {"MODEL": str(tmp_path / "tiny-lm")})
    for (command, said), now in zip(commands(PAGE), found, strict=True):
        assert masked(now) == masked(said), command


def test_it_takes_a_newcomer_no_more_than_ten_commands() -> None:
    assert 1 < len(commands(PAGE)) <= 10


def test_a_page_written_anew_has_the_new_outputs_and_nothing_else_changed() -> None:
    page = "a\n```console\n$ one \\\n    --more\nold\n$ two\n```\nb\n```console\n$ three\n```\n"
    assert commands(page) == [("one \\\n    --more", "old\n"), ("two", ""), ("three", "")]
    anew = written_anew(page, ["1\n", "2\n2\n", ""])
    assert anew == page.replace("old", "1").replace("$ two\n", "$ two\n2\n2\n")
    assert commands(written_anew(anew, ["old\n", "", ""])) == commands(page)


def test_what_is_masked_is_numbers_alone() -> None:
    assert masked("took 12.5 s, -3e-05 of torch 2.13.0+cpu") == "took 0, 0 of torch 0"
    assert masked("1 h 20 min or 95 s of 3 seeds") == "0 or 0 of 0 seeds"
