"""`bridge-pets zoo --plot`, and docs/zoo.md against the registry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from places import REPOSITORY
from torch import Tensor
from zoo_cases import BRIDGES, f64

import bridges
from bridges.latent.trajectory import layer_times
from pets import regularizers
from pets.cli import main
from pets.inside import plots
from pets.inside import zoo_picture as zoo

pytestmark = pytest.mark.slow

DOCS = REPOSITORY / "docs"


def rows(file: str = "zoo.md") -> dict[str, list[str]]:
    """The cells of a document's table by name; of docs/zoo.md's: formula, parameters, purpose."""
    text = (DOCS / file).read_text(encoding="utf-8")
    found = {}
    for line in re.findall(r"^\| `.*$", text, re.MULTILINE):
        name, *cells = (cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        found[name] = [cell.replace("\\|", "|") for cell in cells]
    return found


def test_the_table_names_every_bridge() -> None:
    assert list(rows()) == BRIDGES, "docs/zoo.md is stale: a row for each bridge, sorted"


@pytest.mark.parametrize("name", BRIDGES)
def test_a_row_has_the_registered_formula_parameters_and_purpose(name: str) -> None:
    record, (formula, parameters, purpose) = bridges.info(name), rows()[name]
    assert formula == record.formula
    own = [f"{k}={v}" for k, v in record.defaults.items() if k not in ("likelihood", "learn")]
    assert parameters == (", ".join(own) or "none")
    assert linked_as_text(purpose) == record.purpose
    assert len(purpose) > 30


def test_the_table_of_regularizers_has_each_with_its_purpose() -> None:
    found = {name: cells[-1] for name, cells in rows("regularizers.md").items()}
    assert found == {name: regularizers.info(name).purpose for name in regularizers.available()}
    assert all(found.values())
    assert all(regularizers.info(name).formula for name in found)


def linked_as_text(cell: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("brownian:sigma=2", lambda t: t / (1 - t) / 8),
        ("smooth", lambda t: 1.5 / (1 - t) ** 2),
        ("alpha:alpha=2", lambda t: 1.5 * (1 - (1 - t) ** 2) ** 2 / (1 - t - (1 - t) ** 4)),
        ("student:nu=5", lambda t: (5 + 1) / (5 - 2) * t / (1 - t) / 2),
    ],
)
def test_layer_weights_are_the_costs(word: str, expected: Any) -> None:
    """In closed form; 1e-5 is what second differences a thousandth of a deviation wide leave."""
    found = zoo.layer_weights(bridges.parse(word), 25)
    torch.testing.assert_close(found, expected(layer_times(25)), rtol=1e-5, atol=0)


def test_layer_weights_of_the_sde_cost_are_the_integral_of_its_density() -> None:
    """Against a brownian target sum_i w_i / (L+1) is half the integral of (1 - t)^-2, less the share of
    the cost that falls on t = 0, before the first layer.
    """
    weights = zoo.layer_weights(bridges.get("sde"), 25)
    last = 25 / 26
    assert weights.shape == (25,)
    assert 0.98 * last / (1 - last) / 2 < weights.mean() < last / (1 - last) / 2
    # A linear share of each gap's weight, so nearly the density where layers are close.
    assert weights[12].item() == pytest.approx(25 / 26 / 2 / (1 - 0.5) ** 2, rel=0.01)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("axis:process=brownian:sigma=2", lambda t: t / (1 - t) / 8),
        ("posterior", lambda t: t / (1 - t) / 2),
        ("posterior:over=prefixes", lambda t: t / (1 - t) / 2 * torch.arange(25, 0, -1) / 25),
        ("posterior:until=0.4", lambda t: t / (1 - t) / 2 * (torch.arange(25) < 10)),
        ("axis:layers=flat", lambda t: (t / (1 - t) / 2).mean().expand(25)),
    ],
)
def test_layer_weights_of_a_cost_about_the_label_are_its_slopes(word: str, expected: Any) -> None:
    found = zoo.layer_weights(bridges.parse(word), 25)
    torch.testing.assert_close(found, expected(layer_times(25)), rtol=1e-9, atol=1e-12)


def test_layer_weights_of_a_cost_without_a_mean_count_from_the_end_point() -> None:
    class Flat(bridges.Regression, name="flat"):
        """|z - v|^2 / 2 in every layer, and no process."""

    torch.testing.assert_close(zoo.layer_weights(bridges.get("flat"), 3), f64(0.5, 0.5, 0.5))


def panels(monkeypatch: pytest.MonkeyPatch, target: Path) -> dict[str, tuple[Any, Any]]:
    """The pairs of axes that the command drew, by title."""
    drawn: dict[str, tuple[Any, Any]] = {}
    original = zoo._draw

    def watched(record: bridges.BridgeInfo, left: Any, right: Any) -> None:
        original(record, left, right)
        drawn[record.name] = left, right

    monkeypatch.setattr(zoo, "_draw", watched)
    main(["zoo", "--plot", str(target)])
    return drawn


def test_the_command_lists_and_draws_every_bridge_whatever_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Late(bridges.GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    class Needing(Late, name="needing"):
        def __init__(self, speed: float) -> None:
            super().__init__()
            self.speed = speed

    target = tmp_path / "new" / "zoo.png"
    drawn = panels(monkeypatch, target)
    shown = capsys.readouterr()
    assert target.read_bytes().startswith(b"\x89PNG")
    assert "student\n  Student-t process" in shown.out
    assert shown.err == f"wrote {target}\n"
    assert list(drawn) == bridges.available()
    said = {name: [t.get_text() for t in left.texts] for name, (left, _) in drawn.items()}
    assert said["late"] == ["no joint law"]
    assert said["needing"] == ["has no default parameters"]
    assert said["regression"] == ["a cost, no process"]
    assert said["ou"] == said["sde"] == said["student"] == []
    assert len(drawn["needing"][1].patches) == 0

    left, right = drawn["ou"]
    ou = bridges.get("ou", **zoo.SHOWN["ou"])
    assert left.get_title("right") == "theta=5.0"
    (tube,) = left.collections
    outline = torch.tensor(tube.get_paths()[0].vertices)
    middle = outline[(outline[:, 0] - 0.5).abs() < 1e-9][:, 1].sort().values
    half = f64(0.5)
    mean, spread = ou.mean(half, f64(1.0)[None]).item(), 2 * ou.variance(half).sqrt().item()
    torch.testing.assert_close(middle, f64(mean - spread, mean + spread), rtol=0, atol=1e-6)
    left, _ = drawn["random"]
    assert len(left.collections) == 2, "a tube for each of its two candidates"
    outlines = [torch.tensor(tube.get_paths()[0].vertices) for tube in left.collections]
    at_one = [outline[outline[:, 0] == 1][:, 1].unique() for outline in outlines]
    assert [x.tolist() for x in at_one] == [[1.0], [-1.0]]
    assert [line.get_ydata()[-1] for line in drawn["posterior"][0].lines[-2:]] == [1, -1]
    (colour,) = drawn["posterior"][0].collections
    z, t = (torch.linspace(*ends, 161).double() for ends in ((-2.4, 2.4), (0, 1)))
    found = torch.as_tensor(colour.get_array()).reshape(161, 159)
    torch.testing.assert_close(
        found, torch.sigmoid(2 * z[:, None] / (1 - t[1:-1])), rtol=1e-4, atol=1e-4
    )
    assert len(drawn["axis"][0].collections) == 2, "a tube for each of the two labels"
    heights = f64(*(bar.get_height() for bar in right.patches))
    torch.testing.assert_close(heights, zoo.layer_weights(ou, 25), rtol=1e-9, atol=0)


def test_the_picture_needs_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["zoo", "--plot", str(tmp_path / "zoo.png")])
    assert stopped.value.code == 2
    assert "pip install 'matplotlib" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
