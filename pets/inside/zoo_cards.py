"""The cards of the gallery: what there is to know of each process, cost and regularizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bridges import AboutLabel, Posterior, RandomEndBridge, SDEBridge
from bridges.registry import Info
from pets.inside import images
from pets.inside.images import Image
from pets.inside.zoo_asking import in_a_shell, in_python
from pets.inside.zoo_axes import COST, draw_paths, draw_weights, share_of, weight_of
from pets.inside.zoo_entries import (
    LAYERS,
    Entry,
    Example,
    example,
    group_of,
    told,
    written,
)
from pets.inside.zoo_weights import MADE_UP
from pets.regularizers import Objective

GROUPS = {
    "processes": (
        "Processes",
        "Stochastic bridges: a latent read off the hidden states is to move from 0 at the start to the "
        "label's end point v behind the last layer.",
    ),
    "learned": ("Learned", "Processes and costs of which a fit learns more than how states are read."),
    "labels": (
        "About the label",
        "Costs of what tells the label from the others; what all labels have in common costs nothing.",
    ),
    "controls": ("Controls", "What a claim about bridges has to be measured against."),
    "other-costs": ("Other costs", "Costs of a trajectory that belong to no process."),
    "regularizers": (
        "Regularizers of hidden states",
        "Costs on the states of all layers that need no fit, of the literature. The bars are how their "
        "pull is shared out among the layers, so they cannot be compared with a bridge's weights.",
    ),
    "other-regularizers": (
        "Other regularizers",
        "They do not read hidden states, so no layer has a weight.",
    ),
}
"""Their titles and what they have in common, in their order."""

HOW_TO_READ = (
    f"The pictures are of one dimension and a model with {LAYERS} layers, whose {LAYERS + 1} states lie "
    "at even steps between the start, depth 0, and the label, depth 1. Left: paths drawn from the "
    "process (thin), its mean (thick) and two standard deviations to either side (shaded), all with "
    "sigma 1. Right: which layers the cost holds on to. A cost is the mean over layers of w |p - v|^2, "
    "where the layer's latent is m(t) p, so that p is the end point as that layer tells it; the bars "
    "are w, on a logarithmic scale. Dashed in both: brownian, for comparison."
)

_LONGEST = 60_000  # bytes of an SVG
_HEIGHT = 2.75  # inches


@dataclass(frozen=True)
class Drawing:
    """A picture of a card.

    Attributes:
        name: of its file, without the suffix.
        image: the file.
        alt: what is seen, in words.
    """

    name: str
    image: Image
    alt: str


@dataclass(frozen=True)
class Card:
    """What is said of one; all texts are plain, but for `purpose`, which has code in backticks.

    Attributes:
        anchor: for links, unlike any other's.
        title: its name, with the parameters that were given.
        group: a key of `GROUPS`.
        description: in a line; may be empty, as the next two may.
        formula: its lines.
        purpose: what it is for.
        parameters: each with its default.
        drawings: its pictures.
        about: what they are of, or what is read where no layer has a weight.
        reason: why it, or a part of it, could not be drawn; empty where nothing went wrong.
        python: how to ask for it.
        console: likewise, on the command line.
    """

    anchor: str
    title: str
    group: str
    description: str
    formula: Sequence[str]
    purpose: str
    parameters: Sequence[str]
    drawings: Sequence[Drawing]
    about: str
    reason: str
    python: str
    console: str


def cards(entries: Iterable[Entry]) -> list[Card]:
    """A card of each, by `GROUPS`; what cannot be drawn has one too, which says why.

    Raises:
        BadInput: if matplotlib is not installed.
    """
    order = list(GROUPS)
    ordered = sorted(entries, key=lambda entry: order.index(group_of(entry.record)))
    taken: set[str] = set()
    with images.style():
        return [_card(entry, _anchor(entry.title, taken)) for entry in ordered]


def _anchor(title: str, taken: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9_]+", "-", title.lower()).strip("-") or "card"
    anchor = next(
        a for k in range(len(taken) + 1) if (a := f"{slug}-{k + 1}" if k else slug) not in taken
    )
    taken.add(anchor)
    return anchor


def _card(entry: Entry, anchor: str) -> Card:
    found, record = example(entry), entry.record
    drawings, reasons = _drawings(found, anchor)
    return Card(
        anchor=anchor,
        title=entry.title,
        group=group_of(record),
        description=str(record.description),
        formula=[piece.strip() for piece in re.split(r",\s{2,}", str(record.formula)) if piece.strip()],
        purpose=str(record.purpose),
        parameters=[_parameter(record, name, value) for name, value in record.defaults.items()],
        drawings=drawings,
        about=_about(found, bool(drawings)),
        reason=" ".join(reasons),
        python=in_python(found),
        console=in_a_shell(found),
    )


def _parameter(record: Info[Any], name: str, default: Any) -> str:
    if name == "weight" and issubclass(record.cls, Objective):
        low, high = record.cls.tried
        number = record.cls.number
        said = "weight" if number == "weight" else f"weight (its {number})"
        return f"{said}, tried from {low:g} to {high:g}"
    return written(name, default)


def _drawings(found: Example, anchor: str) -> tuple[list[Drawing], list[str]]:
    """The pictures, and what went wrong."""
    made, reasons = [], [found.reason] if found.reason else []
    if found.draws_paths:
        made.append(("paths", _paths, f"Paths of {found.entry.title} from 0 to v, with mean and tube."))
    if found.weights is not None:
        said = f"Bars: {weight_of(found)}, layer by layer; {share_of(found)}."
        made.append(("weights", _weights, f"{found.entry.title}. {said}"))
    drawn = []
    for name, draw, alt in made:
        try:
            drawn.append(Drawing(f"{anchor}-{name}", images.drawn(draw(found), _LONGEST), alt))
        except Exception as error:  # of a plug-in's own methods
            reasons.append(told(error))
    return drawn, reasons


def _paths(found: Example) -> Any:
    figure = images.new_figure(3.8, _HEIGHT)
    axis = figure.subplots()
    draw_paths(axis, found)
    axis.set(xlabel="depth (0: start, 1: label)", ylabel="latent towards the label's end point v")
    axis.yaxis.label.set_size(8.2)
    _legend(figure, axis)
    return figure


def _weights(found: Example) -> Any:
    figure = images.new_figure(3.0 if found.draws_paths else 4.7, _HEIGHT)
    axis = figure.subplots()
    draw_weights(axis, found)
    axis.set_title(share_of(found), loc="left", color=COST)
    axis.set(xlabel=f"layer (0: embedding, {LAYERS}: last)", ylabel=weight_of(found))
    axis.yaxis.label.set_size(8.2)
    _legend(figure, axis)
    return figure


def _legend(figure: Any, axis: Any) -> None:
    lines, names = axis.get_legend_handles_labels()
    if names:
        look = {"fontsize": 7.5, "handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.0}
        figure.legend(lines, names, loc="outside upper center", ncols=len(names), **look)


def _about(found: Example, is_drawn: bool) -> str:
    """What the pictures are of, or what is read in the place of layers."""
    if found.made is None:
        return ""
    if isinstance(found.made, Objective):
        if "states" not in found.made.reads:
            return _reads(found.made)
        steep = "A bar is how steeply it changes as that state alone moves, in lengths of the state"
        return f"{steep}; they sum to 1. Computed on {MADE_UP}." if is_drawn else ""
    parts = []
    if found.shown:
        parts.append(f"Drawn with {', '.join(f'{k}={v}' for k, v in found.shown.items())}.")
    if isinstance(found.made, AboutLabel):
        parts.append(
            "For two labels, at v and at -v; a bar is how steeply the cost falls as the layer's guess "
            "moves to v, from where no layer tells anything."
        )
    if isinstance(found.made, Posterior):
        parts.append("Blue: where a path that is seen there tells v; red: the other label.")
    if isinstance(found.made, RandomEndBridge):
        parts.append("A path may end at another label instead, here at -v; the bars are towards either.")
    if isinstance(found.made, SDEBridge):
        parts.append("The paths are its target's; p is what its network guesses.")
    return " ".join(parts)


def _reads(made: Objective) -> str:
    """Of a regularizer without layer weights, what it acts on: by what its class defines."""
    if "scores" in made.reads:
        forwards = "of two forwards" if made.twice else "of the forward"
        return f"It reads the model's answers {forwards}, not its layers."
    if made.defines("before_step") or made.weight_decay is not None:
        return "It acts on the PET's parameters before each step of the optimiser, and reads no layer."
    if made.defines("around"):
        return "It changes what happens inside the training forward, and reads no layer."
    return "It reads the loss, not the layers."
