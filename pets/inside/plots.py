"""Pictures: where the trajectories run, and where the bridge says they should."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bridges import BadInput, GaussianBridge, RunningCost
from bridges.latent.trajectory import layer_times
from bridges.storage.files import new_file
from bridges.storage.ownership import check_replaceable
from pets import extras
from pets.inside import trajectories
from pets.tasks import prompts
from pets.tasks.verbalizer import Verbalizer

SOFTWARE = "bridge-pets"
"""What a picture says it was written by."""

_LINES = 12  # single trajectories drawn for each label
_CHARACTERS = 12  # of the title that an inch has room for
_LABELS = 40  # trajectories a label's mean runs over


@dataclass(frozen=True)
class Panel:
    """One picture of trajectories against a bridge.

    Attributes:
        title: above the panel.
        bridge: whose mean is drawn, and its two-sigma tube.
        progress: label word -> [n, L+1], each trajectory's component along its own end point. Under
            the bridge it is normal with mean m(t) and variance s2(t).
        ends: instead, where two labels' end points lie on the line between them, along which
            ``progress`` then is; the bridge's mean to either is drawn, without a tube.
    """

    title: str
    bridge: GaussianBridge
    progress: dict[str, Tensor]
    ends: tuple[float, float] | None = None


def make_panel(
    title: str,
    model: nn.Module,
    tokenizer: Any,
    cost: RunningCost,
    rows: Sequence[tuple[prompts.Row, int]],
    words: Sequence[str],
) -> Panel:
    """Each example's latent trajectory along the end point of its own label, by label word.

    The first forty examples of each label count; their mean running cost is put under the title.

    Args:
        title: what the panel shows.
        model: a masked LM, plain or with a PET.
        tokenizer: its tokenizer.
        cost: a cost made for it, with a Gaussian bridge.
        rows: encoded prompts with class indices.
        words: label words in class order.

    Raises:
        BadInput: if the bridge has no mean and variance to draw.
    """
    if not isinstance(cost.bridge, GaussianBridge):
        raise BadInput(f"{type(cost.bridge).__name__} is not Gaussian: there is no tube to draw")
    if cost.bridge.dims is not None:
        raise BadInput(
            f"{type(cost.bridge).__name__} has other parameters in each dimension: there is no one tube"
        )
    chosen = [row for k in range(len(words)) for row in [r for r in rows if r[1] == k][:_LABELS]]
    verbalizer = Verbalizer.of_words(tokenizer, words)
    seen = trajectories.see(model, cost, verbalizer, chosen, tokenizer.pad_token_id or 0)
    progress = seen.progress().T  # [N, L+1]
    found = {word: progress[seen.labels == label] for label, word in enumerate(words)}
    return Panel(f"{title}\nrunning cost {seen.cost:.3f}", cost.bridge, found)


def between_labels(
    title: str, bridge: GaussianBridge, seen: trajectories.Seen, frozen: Tensor, words: Sequence[str]
) -> Panel:
    """Each example's latent trajectory along the line between two labels' end points, by label word.

    The first label's end point is at -1, the second's at 1. What the trajectories of both labels have in
    common says nothing about the label and is taken off: the frozen model's mean, layer by layer.

    Args:
        title: what the panel shows.
        bridge: which the trajectories should follow.
        seen: of a model, plain or with a PET.
        frozen: [L+1, d], the mean over the labels of the plain model's mean latent state.
        words: the two label words.
    """
    line = (seen.ends[1] - seen.ends[0]) / 2
    along = ((seen.latent - frozen[:, None]) @ line / line.square().sum()).T  # [N, L+1]
    progress = {word: along[seen.labels == k] for k, word in enumerate(words)}
    return Panel(title, bridge, progress, (-1.0, 1.0))


def plot_trajectories(
    path: str | os.PathLike[str],
    panels: Sequence[Sequence[Panel]],
    *,
    token: str = "[MASK]",
    axis: str = "progress towards the label's end point",
) -> None:
    """Draw a grid of panels into a PNG file.

    Args:
        path: of the file; what is there is replaced.
        panels: row by row. Those of a row are drawn on one scale, and so are those of a single column.
        token: whose trajectories they are.
        axis: what their components say.

    Raises:
        BadInput: if matplotlib is not installed.
    """
    size = 5.2 * len(panels[0]), 3.7 * len(panels)
    figure = new_figure(*size)
    scale = "row" if len(panels[0]) > 1 else "col"
    axes = figure.subplots(len(panels), len(panels[0]), squeeze=False, sharex=True, sharey=scale)
    for line, row in zip(axes, panels, strict=True):
        for place, panel in zip(line, row, strict=True):
            _draw(place, panel)
        line[0].set_ylabel(axis)
    for place in axes[-1]:
        place.set_xlabel("depth t  (0: start, 1: label)")
    title = (
        f"Latent trajectories of {token} through the layers: "
        "thin lines single examples, thick ones means"
    )
    figure.suptitle(textwrap.fill(title, int(_CHARACTERS * size[0])))
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    save_picture(figure, Path(path), 130)


def check_picture(path: Path, mark: str = SOFTWARE, what: str = "picture") -> None:
    """Whether a picture may be written there: nothing but one of this project's is replaced.

    Args:
        path: of the file.
        mark: by which one is known, among its first bytes.
        what: it is.

    Raises:
        BadInput: if something else is there, or it cannot be read.
    """
    is_ours = False
    try:
        if path.is_file():
            with path.open("rb") as file:
                is_ours = mark.encode() in file.read(4096)
        check_replaceable(path, is_ours, what)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written to ({error.strerror}): choose another place"
        ) from error


def save_picture(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure as PNG, in one step, with a mark by which `check_picture` knows it."""
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", metadata={"Software": SOFTWARE})


def _draw(axis: Any, panel: Panel) -> None:
    smooth = torch.linspace(0, 1, 201, dtype=torch.float64)
    mean, variance = panel.bridge.marginal(smooth)
    if panel.ends is None:
        spread = 2 * variance.sqrt()
        axis.fill_between(smooth, mean - spread, mean + spread, color="0.9", label="bridge, mean ± 2 sd")
    for end in panel.ends or (1.0,):
        name = "_" if end < 0 else "bridge, mean"  # one of two is named in the legend
        axis.plot(smooth, end * mean, color="0.35", linestyle="--", linewidth=1.2, label=name)
    for k, (word, progress) in enumerate(panel.progress.items()):
        times = layer_times(progress.shape[1])
        color = f"C{k}"
        axis.plot(times, progress[:_LINES].T, color=color, linewidth=0.5, alpha=0.3)
        axis.plot(
            times, progress.mean(0), color=color, linewidth=2.2, marker="o", markersize=4, label=word
        )
    axis.set_title(panel.title, fontsize=11)
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3)


def require() -> None:
    """Refuse early, before long work whose picture could not be drawn.

    Raises:
        BadInput: if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise extras.missing("pictures need matplotlib, which is not installed", "report")


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure in inches that belongs to no window and no list of pyplot's.

    So pyplot's figures and backend stay the user's, in a notebook say.

    Raises:
        BadInput: as `require`.
    """
    require()
    from matplotlib.figure import Figure  # an optional dependency

    return Figure(figsize=(width, height), layout="constrained")
