"""States of the same label near each other, of others apart."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bridges import RunningCost
from bridges.errors import BadInput, is_number, shown
from bridges.model.weights import device_of, pretrained_model
from pets.regularizers.base import Objective
from pets.regularizers.passes import Pass
from pets.regularizers.states import check_first, directions, layers_from, mean


class Contrast(Objective, name="contrast"):
    """Supervised contrast of the states by label: Khosla et al., NeurIPS 2020, arXiv 2004.11362.

        -mean over p in P(i) of log(exp(z_i . z_p / tau) / sum over a != i of exp(z_i . z_a / tau))

    Their eq. 2, L_out, mean over the layers from ``first`` on and over the targets i that share their
    label with another of the forward, P(i). z is a state over its length; with ``cost`` a latent of that
    over its own. Labels are the task's classes, of a language model's text the tokens. Only targets
    of one forward are compared, on one device: batches of few rows have few pairs, and a forward
    without a pair has 0.

    Args:
        weight: its strength.
        first: from which share of the depth on; the last layer always counts.
        temperature: tau, above 0.
        cost: whose latents are taken in the place of states.

    Raises:
        BadInput: for a value out of range, or a cost that makes no latents.
    """

    formula = (
        "mean over layers of -mean over p of log(exp(z_i z_p / tau) / sum over a != i of exp(z_i z_a / "
        "tau)),  z = h / |h|,  p of i's label"
    )
    purpose = "Classes with several examples in every batch. Without two of a label it is 0."
    number, tried = "weight", (0.01, 1.0)
    may_fall = True
    reads = frozenset({"states"})

    def __init__(
        self,
        weight: float,
        *,
        first: float = 0.5,
        temperature: float = 0.1,
        cost: RunningCost | None = None,
    ) -> None:
        super().__init__(weight)
        if not is_number(temperature) or not 1e-3 <= temperature <= 1e3:
            raise BadInput(f"temperature={shown(temperature)}: expected a number from 0.001 to 1000")
        if cost is not None and not isinstance(cost, RunningCost):
            raise BadInput(f"cost={shown(cost)}: expected a bridges.RunningCost, or None for the states")
        if cost is not None and not cost.latent_map.makes_latents:
            raise BadInput(
                f"cost {cost.bridge.registered_name!r}: expected one with latents, this has none"
            )
        self.first, self.temperature, self.cost = check_first(first), float(temperature), cost

    def attach(self, model: nn.Module) -> None:
        if self.cost is not None:
            self.cost.check_model(model)
            device = device_of(pretrained_model(model))
            if self.cost.end_points.vectors.device != device:
                self.cost = copy.deepcopy(self.cost).to(device)

    def term(self, seen: Pass) -> Tensor:
        read = seen.read
        points = read.trajectory.states if self.cost is None else self.cost.latents(read.trajectory)
        layers = layers_from(self.first, len(points) - 1)
        z = directions(points[layers.start :])  # [K, N, D]
        count = z.shape[1]
        itself = torch.eye(count, dtype=torch.bool, device=z.device)
        alike = (read.answers[:, None] == read.answers) & ~itself  # [N, N]
        partners = alike.sum(1)
        paired = int((partners > 0).sum())
        if not paired:
            return mean(seen, z.sum((0, 2)) * 0)
        near = (z @ z.mT / self.temperature).masked_fill(itself, -torch.inf)
        log_p = near - near.logsumexp(-1, keepdim=True)
        own = torch.where(alike, log_p, 0.0).sum(-1).mean(0) / partners.clamp(min=1)  # [N]
        # The mean is over all N, and here over those with a partner.
        return mean(seen, -own * (count / paired))
