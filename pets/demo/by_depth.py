"""Whether the demo's answer is there before the last layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from bridges import RunningCost
from pets.anytime.by_layer import PROBE
from pets.inside import images, plots
from pets.study.cells.arms import VANILLA
from pets.study.cells.depth import by_depth
from pets.study.report.depth import Depth, Depths
from pets.study.report.depth_figures import depth_picture
from pets.study.report.document import interval, listed, number, plural, signed
from pets.study.statistics.paired import PairedDifference, difference
from pets.tasks.base import TaskData
from pets.tasks.metrics import RANGES
from pets.tasks.prompts import Encoder
from pets.tuning.preparing import ask
from pets.tuning.run_folder import PET_FOLDER
from pets.tuning.settings import TuneSettings

PICTURE_FILE = "by-depth.png"


def read(
    plm: PreTrainedModel,
    tokenizer: Any,
    data: TaskData,
    costs: Mapping[str, RunningCost | None],
    runs: Path,
    accuracies: Mapping[str, Sequence[float]],
    how: Mapping[str, Any],
    first_seed: int,
) -> Depths:
    """Every layer of the demo's tuned models.

    Args:
        plm, tokenizer, data: of all runs.
        costs: of each arm.
        runs: the folder of them, ``ARM-SEED`` each.
        accuracies: of the whole models, by arm, from the first seed on.
        how: fields of `TuneSettings`.
        first_seed: of the runs.
    """
    settings = TuneSettings(**how)
    asking = ask(plm, Encoder(tokenizer), data.task, settings)
    arms: dict[str, dict[int, Depth]] = {arm: {} for arm in accuracies}
    for arm, full in accuracies.items():
        for seed, accuracy in enumerate(full, first_seed):
            pet = runs / f"{arm}-{seed}" / PET_FOLDER
            split = {"shots": settings.shots or 0, "seed": seed, "max_length": settings.max_length}
            arms[arm][seed] = Depth(accuracy, by_depth(plm, asking, data, pet, costs[arm], **split))
    return Depths(data.task.name, data.task.metric, arms)


def draw(layers: Depths, path: Path) -> None:
    """The curves, as the report of a comparison shows them."""
    with images.style():
        plots.save_picture(depth_picture(layers).figure, path, 130)


def sentence(layers: Depths) -> str:
    """What a probe of the layer before the last knows, beside the whole model and with each cost."""
    probed = {arm: _before_last(layers, arm) for arm in layers.arms}
    full = [one.full for one in layers.of(VANILLA, PROBE).values()]
    count = len(next(iter(layers.of(VANILLA, PROBE).values())).by_reader[PROBE] or ()) - 1
    short = difference(probed[VANILLA], full, RANGES[layers.metric])
    others = [arm for arm in layers.arms if arm != VANILLA]
    costs = [
        f"{_said(difference(probed[arm], probed[VANILLA], RANGES[layers.metric]))} with {arm}"
        for arm in others
    ]
    text = (
        f"At layer {count - 1} of {count} a linear probe, fitted on vanilla's states of the training "
        f"and selection examples, is right in {number(fmean(probed[VANILLA]))}, the whole model in "
        f"{number(fmean(full))} ({_said(short)}): {_verdict(short)}."
    )
    return text + (f" Minus vanilla's the probe has {listed(costs)}." if costs else "")


def _before_last(layers: Depths, arm: str) -> list[float]:
    return [(one.by_reader[PROBE] or ())[-2] for one in layers.of(arm, PROBE).values()]


def _said(d: PairedDifference) -> str:
    return signed(d.mean) + (f" {interval(d.low, d.high)}" if d.count > 1 else "")


def _verdict(short: PairedDifference) -> str:
    if short.count == 1:
        return "one seed cannot tell whether the answer is there before the last layer"
    if short.high < 0:
        return "a part of the answer comes with the last layer"
    if short.low > 0:
        return "the answer is there before the last layer"
    seeds = plural(short.count, "seed")
    return f"{seeds} do not tell the two apart, so the answer seems to be there before the last layer"
