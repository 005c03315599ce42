"""Inside a model, layer by layer: where labels part, and whether that is what a bridge says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bridges import AboutLabel, BadInput, GaussianBridge, RunningCost
from bridges.latent.trajectory import layer_times
from pets.inside import trajectories
from pets.inside.lens import lens
from pets.inside.separability import FOLDS, separability
from pets.inside.trajectories import Seen
from pets.tasks import metrics, prompts
from pets.tasks.asking import Asking
from pets.tasks.base import Example, Task
from pets.tasks.families import CAUSAL, MASKED
from pets.tasks.protocol import OURS, Protocol
from pets.tuning.evaluation import room

logger = logging.getLogger(__name__)

EXAMPLES = 12  # single trajectories kept for each label
QUANTILES = (0.1, 0.9)
"""Of the progress of a label's examples: "low" and "high"."""
_GRID = 101  # times of the tube


def analyse(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    cost: RunningCost,
    *,
    max_length: int,
    protocol: Protocol = OURS,
) -> dict[str, Any]:
    """Trajectories, distances, separability and logit lens of one model on one task.

    One forward pass over the examples, read where the answer is told, in the model's own state: with
    the PET it carries, or frozen. Deterministic; the model is left as it was.

    Args:
        model: a language model or classifier, plain or with a PET.
        tokenizer: its tokenizer.
        task: for its label words and metric.
        examples: at least 5 of each label; some 60 give steady curves.
        cost: a cost made for the model, with a Gaussian bridge or about the label of one, whose latent
            map reads the states.
        max_length, protocol: as the PET was tuned with.

    Returns:
        JSON-able, in lists over the L+1 states from the embedding to the last layer:

        - "labels": the task's words, the keys below; "times": t_i; "examples": their number;
        - "tube": "t", "mean" and "deviation" of the bridge, along the end point; None where the bridge
          has other parameters in each dimension;
        - "progress": by word the component along its own end point: "mean", "low" and "high" (10th and
          90th percentile), and the first 12 "examples" [12][L+1];
        - "contrast": the same along the axis from the other labels' end points to the own one, and
          "end", where the own end point is on it;
        - "distance": by word of the examples, then word of an end point, the mean distance to it;
        - "separability": see `pets.inside.separability`;
        - "lens": "score", the task's metric of the head read at every layer, and by word
          "probability", the mean one of the true word in the whole vocabulary; "metric", its name.
          None, with a warning in the log, where the model's head cannot be read at other layers.

    Raises:
        BadInput: for a cost without a Gaussian bridge or of another model, too few examples of a label,
            and all that `pets.Verbalizer` and `pets.tasks.prompts.encode` refuse.
    """
    bridge = gaussian(cost)
    check_examples(task, examples)
    asking = Asking(model, prompts.Encoder(tokenizer), task, protocol, warn=False)
    if asking.verbalizer is None:
        raise BadInput(f"task {task.name} has no classes, so there is nothing to tell apart inside")
    rows, _ = asking.encode(examples, room(model, max_length, mask_first=protocol.mask_first))
    mode = model.training
    classifier = asking.on(model)
    try:
        seen = trajectories.see_through(classifier, cost, rows)
    finally:
        classifier.remove()
        model.train(mode)
    return {
        "labels": list(task.words),
        "times": layer_times(len(seen.states)).tolist(),
        "tube": _tube(bridge, cost.end_points.vectors.device),
        "progress": _by_word(seen.progress(), seen, task.words),
        "contrast": _contrast(seen, task.words),
        "distance": _distance(seen, task.words),
        "separability": _rounded(separability(seen.states, seen.labels)),
        "lens": _lens(model, task, asking, seen),
        "examples": len(examples),
    }


def gaussian(cost: RunningCost) -> GaussianBridge:
    """The law that a cost reads trajectories by: its bridge, or the one that a cost about the label has.

    Raises:
        BadInput: if there is no Gaussian one: then no state has a latent point with a known law.
    """
    if (bridge := gaussian_or_none(cost)) is None:
        name = cost.bridge.registered_name or type(cost.bridge).__name__
        raise BadInput(
            f"{name!r} is not a Gaussian bridge, so there is no tube for trajectories: read them with "
            "the cost of a Gaussian one, such as 'brownian'"
        )
    return bridge


def gaussian_or_none(cost: RunningCost) -> GaussianBridge | None:
    """`gaussian`, or None."""
    bridge = cost.bridge.inner if isinstance(cost.bridge, AboutLabel) else cost.bridge
    return bridge if isinstance(bridge, GaussianBridge) else None


def check_examples(task: Task, examples: Sequence[Example]) -> None:
    """At least 5 examples of each label, and no other label.

    Raises:
        BadInput: naming the first label that is wrong.
    """
    counts = Counter(example.label for example in examples)
    unknown = sorted(counts.keys() - set(range(len(task.labels))))
    if unknown:
        raise BadInput(
            f"task {task.name}: an example has label {unknown[0]}; expected 0 to {len(task.labels) - 1}"
        )
    for label, words in enumerate(task.words):
        if counts[label] < FOLDS:
            raise BadInput(
                f"task {task.name}, label {words!r}: {counts[label]} examples to analyse; expected at "
                f"least {FOLDS} of each label, the folds of the linear probe"
            )


def _tube(bridge: GaussianBridge, device: torch.device) -> dict[str, list[float]] | None:
    if bridge.dims is not None:
        return None
    t = torch.linspace(0, 1, _GRID, dtype=torch.float64, device=device)
    with torch.no_grad():
        mean, variance = bridge.marginal(t)
    tube = {"t": t.tolist(), "mean": mean.tolist(), "deviation": variance.clamp(min=0).sqrt().tolist()}
    return dict(_rounded(tube))


def _by_word(values: Tensor, seen: Seen, words: Sequence[str]) -> dict[str, Any]:
    """Values [L+1, N] of the examples, summed up for each label."""
    found = {}
    for label, word in enumerate(words):
        own = values[:, seen.labels == label].double()  # [L+1, n]
        low, high = own.quantile(torch.tensor(QUANTILES, dtype=own.dtype), 1)
        found[word] = {
            "mean": own.mean(1).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "examples": own.T[:EXAMPLES].tolist(),
        }
    return dict(_rounded(found))


def _contrast(seen: Seen, words: Sequence[str]) -> dict[str, Any]:
    found = _by_word(seen.contrast(), seen, words)
    ends = (seen.ends * seen.axes()).sum(-1).tolist()
    return {word: {"end": _rounded(end), **found[word]} for word, end in zip(words, ends, strict=True)}


def _distance(seen: Seen, words: Sequence[str]) -> dict[str, Any]:
    latent, ends = seen.latent.double(), seen.ends.double()
    found = {}
    for label, word in enumerate(words):
        own = latent[:, seen.labels == label]
        to_ends = (own[:, :, None] - ends).norm(dim=-1).mean(1)  # [L+1, C]
        found[word] = dict(zip(words, to_ends.T.tolist(), strict=True))
    return dict(_rounded(found))


def _lens(model: nn.Module, task: Task, asking: Asking, seen: Seen) -> dict[str, Any] | None:
    try:
        if asking.verbalizer is None or asking.whole or asking.family not in (MASKED, CAUSAL):
            raise BadInput(f"a {asking.family} model that answers so has no head that tells one word")
        scores = lens(model, seen.states, asking.verbalizer)
    except BadInput as error:
        logger.warning("no logit lens: %s", error)
        return None
    truth = seen.labels.tolist()
    own = scores.exp()[:, torch.arange(len(truth)), seen.labels].double()  # [L+1, N]
    found = {
        "metric": task.metric,
        "score": [metrics.score(task, s.argmax(1).tolist(), truth)[task.metric] for s in scores],
        "probability": {
            word: own[:, seen.labels == label].mean(1).tolist() for label, word in enumerate(task.words)
        },
    }
    return dict(_rounded(found))


def _rounded(value: Any) -> Any:
    """Numbers to six digits: a picture shows no more, and a file of them is half as long."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value if isinstance(value, str) else float(f"{value:.6g}")
