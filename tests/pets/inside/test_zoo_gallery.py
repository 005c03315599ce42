"""The gallery: a card of everything, right, escaped, and asking for nothing outside; and the site's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from places import REPOSITORY
from torch import Tensor
from zoo_cases import BRIDGES
from zoo_tools import late_and_needing

import bridges
from pets import regularizers
from pets.cli import cli, main
from pets.inside import zoo_gallery
from pets.inside.zoo_cards import GROUPS, Card, cards
from pets.inside.zoo_entries import DRAWN, chosen
from pets.regularizers import Objective
from pets.regularizers.passes import Pass

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def all_cards() -> dict[str, Card]:
    return {card.title: card for card in cards(chosen([], DRAWN))}


class Page(HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


def test_everything_has_a_card_in_its_group(all_cards: dict[str, Card]) -> None:
    groups = {g: [c.title for c in all_cards.values() if c.group == g] for g in GROUPS}
    assert groups == {
        "processes": ["alpha", "brownian", "fractional", "gp", "ou", "random", "smooth", "student"],
        "learned": ["clock", "sde"],
        "labels": ["axis", "posterior"],
        "controls": ["kinetic", "none", "regression"],
        "other-costs": [],
        "regularizers": ["anchor", "contrast", "early-exit", "jump"],
        "other-regularizers": [
            *("dropout", "label-smoothing", "neftune", "r-drop", "r3f", "weight-decay")
        ],
    }
    assert list(all_cards) == [title for members in groups.values() for title in members]
    assert sorted(all_cards) == sorted([*BRIDGES, *regularizers.available()])


def test_a_card_says_what_its_record_says_and_has_its_pictures(all_cards: dict[str, Card]) -> None:
    for title, card in all_cards.items():
        kind: Any = bridges if title in BRIDGES else regularizers
        record = kind.info(title)
        assert (card.description, card.purpose) == (record.description, record.purpose)
        assert ",  ".join(card.formula) == record.formula
        assert len(card.parameters) == len(record.defaults)
        assert not card.reason
        names = [drawing.name.removeprefix(f"{title}-") for drawing in card.drawings]
        expected = {"controls": ["weights"], "regularizers": ["weights"], "other-regularizers": []}
        assert names == expected.get(card.group, ["paths", "weights"])
        assert card.about or card.drawings
        for drawing in card.drawings:
            assert drawing.image.suffix == ".svg"
            assert len(drawing.image.data) < 60_000
            assert drawing.image.width <= 460, "it is read on a phone"
    assert "theta=1.0" in all_cards["ou"].parameters
    assert "weight (its lambda), tried from 0.1 to 100" in all_cards["jump"].parameters
    assert "64 made-up targets" in all_cards["contrast"].about
    reading = {name: card.about for name, card in all_cards.items() if card.group[:5] == "other"}
    assert reading["r-drop"] == "It reads the model's answers of two forwards, not its layers."
    assert reading["label-smoothing"] == "It reads the model's answers of the forward, not its layers."
    assert "inside the training forward" in reading["neftune"]
    assert "PET's parameters" in reading["weight-decay"]


def test_pictures_name_their_axes_and_draw_the_tube(all_cards: dict[str, Card]) -> None:
    paths, weights = (drawing.image.data.decode() for drawing in all_cards["ou"].drawings)
    for label in ("depth (0: start, 1: label)", "latent towards the label's end point v", "mean"):
        assert f">{label}</text>" in paths
    for label in ("layer (0: embedding, 24: last)", "weight on the layer's distance to v", "ou"):
        assert f">{label}</text>" in weights
    (share,) = (drawing.image.data.decode() for drawing in all_cards["jump"].drawings)
    assert ">share of the pull on the states</text>" in share


def test_what_a_card_says_in_python_makes_what_is_drawn(all_cards: dict[str, Card]) -> None:
    for title, card in all_cards.items():
        if title in BRIDGES:
            first, second = card.python.splitlines()
            scope: dict[str, Any] = {"bridges": bridges}
            exec(first, scope)
            word = re.fullmatch(r'cost = bridges\.RunningCost\.for_model\(plm, "(.*)"\)', second)[1]  # type: ignore[index]
            made = bridges.parse(word)
            assert made.hyperparameters == scope["bridge"].hyperparameters
            assert isinstance(made, bridges.info(title).cls)
        else:
            word = re.fullmatch(r'handle = pets\.regularize\(model, "(.*)"\)', card.python)[1]  # type: ignore[index]
            assert isinstance(regularizers.parse(word), regularizers.info(title).cls)
        command = shlex.split(card.console)
        assert command[0] == "bridge-pets"
        assert command[3] == word


def test_what_a_card_says_for_a_shell_are_options_that_there_are(all_cards: dict[str, Card]) -> None:
    """And all that the command cannot do without."""
    asked = [shlex.split(card.console) for card in all_cards.values()]
    assert {command for _, command, *_ in asked} == {"fit", "compare", "tune"}
    context = click.Context(cli)
    for _, name, *words in asked:
        command = cli.get_command(context, name)
        assert command is not None
        given = {word for word in words if word.startswith("--")}
        assert given <= {option for p in command.params for option in p.opts}
        assert all(given & set(p.opts) for p in command.params if p.required)


@pytest.fixture
def plug_ins() -> None:
    """Of others: one that works, and some of each kind that do not."""

    late, _ = late_and_needing()
    late.__doc__ = """<script>alert("x")</script> *late* & `so`"""
    late.formula = "m(t) = t^3,  s2(t) = t (1 - t) <b>"
    late.purpose = 'Says <i>"it"</i> with `a < b` and an odd ` one'

    class Raising(late, name="raising"):  # type: ignore[misc]
        def __init__(self) -> None:
            raise RuntimeError("no <luck>")

    class Endless(late, name="endless"):  # type: ignore[misc]
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t) * torch.nan

    class Shapeless(bridges.Cost, name="shapeless"):
        """A cost of no process."""

        def cost(self, latent_map: Any, trajectory: Any, end: Tensor, **options: Any) -> Tensor:
            return latent_map(trajectory).square().mean((0, 2))

    class Lonely(Objective, name="lonely"):
        """Wants a model."""

        reads = frozenset({"states"})

        def term(self, seen: Pass) -> Tensor:
            raise bridges.BadInput("attach me first")

    class Tried(Objective, name="tried"):
        tried = (-1.0, 1.0)

    assert late


def test_a_plug_in_has_a_card_from_its_record_alone_and_a_broken_one_the_reason(
    plug_ins: None, tmp_path: Path
) -> None:
    names = ["late", "needing", "raising", "endless", "shapeless", "lonely", "tried", "needing:speed=2"]
    found = {card.title: card for card in cards(chosen(names, DRAWN))}
    assert [card.group for card in found.values()] == [
        *["processes"] * 5,
        "other-costs",
        "regularizers",
        "other-regularizers",
    ]
    assert not found["late"].reason
    assert len(found["late"].drawings) == len(found["needing:speed=2"].drawings) == 2
    assert found["needing"].reason == "It has no default for speed."
    assert found["needing"].python.startswith('bridge = bridges.get("needing", speed=...)')
    assert found["needing"].purpose == "", "of its base, not of it"
    assert found["raising"].reason == "RuntimeError: no <luck>"
    assert found["endless"].reason
    assert [d.name for d in found["shapeless"].drawings] == ["shapeless-weights"]
    assert found["lonely"].reason == "BadInput: attach me first"
    assert found["tried"].reason.startswith("ValueError")

    target = tmp_path / "gallery.html"
    main(["zoo", *names, "--plot", str(target)])
    text = target.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; *late* &amp; `so`" in text
    assert "Says &lt;i&gt;&#34;it&#34;&lt;/i&gt; with `a &lt; b` and an odd ` one" in text
    assert "Not all of it can be drawn: RuntimeError: no &lt;luck&gt;" in text

    md = zoo_gallery.render_markdown(list(found.values()))
    assert "&lt;script&gt;" in md
    assert "<script" not in md
    assert re.findall(r"^## (.*)$", md, re.MULTILINE) == list(found)


def test_the_page_is_whole_and_asks_for_nothing_outside(tmp_path: Path) -> None:
    target = tmp_path / "new" / "gallery.html"
    main(["zoo", "--plot", str(target)])
    first = target.read_bytes()
    page = Page(first.decode())
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    assert {link[1:] for link in links if link[0] == "#"} <= set(ids)
    assert all(link[0] == "#" for link in links)
    assert {*BRIDGES, *regularizers.available()} <= set(ids)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "xlink:href"):
            assert str(attributes.get(name) or "data:").startswith(("data:", "#"))
    used = set(re.findall(r"url\(#([^)]*)\)", first.decode())) | {
        str(a["href"])[1:] for tag, a in page.tags if tag == "use"
    }
    assert used <= set(ids), "the pictures find their own parts"
    assert len(first) < 1_500_000
    main(["zoo", "--plot", str(target)])
    assert target.read_bytes() == first, "ours is replaced, and the same each time"


def test_the_site_has_the_gallery(tmp_path: Path) -> None:
    """Built strictly, with the hook alone."""
    pytest.importorskip("mkdocs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Site\n\n[OU](gallery.md#ou)\n")
    config = tmp_path / "mkdocs.yml"
    hook = REPOSITORY / "docs" / "hooks" / "gallery.py"
    config.write_text(
        f"site_name: site\ntheme: mkdocs\nhooks: [{hook}]\nnav: [index.md, gallery.md]\n"
        "validation: {links: {anchors: warn}}\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from mkdocs.__main__ import cli; cli()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "build",
            "--strict",
            "-q",
            "-f",
            config,
            "-d",
            tmp_path / "site",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "site" / "gallery"
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert {*BRIDGES, *regularizers.available()} <= set(page.ids())
    pictures = {str(a["src"]) for tag, a in page.tags if tag == "img"}
    assert {path.name for path in folder.glob("*.svg")} == pictures
    assert {"ou-paths.svg", "ou-weights.svg", "anchor-weights.svg"} <= pictures
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    assert not list((tmp_path / "docs").glob("gallery*")), "nothing is written beside the sources"
