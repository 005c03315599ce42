"""A running cost that costs nothing: it keeps what a plugged one would be asked about."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import bridges
from bridges import EndPoints, LabelEnds, ModelSpec, RunningCost, Trajectory


class Watching(RunningCost):
    """Keeps the states of every forward's targets, for a model that is only to be read.

    Where targets are told is for the plug to know: soft prompts, prefixes and layouts move them.

    Attributes:
        states: of each forward so far, [L+1, N, H] of its N targets.
        answers: int64 [N] of each, its targets' labels or tokens.
        labels: where they end; None for tokens.
    """

    def __init__(self, cost: RunningCost) -> None:
        super().__init__(cost.spec, cost.bridge, cost.latent_map, cost.end_points)
        self.options, self.fit_record = cost.options, cost.fit_record
        self.states: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.labels: LabelEnds | None = None

    @classmethod
    def of_model(cls, model: nn.Module) -> Watching:
        """For a model that there is no cost for; its labels end nowhere in particular."""
        spec, nothing = ModelSpec.of(model), bridges.get("none")
        with torch.random.fork_rng(devices=[]):
            lens = nothing.make_lens(spec.num_layers + 1, spec.hidden_size, 1)
        return cls(RunningCost(spec, nothing, lens, EndPoints(torch.ones(spec.vocab_size, 1))))

    def of_trajectory(
        self, trajectory: Trajectory, answers: Tensor, *, labels: LabelEnds | None = None, **more: Any
    ) -> Tensor:
        self.states.append(trajectory.states.detach())
        self.answers.append(answers)
        self.labels = labels
        return trajectory.states.new_zeros(len(answers))
