"""Remedies for a running cost that does no better than its controls, each tried as an arm of its own.

- ``brownian-contrast``: the labels' end points without what they have in common. Words for opposite
  labels are close in embedding space, so most of the way to an end point says nothing about the label.
- ``brownian-posterior``: the cost of the label's end point against the other labels', which is the
  registered `posterior` since: a drift towards all of them alike costs nothing and gains nothing.
- ``brownian-longer``: g fitted with twice the steps.
- ``brownian-task-text``: g fitted on the train sentences of the tasks, without their labels.

The fitted map of the first two is that of ``brownian``. `benchmarks.first_study` runs them.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor
from torch.nn import functional as F

import bridges
from bridges import FitSettings, RunningCost
from pets.study.cells.arms import Arm
from pets.study.cells.costs import Recipe, Recipes
from pets.tasks.verbalizer import Verbalizer

_LONGER = 2


CONTRAST, POSTERIOR, LONGER, TASK_TEXT = REMEDIES = tuple(
    Arm(f"brownian-{name}", bridge="brownian")
    for name in ("contrast", "posterior", "longer", "task-text")
)


class RemedyRecipes(Recipes):
    """Arms named after remedies have the costs that those say."""

    def recipe(self, arm: Arm) -> Recipe:
        """The remedy's recipe, or that of any other arm; the first two share the Brownian's."""
        if arm not in REMEDIES:
            return super().recipe(arm)
        plain = super().recipe(Arm.parse("brownian"))
        if arm == LONGER:
            assert isinstance(plain.settings, FitSettings)
            settings = dataclasses.replace(plain.settings, max_steps=_LONGER * plain.settings.max_steps)
            return dataclasses.replace(plain, name=arm.text, settings=settings)
        if arm == TASK_TEXT:
            text = tuple(e.text for data in self.examples.values() for e in data.train)
            return dataclasses.replace(plain, name=arm.text, text=text)
        return plain

    def cost(self, arm: Arm, made: RunningCost) -> RunningCost:
        """The remedy's cost, or that of any other arm."""
        if arm == POSTERIOR:
            posterior = bridges.get("posterior", process="brownian")
            cost = RunningCost(made.spec, posterior, made.latent_map, made.end_points)
            cost.fit_record = made.fit_record
            return cost
        if arm == CONTRAST:
            self._contrast(made.end_points.vectors)
        return made

    def _contrast(self, vectors: Tensor) -> None:
        for data in self.examples.values():
            words = Verbalizer.of_words(self.model.tokenizer, data.task.verbalizer)
            tokens = [own[0][0] for own in words.tokens]
            ends = vectors[tokens]
            vectors[tokens] = F.normalize(ends - ends.mean(0), dim=1)
