"""The pictures of docs/concepts.md: what a running cost is, and what a reader sees of the label.

    python docs/draw.py

writes docs/idea.svg and docs/reader.svg, the second from benchmarks/results/reader_*.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import bridges
from bridges.latent.trajectory import layer_times

ROOT = Path(__file__).resolve().parents[1]
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "bridge-pets", "font.size": 11}
PATH, MISS, OTHER, GREY = "#1f5fa8", "#c2410c", "#2e7d4f", "0.45"
LAYERS = 8
READERS = {"published": "mlp, pca", "lens": "lens, white"}


def idea() -> Figure:
    """One token's states through the layers of a model, read, beside the bridge to the label's end."""
    figure = _figure(9.2, 3.9)
    axis = figure.add_subplot()
    bridge = bridges.get("ou", theta=2.0, sigma=0.55)
    fine = torch.linspace(0, 1, 121, dtype=torch.float64)
    end = torch.ones(1, 1, dtype=torch.float64)
    mean = bridge.mean(fine, end)[:, 0, 0]
    spread = 2 * bridge.variance(fine).sqrt()
    axis.fill_between(fine, mean - spread, mean + spread, color=PATH, alpha=0.14, linewidth=0)
    axis.plot(fine, mean, color=PATH, linewidth=2, alpha=0.8)
    times = layer_times(LAYERS + 1)
    here = bridge.mean(times, end)[:, 0, 0]
    read = here + torch.tensor([0.04, -0.14, -0.3, -0.42, -0.46, -0.42, -0.34, -0.2, -0.13])
    for t, m, z in zip(times.tolist(), here.tolist(), read.tolist(), strict=True):
        axis.plot([t, t], [m, z], color=MISS, linewidth=2)
    axis.plot(times, read, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axis.plot(times, read, "o", color="black", markersize=6)
    for y, word, colour in ((1.0, "good", PATH), (-1.0, "bad", OTHER)):
        axis.plot([1], [y], marker="*", markersize=16, color=colour, clip_on=False)
        axis.text(1.03, y, f"“{word}”", va="center", fontsize=13, color=colour)
    other = bridge.mean(fine, -end)[:, 0, 0]
    axis.fill_between(fine, other - spread, other + spread, color=OTHER, alpha=0.08, linewidth=0)
    axis.plot(fine, other, color=OTHER, linewidth=1, alpha=0.5)
    axis.annotate(
        "what is read of the output token\nafter each layer, z", (times[4], read[4]), (0.13, -1.02),
        arrowprops={"arrowstyle": "-", "color": "black"}, ha="left",
    )  # fmt: skip
    axis.annotate(
        "running cost: how unlikely that is\nunder the bridge to the right label",
        (times[5] - 0.004, 0.17),
        (0.16, 1.03),
        arrowprops={"arrowstyle": "-", "color": MISS},
        color=MISS,
    )
    axis.set_xticks([0, *times.tolist(), 1], ["0", "emb.", *map(str, range(1, LAYERS + 1)), "label"])
    axis.set_yticks([0])
    axis.set(xlim=(0, 1), ylim=(-1.45, 1.45))
    axis.set_xlabel("layer")
    axis.set_ylabel("one latent direction")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def reader() -> Figure:
    """AUC of telling the classes apart, layer by layer, of the two readers and of the head."""
    figure = _figure(9.2, 3.9)
    places = (
        ("reader_minilm", "MiniLM", "ag_news", "AG News"),
        ("reader_smollm2", "SmolLM2-135M", "sst2", "SST-2"),
    )
    axes: list[Any] = list(figure.subplots(1, 2, sharey=True))
    for axis, (file, model, task, title) in zip(axes, places, strict=True):
        text = (ROOT / "benchmarks" / "results" / f"{file}.json").read_text(encoding="utf-8")
        found = json.loads(text)["reader"]
        lines = {
            "the model's own head": (found["head"][task]["by_layer"], GREY, "--"),
            "published reader": (found["readers"][READERS["published"]]["auc"][task], MISS, "-"),
            "lens": (found["readers"][READERS["lens"]]["auc"][task], PATH, "-"),
        }
        for label, (values, colour, style) in lines.items():
            axis.plot(
                range(len(values)), values, color=colour, linestyle=style, linewidth=2, label=label
            )
        axis.axhline(0.5, color="0.75", linewidth=1)
        axis.set_title(f"{title}, {model}", fontsize=12)
        axis.set_xlabel("layer")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("AUC of the label")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw(folder: Path) -> None:
    """Both, into a folder."""
    with rc_context(STYLE):
        for make in (idea, reader):
            make().savefig(folder / f"{make.__name__}.svg", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    draw(parser.parse_args().out)
