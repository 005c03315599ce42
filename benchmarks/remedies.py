"""Remedies for a running cost that does no better than its controls, each tried as an arm of its own.

- ``brownian-contrast``: the labels' end points without what they have in common. Words for opposite
  labels are close in embedding space, so most of the way to an end point says nothing about the label.
- ``brownian-posterior``: the cost of the label's end point against the other labels', the negative
  log-posterior of the label given the path, ``-log softmax_k(-n c_k)``: a drift towards all of them
  alike costs nothing and gains nothing.
- ``brownian-longer``: g fitted with twice the steps.
- ``brownian-task-text``: g fitted on the train sentences of the tasks, without their labels.

The fitted map of the first two is that of ``brownian``. `benchmarks.evidence` runs them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bridges import BrownianBridge, LabelEnds, RunningCost, get
from bridges.cost.documents import Layout
from pets.study.cells.arms import Arm
from pets.study.cells.context import Context
from pets.study.cells.costs import Recipe
from pets.tasks.verbalizer import Verbalizer

_LONGER = 2


class Contrast(BrownianBridge, name="brownian-contrast"):
    """See the module."""


class Posterior(BrownianBridge, name="brownian-posterior"):
    """See the module."""


class Longer(BrownianBridge, name="brownian-longer"):
    """See the module."""


class TaskText(BrownianBridge, name="brownian-task-text"):
    """See the module."""


REMEDIES = tuple(str(kind.registered_name) for kind in (Contrast, Posterior, Longer, TaskText))


class PosteriorCost(RunningCost):
    """The negative log-probability of the label, given the trajectory, among the labels there are."""

    def costs(
        self,
        hidden_states: Sequence[Tensor],
        targets: Tensor,
        attention_mask: Tensor | None = None,
        *,
        labels: LabelEnds | None = None,
        in_place: bool = False,
        layout: Layout | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """As `RunningCost`'s, for labels of one word each."""
        assert labels is not None
        trajectory, found = self.trajectory(
            hidden_states,
            targets,
            attention_mask,
            classes=len(labels),
            in_place=in_place,
            layout=layout,
        )
        ends = labels.vectors[:, :1].expand(-1, len(found), -1)  # [C, N, d]
        costs = self.bridge.cost(self.latent_map, trajectory, ends, generator=generator)
        return F.cross_entropy(-self.bridge.terms(trajectory) * costs.T, found, reduction="none")


class RemedyContext(Context):
    """A comparison in which arms named after remedies have the costs that those say."""

    def recipe(self, arm: Arm) -> Recipe:
        """The remedy's recipe, or that of any other arm; the first two share the Brownian's."""
        if arm.text not in REMEDIES:
            return super().recipe(arm)
        plain = super().recipe(Arm.parse("brownian"))
        if arm.text == Longer.registered_name:
            settings = dataclasses.replace(plain.settings, max_steps=_LONGER * plain.settings.max_steps)
            return dataclasses.replace(plain, name=arm.text, settings=settings)
        if arm.text == TaskText.registered_name:
            text = tuple(e.text for data in self.examples.values() for e in data.train)
            return dataclasses.replace(plain, name=arm.text, text=text)
        return plain

    def cost(self, arm: Arm, found: RunningCost) -> RunningCost:
        """The remedy's cost, or that of any other arm."""
        if arm.text not in REMEDIES:
            return super().cost(arm, found)
        kind = PosteriorCost if arm.text == Posterior.registered_name else RunningCost
        bridge = get(arm.text)  # its name is in the cost's digest
        cost = kind(found.spec, bridge, found.latent_map, found.end_points).to(self.plm.device)
        cost.fit_record = found.fit_record
        if arm.text == Contrast.registered_name:
            self._contrast(cost)
        return cost

    def _contrast(self, cost: RunningCost) -> None:
        for data in self.examples.values():
            words = Verbalizer.of_words(self.tokenizer, data.task.verbalizer)
            tokens = [own[0][0] for own in words.tokens]
            vectors = cost.end_points.vectors
            ends = vectors[tokens]
            vectors[tokens] = F.normalize(ends - ends.mean(0), dim=1)
