"""Exits: at every layer a head that tells the label, in closed form from a running cost's lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bridges import LabelEnds, RunningCost, Trajectory
from bridges.latent.latent_map import as_latents
from bridges.latent.trajectory import layer_times, normalised
from pets.anytime.calibration import Calibration, calibrated

_NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Exit:
    """What is read at one layer: the label's log-posterior is affine in the normalised states.

    Attributes:
        layer: k, of state k.
        reads: the layers up to it whose states count; of a Markov process conditioned
            on its end it alone.
        weight: float32 [R, W, H], of those R layers on the W words of all labels.
        bias: float32 [W].
        log_weights: [C, K], of the W = C K words, see `LabelEnds`.
        calibration: of the labels' odds.
    """

    layer: int
    reads: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    log_weights: Tensor
    calibration: Calibration

    def __call__(self, states: Mapping[int, Tensor]) -> Tensor:
        """Log-probabilities [N, C] of the labels.

        Args:
            states: by layer, those of ``reads`` at least, [N, H] each.
        """
        words = self.bias
        with torch.autocast(words.device.type, enabled=False):
            for layer, weight in zip(self.reads, self.weight, strict=True):
                words = words + normalised(states[layer]).float() @ weight.T
        each = words.unflatten(-1, self.log_weights.shape) + self.log_weights
        return self.calibration(torch.logsumexp(each, -1)).float()

    def to(self, device: torch.device) -> Exit:
        """On a device; itself where it is there already."""
        if self.bias.device == device:
            return self
        return replace(
            self,
            weight=self.weight.to(device),
            bias=self.bias.to(device),
            log_weights=self.log_weights.to(device),
            calibration=self.calibration.to(device),
        )


class Exits:
    """The exits of a model, for a running cost with a lens and the words of some labels.

    Args:
        cost: with a lens, of a bridge with a Gaussian law.
        labels: where trajectories of the C labels end.
        layers: that have an exit, k of 1 .. L - 1.

    Attributes:
        calibrated: whether `fit` or `calibrate` was called.

    Raises:
        BadInput: for a cost without a lens or a Gaussian law.
    """

    def __init__(self, cost: RunningCost, labels: LabelEnds, layers: Sequence[int]) -> None:
        self.cost = self._given = cost
        self.labels, self.layers = labels, tuple(layers)
        self.prior = torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
        self.calibrated = False
        self._by_layer = dict(zip(self.layers, self._made(cost), strict=True))

    def __getitem__(self, layer: int) -> Exit:
        return self._by_layer[layer]

    def on(self, layer: int, device: torch.device) -> Exit:
        """The exit at a layer, on a device, where it stays."""
        self._by_layer[layer] = self._by_layer[layer].to(device)
        return self._by_layer[layer]

    @property
    def reads(self) -> frozenset[int]:
        """The layers whose states any exit needs."""
        return frozenset(layer for one in self._by_layer.values() for layer in one.reads)

    def fit(self, states: Tensor, answers: Tensor) -> None:
        """Let the lens learn from labelled examples, and calibrate each exit by those it leaves out.

        The odds of each example are those of the lens that never saw it, see
        `bridges.fitting.adapting.Adapted`: so one set of examples is enough for both. What it learned
        from others before is forgotten.

        Args:
            states: [L+1, N, H] of examples whose labels are told.
            answers: int64 [N].

        Raises:
            BadInput: as `RunningCost.adapted`.
        """
        device = self._given.lens.weight.device
        path = Trajectory.of_states(states.to(device))
        self.cost, unseen = self._given.adapted_leaving_out(path, answers.to(device), self.labels)
        self._by_layer = dict(zip(self.layers, self._made(self.cost), strict=True))
        bridge, t = self.cost.bridge, path.times()
        latent = as_latents(unseen.to(device), bridge.mean_factor(t))
        odds = bridge.evidence(t).log_odds(latent, self._ends(self.cost))
        self._calibrate(odds.cpu(), answers)

    def calibrate(self, states: Tensor, answers: Tensor | None) -> None:
        """Calibrate every exit by examples that the lens has not learned from.

        Args:
            states: [L+1, N, H].
            answers: int64 [N]; None where they are not known: then only the bias is found.
        """
        with torch.no_grad():
            path = Trajectory.of_states(states.to(self.cost.lens.weight.device))
            odds = self.cost.posterior(path, self.labels.to(path.states.device)).cpu()
        self._calibrate(odds, answers)

    def _calibrate(self, odds: Tensor, answers: Tensor | None) -> None:
        prior = self.prior
        if answers is not None:
            answers = answers.to(odds.device)
            shares = answers.bincount(minlength=len(self.labels)).double() + 1
            prior = shares / shares.sum()
        self.calibrated = True
        for layer, one in self._by_layer.items():
            made = calibrated(odds[layer], answers, prior).to(one.bias.device)
            self._by_layer[layer] = replace(one, calibration=made)

    def _ends(self, cost: RunningCost) -> LabelEnds:
        return cost.bridge.ends(self.labels.to(cost.end_points.vectors.device))

    def _made(self, cost: RunningCost) -> list[Exit]:
        """Collapsed: the law's coefficients, the mean factors and the lens, along the labels' words."""
        lens, t = cost.lens, layer_times(cost.spec.num_layers + 1, device=cost.lens.weight.device)
        law, ends = cost.bridge.evidence(t), self._ends(cost)
        words = ends.vectors.flatten(0, 1).double()
        factor = cost.bridge.mean_factor(t).reshape(len(t), -1).double()
        pull = law.toward * factor  # [L, L, D], on the guesses
        identity = Calibration(t.new_ones(()), t.new_zeros(len(self.labels)))
        made = []
        for k in self.layers:
            size = pull[k].abs().amax(1)
            reads = tuple((size > _NEGLIGIBLE * size.max()).nonzero().flatten().tolist())
            along = [words * pull[k, i] for i in reads]
            weight = torch.stack(
                [a @ lens.weight[i].double() for a, i in zip(along, reads, strict=True)]
            )
            bias = sum(a @ lens.bias[i].double() for a, i in zip(along, reads, strict=True))
            bias = bias - (words.square() * law.away[k]).sum(1) / 2
            log_weights = ends.log_weights.float()
            made.append(Exit(k, reads, weight.float(), bias.float(), log_weights, identity))
        return made
