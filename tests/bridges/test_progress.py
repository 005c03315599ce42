"""Progress: a bar on a terminal, few whole lines elsewhere; by a clock that the test turns."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest
from tqdm import tqdm

from bridges.progress import Lines, progress_bar


class Stream(io.StringIO):
    """A stderr that is a terminal, or none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("bridges.progress._clock", found)
    return found


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Stream:
    found = Stream(terminal=False)
    monkeypatch.setattr("bridges.progress.sys", SimpleNamespace(stderr=found))
    return found


def test_in_a_log_a_line_comes_every_ten_seconds(clock: Clock, log: Stream) -> None:
    with progress_bar(total=100, desc="fit", unit="step", initial=20) as bar:
        bar.set_postfix_str("held-out cost 3")
        for _ in range(40):  # 4 steps a second
            clock.now += 0.25
            bar.update()
        bar.set_postfix_str("held-out cost 2")
        for _ in range(8):
            clock.now += 2.5
            bar.update()
    assert log.getvalue().splitlines() == [
        "fit: 60 of 100 steps, 00:10 so far, 4.00 steps/s, 00:10 left, held-out cost 3",
        "fit: 64 of 100 steps, 00:20 so far, 2.20 steps/s, 00:16 left, held-out cost 2",
        "fit: 68 of 100 steps, 00:30 so far, 1.60 steps/s, 00:20 left, held-out cost 2",
    ]
    assert "\r" not in log.getvalue()


def test_thousands_of_fast_steps_are_one_line(clock: Clock, log: Stream) -> None:
    for _ in progress_bar(range(5120), desc="pretraining", unit="step"):
        clock.now += 2**-10
    assert log.getvalue() == "pretraining: 5120 of 5120 steps, 00:05 so far, 1024.00 steps/s\n"


def test_slow_work_says_how_long_one_takes(clock: Clock, log: Stream) -> None:
    seen = []
    for item in progress_bar(iter("ab"), desc="analyses", unit="PET"):
        seen.append(item)
        clock.now += 30
    assert seen == ["a", "b"]
    assert log.getvalue().splitlines()[0] == "analyses: 1 PETs, 00:30 so far, 30.0 s/PET"


def test_what_fails_says_how_far_it_came(clock: Clock, log: Stream) -> None:
    bar = progress_bar(total=3, desc="tune", unit="step")
    bar.update()
    with pytest.raises(KeyError), bar:
        raise KeyError
    assert log.getvalue() == "tune: 1 of 3 steps, 00:00 so far\n"


def test_on_a_terminal_it_is_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Stream(terminal=True)
    monkeypatch.setattr("bridges.progress.sys", SimpleNamespace(stderr=terminal))
    with progress_bar(total=10, initial=2, desc="fit", unit="step") as bar:
        assert type(bar) is tqdm
        bar.update(3)
        bar.set_postfix_str("held-out cost 1.2")
    assert "fit:  50%" in terminal.getvalue()
    assert "5/10" in terminal.getvalue()
    assert "held-out cost 1.2" in terminal.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_not_shown_writes_nothing(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(terminal)
    monkeypatch.setattr("bridges.progress.sys", SimpleNamespace(stderr=stream))
    assert [*progress_bar("abc", desc="fit", unit="step", shown=False)] == ["a", "b", "c"]
    with progress_bar(total=2, desc="fit", unit="step", shown=False) as bar:
        bar.update()
        bar.set_postfix_str("more")
    assert stream.getvalue() == ""


def test_lines_end_once(clock: Clock, log: Stream) -> None:
    bar = Lines(None, desc="fit", unit="step", total=None, initial=0)
    bar.close()
    bar.close()
    assert log.getvalue() == "fit: 0 steps, 00:00 so far\n"


class Kernel:
    """What IPython says of itself in a notebook."""

    config: ClassVar = {"IPKernelApp": {}}


@pytest.mark.parametrize(("kernel", "widget"), [(Kernel(), True), (SimpleNamespace(config={}), False)])
def test_a_notebook_has_a_widget(kernel: object, widget: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a script or an IPython shell has none."""
    made: list[dict[str, object]] = []
    shell = SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(
        sys.modules, "tqdm.auto", SimpleNamespace(tqdm=lambda items, **given: made.append(given))
    )
    monkeypatch.setattr("sys.stderr", Stream(terminal=False))
    bar = progress_bar(desc="fit", unit="step", total=3)
    assert isinstance(bar, Lines) != widget
    assert made == ([{"desc": "fit", "unit": "step", "total": 3, "initial": 0}] if widget else [])
    progress_bar(desc="fit", unit="step", total=3, shown=False)
    assert len(made) == widget  # what is not shown is no widget
