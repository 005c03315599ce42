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
from zoo_tools import late_and_needing

import bridges
from pets import regularizers
from pets.cli import main
from pets.inside import plots, zoo_gallery
from pets.inside import zoo_picture as zoo
from pets.inside.zoo_entries import SHOWN
from pets.inside.zoo_weights import layer_weights

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


def panels(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """The axes that the command drew, by title: paths and weights, or weights alone."""
    drawn: dict[str, Any] = {}
    original = zoo.draw

    def watched(examples: Any) -> Any:
        figure = original(examples)
        axes = iter(figure.axes)
        for found in examples:
            drawn[found.entry.title] = tuple(next(axes) for _ in range(1 + found.draws_paths))
        return figure

    monkeypatch.setattr(zoo, "draw", watched)
    main(["zoo", *arguments])
    return drawn


def test_the_command_lists_and_draws_every_bridge_whatever_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late, _ = late_and_needing()

    class Broken(late, name="broken"):  # type: ignore[misc]
        def sample(self, t: Tensor, end: Tensor, **options: Any) -> Tensor:
            raise RuntimeError("out of luck")

        def covariance(self, s: Tensor, t: Tensor) -> Tensor:
            return torch.minimum(s, t) * (1 - torch.maximum(s, t))

    target = tmp_path / "new" / "zoo.png"
    drawn = panels(monkeypatch, "--plot", str(target))
    shown = capsys.readouterr()
    assert target.read_bytes().startswith(b"\x89PNG")
    assert "student\n  Student-t process" in shown.out
    assert shown.err == f"wrote {target}\n"
    states = ["anchor", "contrast", "early-exit", "jump"]
    assert list(drawn) == [*bridges.available(), *states]
    said = {name: [t.get_text() for t in axes[0].texts] for name, axes in drawn.items()}
    assert said["late"] == ["no joint law, so no paths", "v"]
    assert said["needing"] == ["It has no default for speed."]
    assert said["broken"] == ["RuntimeError: out of luck"]
    assert said["regression"] == ["24% on the last quarter"]
    assert said["none"] == ["no layer has a weight"]
    assert said["ou"] == said["sde"] == said["student"] == ["v"]
    assert said["axis"] == ["v", "another label"]
    assert not drawn["needing"][0].patches
    assert len(drawn["broken"][1].patches) == 25, "the weights are there"

    left, right = drawn["ou"]
    ou = bridges.get("ou", **SHOWN["ou"])
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
    means = [line for line in drawn["posterior"][0].lines if line.get_linewidth() == 2.6]
    assert [line.get_ydata()[-1] for line in means] == [1, -1]
    (colour,) = drawn["posterior"][0].images
    z, t = (torch.linspace(*ends, 121).double() for ends in ((-2.4, 2.4), (0, 1)))
    torch.testing.assert_close(
        torch.as_tensor(colour.get_array()),
        torch.sigmoid(2 * z[:, None] / (1 - t[1:-1])),
        rtol=1e-4,
        atol=1e-4,
    )
    assert len(drawn["axis"][0].collections) == 2, "a tube for each of the two labels"
    tops = f64(*(bar.get_y() + bar.get_height() for bar in right.patches))
    torch.testing.assert_close(tops, layer_weights(ou, 25).clamp(min=1e-4), rtol=1e-9, atol=0)
    (axis,) = drawn["anchor"]
    heights = f64(*(bar.get_height() for bar in axis.patches))
    torch.testing.assert_close(heights, torch.full((25,), 1 / 25).double())


def test_names_and_texts_choose_what_is_listed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "two.svg"
    words = ("ou:theta=8", "b*", "ou:theta=8", "early-exit:first=0.2", "dropout", "rte")
    drawn = panels(monkeypatch, *words, "--plot", str(target))
    assert list(drawn) == ["brownian", "ou:theta=8", "early-exit:first=0.2"]
    listed = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert listed[1:3] == ["brownian", "ou:theta=8"]
    assert listed[3:] == [
        *("PETs", "bitfit", "Regularizers", "dropout", "early-exit:first=0.2", "Tasks", "rte")
    ]
    assert drawn["ou:theta=8"][0].get_title("right") == "theta=8.0"
    tops = f64(*(bar.get_y() + bar.get_height() for bar in drawn["ou:theta=8"][1].patches))
    expected = layer_weights(bridges.parse("ou:theta=8"), 25).clamp(min=1e-4)
    torch.testing.assert_close(tops, expected, rtol=1e-9, atol=0)
    early = drawn["early-exit:first=0.2"][0].patches
    assert [bar.get_height() > 0 for bar in early] == [False] * 5 + [True] * 19 + [False]
    first = target.read_bytes()
    assert first.startswith(b"<?xml")
    main(["zoo", *words, "--plot", str(target)])
    assert target.read_bytes() == first, "ours is replaced, and the same each time"


def test_the_parameters_of_a_text_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "ou:theta=8"])
    assert "parameters: theta=8.0, sigma=1.0, likelihood=marginal, learn\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--plot", "zoo.jpg"), "--plot 'zoo.jpg': expected a name that ends in .png, .svg or .html"),
        (("--plot", "zoo"), "expected a name that ends in"),
        (("--plot", "file/zoo.png"), "file/zoo.png could not be written"),
        (("--plot", "file/zoo.html"), "file/zoo.html could not be written"),
        (("--plot", "mine.svg"), "mine.svg exists and is no picture of bridge-pets"),
        (("--plot", "mine.html"), "mine.html exists and is no gallery of bridge-pets"),
        (("--plot", "link.svg"), "link.svg is a symbolic link"),
        (("rte", "dropout", "--plot", "a.png"), "nothing of it has layers to draw"),
        (("rte", "lora", "--plot", "a.html"), "nothing of it has a card"),
        (("uo:theta=8",), "unknown name 'uo'; did you mean 'ou'"),
        (("ou:tetha=8",), "bridge 'ou' has no parameter 'tetha'"),
        (("ou:theta=-8",), "theta=-8.0"),
        (("early-exit:first=2",), "first=2"),
        (("lora:r=8",), "lora:r=8: parameters are taken of bridges and regularizers here"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("mine.svg").write_text("<svg>drawn for bridge-pets by hand</svg>")
    Path("mine.html").write_text("<title>bridge-pets zoo, and what I think of it</title>")
    Path("link.svg").symlink_to("mine.svg")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as stopped:
        main(["zoo", *arguments])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("missing", "target"), [("matplotlib", "zoo.png"), ("matplotlib", "a.html"), ("jinja2", "a.html")]
)
def test_the_picture_needs_matplotlib_and_the_gallery_jinja(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    target: str,
) -> None:
    for module in (plots, zoo_gallery):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else True)
    with pytest.raises(SystemExit) as stopped:
        main(["zoo", "--plot", str(tmp_path / target)])
    assert stopped.value.code == 2
    assert (
        f"need{'s' * (missing == 'jinja2')} {missing}, which is not installed" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_the_picture_in_the_docs_is_small_and_ours() -> None:
    data = (DOCS / "zoo.png").read_bytes()
    assert len(data) < 500_000
    assert b"Software\0bridge-pets" in data[:4096]
