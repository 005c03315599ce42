"""The demo's whole path at minuscule size: table, picture, resuming. `make demo` is the real one."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

import bridges
from pets.demo import demo
from pets.demo.tiny_lm import Settings, tiny_lm
from pets.inside import plots

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = dataclasses.replace(Settings(), hidden=32, layers=2, heads=2, steps=2, length=48)
    monkeypatch.setattr(demo, "tiny_lm", functools.partial(tiny_lm, settings=settings))
    monkeypatch.setattr(demo, "MAX_LENGTH", 48)
    monkeypatch.setattr(
        demo, "FITTING", {"max_steps": 2, "max_length": 16, "batch_size": 4, "held_out": 8}
    )
    monkeypatch.setattr(demo, "TUNING", {"shots": 2, "max_steps": 2, "batch_size": 2, "eval_every": 1})
    monkeypatch.setenv("BRIDGE_PETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("small")
def test_demo_writes_table_and_picture_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    first = demo.run(out, 2)
    assert list(first) == ["vanilla", "brownian", "ou"]
    assert all(len(values) == 2 for values in first.values())
    assert "paired difference to vanilla" in (out / "table.md").read_text()
    assert (out / "trajectories.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "by-depth.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "chance 0.25" in said
    assert "At layer 1 of 2 a linear probe, fitted on vanilla's states" in said
    monkeypatch.setattr(bridges.RunningCost, "fit", lambda *a, **k: pytest.fail("fitted again"))
    assert demo.run(out, 2) == first


def test_the_picture_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(bridges.BadInput, match=r"pip install .*'matplotlib"):
        plots.require()


def test_a_picture_leaves_the_users_figures_and_backend_alone(tmp_path: Path) -> None:
    """In a notebook the user's own figures are shown by a backend that Agg must not replace."""
    import matplotlib
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    matplotlib.use("svg")
    figure = pyplot.figure()
    try:
        brownian = bridges.BrownianBridge()
        panel = plots.Panel("x", brownian, {"good": torch.rand(3, 5)})
        plots.plot_trajectories(tmp_path / "x.png", [[panel, panel]])
        assert matplotlib.get_backend() == "svg"
        assert pyplot.get_fignums() == [figure.number]
    finally:
        pyplot.close(figure)
        matplotlib.use(before)


@pytest.mark.parametrize(("columns", "alike"), [(1, True), (2, False)])
def test_the_panels_of_a_single_column_have_one_scale_and_a_title_in_the_picture(
    columns: int, alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(plots, "save_picture", lambda figure, *_: kept.append(figure))
    brownian = bridges.BrownianBridge()
    low, high = (plots.Panel("x", brownian, {"good": torch.full((3, 5), v)}) for v in (0.0, 9.0))
    plots.plot_trajectories(tmp_path / "x.png", [[low] * columns, [high] * columns])
    (figure,) = kept
    figure.draw_without_rendering()
    scales = {axes.get_ylim() for axes in figure.axes}
    assert (len(scales) == 1) is alike
    title = figure.get_suptitle()
    (text,) = (text for text in figure.texts if text.get_text() == title)
    box = text.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_panels_show_the_bridge_they_are_given(tmp_path: Path) -> None:
    """The tube's edges are the mean plus and minus two deviations of the process."""
    from matplotlib import pyplot

    ou = bridges.get("ou", theta=3.0)
    assert isinstance(ou, bridges.GaussianBridge)
    figure, axis = pyplot.subplots()
    plots._draw(axis, plots.Panel("x", ou, {"good": torch.rand(3, 5)}))
    (tube,) = axis.collections
    outline = torch.tensor(tube.get_paths()[0].vertices)
    middle = outline[(outline[:, 0] - 0.5).abs() < 1e-9][:, 1]
    mean, variance = ou.marginal(torch.tensor([0.5], dtype=torch.float64))
    expected = torch.stack([mean - 2 * variance.sqrt(), mean + 2 * variance.sqrt()]).flatten()
    torch.testing.assert_close(middle.sort().values, expected, rtol=0, atol=1e-6)
    drawn = [line for line in axis.get_lines() if line.get_label() == "good"]
    assert torch.tensor(drawn[0].get_xdata()).tolist() == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]
    )
    pyplot.close(figure)
