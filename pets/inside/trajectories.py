"""What a running cost sees of labelled prompts, whatever PET the model carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridges import RunningCost
from bridges.latent.trajectory import Trajectory
from pets.plug.regularize import regularize
from pets.tasks.answering import Answering, Rows
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer

_BATCH = 32


@dataclass(frozen=True)
class Seen:
    """What there was to see of N prompts in the order they were given, on the CPU.

    Attributes:
        states: [L+1, N, H], the hidden states where the answer is told, through all layers.
        latent: [L+1, N, d], where the cost's latent map puts them; of a lens its guesses times m(t).
        labels: int64 [N], class indices.
        ends: [C, d], each class's end point; of a class with several words its first one's.
        scores: [N, C], log-probabilities of the classes' words in the model's answer.
        cost: mean running cost.
    """

    states: Tensor
    latent: Tensor
    labels: Tensor
    ends: Tensor
    scores: Tensor
    cost: float

    def progress(self) -> Tensor:
        """Component of every latent state along the end point of its own label, [L+1, N]."""
        return (self.latent * self.ends[self.labels]).sum(-1)

    def axes(self) -> Tensor:
        """By label the unit vector from the middle of the other labels' end points to its own, [C, d].

        Two labels' end points may lie close together: then `progress` tells little of which one a state
        goes to, and the component along this axis all.
        """
        count = len(self.ends)
        others = (self.ends.sum(0) - self.ends) / max(1, count - 1)
        return torch.nn.functional.normalize(self.ends - others, dim=1)

    def contrast(self) -> Tensor:
        """Component of every latent state along its own label's axis, [L+1, N]."""
        return (self.latent * self.axes()[self.labels]).sum(-1)


class _Watched(RunningCost):
    """A cost that keeps what it reads; everything in it is the other one's."""

    def __init__(self, cost: RunningCost) -> None:
        super().__init__(cost.spec, cost.bridge, cost.latent_map, cost.end_points)
        self.fit_record, self.options = cost.fit_record, cost.options
        self.last: tuple[Trajectory, Tensor] | None = None

    def trajectory(self, *args: Any, **options: Any) -> tuple[Trajectory, Tensor]:
        self.last = super().trajectory(*args, **options)
        return self.last


def see(
    model: nn.Module,
    cost: RunningCost,
    verbalizer: Verbalizer,
    rows: Rows,
    pad_id: int,
    *,
    mask_first: bool = False,
) -> Seen:
    """As `see_through`, of a model that says one word.

    Args:
        model: a language model, plain or with a PET; left as it was.
        cost: made for the model.
        verbalizer: words of the C classes.
        rows: encoded prompts with class indices.
        pad_id: the tokenizer's `pad_token_id`.
        mask_first: whether the prompts are encoded so.
    """
    mode = model.training
    classifier = PromptClassifier(model, verbalizer, mask_first=mask_first, pad_id=pad_id)
    try:
        return see_through(classifier, cost, rows)
    finally:
        classifier.remove()
        model.train(mode)


def see_through(classifier: Answering, cost: RunningCost, rows: Rows) -> Seen:
    """One forward pass over the prompts, with the cost plugged in as it is when a PET is tuned.

    So a soft prompt, a prefix or a changed layer counts here as it does there: nothing else knows how
    positions and masks change with a PET. Its mode is left as it was.

    Args:
        classifier: whose answers are classes.
        cost: made for its model.
        rows: encoded prompts with class indices.

    Raises:
        BadInput: as `pets.regularize`.
    """
    assert classifier.verbalizer is not None
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0].input_ids))
    watched, mode, total = _Watched(cost), classifier.model.training, 0.0
    states, latent, scores = [], [], []
    try:
        with regularize(classifier, watched, in_eval=True), torch.no_grad():
            for start in range(0, len(order), _BATCH):
                chosen = [rows[i] for i in order[start : start + _BATCH]]
                output = classifier(**classifier.on_device(classifier.collate(chosen)))
                assert watched.last is not None
                path, _ = watched.last
                states.append(path.states.cpu())
                latent.append(cost.latents(path).cpu())
                scores.append(output.logits.cpu())
                total += output.running_cost.item() * len(chosen)
    finally:
        classifier.model.train(mode)
    back = torch.tensor(order).argsort()
    return Seen(
        states=torch.cat(states, 1)[:, back],
        latent=torch.cat(latent, 1)[:, back],
        labels=torch.tensor([label for _, label in rows]),
        ends=classifier.verbalizer.ends(cost).vectors[:, 0].cpu(),
        scores=torch.cat(scores)[back],
        cost=total / len(rows),
    )
