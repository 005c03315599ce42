"""A bridge whose end point is itself random: one of several candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from bridges.errors import BadInput, is_number, shown
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory
from bridges.processes.base import check_end
from bridges.processes.constants import constant
from bridges.processes.evidence import Evidence
from bridges.processes.wrapped import Wrapped, parse_gaussian


class RandomEndBridge(Wrapped, name="random"):
    """Mixture of a bridge over end points: a path ends at its own label, or at another one.

    Nature draws one of K candidates, then a path of ``target`` to it. The first candidate is the
    trajectory's own label, with the probability ``keep``; the others share the rest equally,

        w_1 = keep,  w_k = (1 - keep) / (K - 1)
        log p(z) = log(sum over k of w_k p(z | v_k))

    with p(z | v) the law of the target. It says that a label may be wrong, and how often. The pull
    towards v_1 fades where another candidate explains the trajectory better: the gradient is that of
    the target's costs, each weighted by its candidate's probability given the whole trajectory.

    In a cost the candidates are the labels, each a mixture over its words: `ends` gives `RunningCost`
    the words of all labels with their probabilities, and the cost is minus the logarithm of that
    mixture over the number of layers, p(z | v) being what the target's ``likelihood`` says, the product
    over layers of the marginal densities or the joint one. Without labels (a fit on text, targets that
    are tokens) there are no other candidates, and the cost is the target's. So it is where there is but
    one label.

    Everywhere here ``end`` may be [N, d], one candidate, with which this is the target, or [K, N, d].
    Densities are exact, by log-sum-exp. What the target learns is learned here, and kept with a cost;
    ``target`` stays the text with the values at the start.

    Source: the label noise of Angluin, Laird, "Learning From Noisy Examples", Machine Learning 2 (1988).

    Args:
        target: a Gaussian bridge, as in `bridges.parse`: "brownian", "ou:theta=2".
        keep: probability of the own label, above 0, to 1, where this is the target.

    Raises:
        BadInput: for a target that is no Gaussian bridge, or a number out of range.

    Examples:
        >>> bridge = bridges.get("random", target="ou:theta=2", keep=0.8)
        >>> own, other = torch.ones(2, 1, 8)
        >>> bridge.sample(torch.tensor([0.25, 0.5]), torch.stack([own, -other])).shape
        torch.Size([2, 1, 8])
    """

    graphs = True
    formula = "p(z) = keep p(z | v_1) + sum over k > 1 of (1 - keep) / (K - 1) p(z | v_k),  p of target"
    purpose = (
        "Labels that may be wrong: a trajectory ends at its own label with probability `keep`, else at "
        "another one, all equally likely, so it is pulled less to a label that it does not resemble. It"
        " needs labels with words (a verbalizer); where targets are tokens, and in a fit, it is its "
        "target."
    )

    def __init__(self, target: str = "brownian", keep: float = 0.9) -> None:
        if not is_number(keep) or not 0 < keep <= 1:
            raise BadInput(f"keep={shown(keep)}: expected a probability above 0, to 1")
        super().__init__(parse_gaussian("target", target))
        self.target = target
        self.keep = keep

    def ends(self, labels: LabelEnds) -> LabelEnds:
        """The labels' words with those of the other labels mixed in; see `LabelEnds.confused`."""
        keep = self.keep
        return constant(labels, ("confused", keep), lambda: labels.confused(keep))

    def evidence(self, t: Tensor) -> Evidence:
        return self.process.evidence(t)

    def mean(self, t: Tensor, end: Tensor) -> Tensor:
        """Mean of the mixture at times t [T] for candidates [K, N, d] or [N, d]: [T, N, d]."""
        ends, weights = self._candidates(end)
        return self.process.mean(t, torch.einsum("k,knd->nd", weights, ends))  # which is linear in v

    def variance(self, t: Tensor) -> Tensor:
        """Variance at times t given which candidate it is, that of the target.

        The mixture's depends on the candidates: ``m(t)^2 (sum_k w_k v_k^2 - (sum_k w_k v_k)^2)`` more.
        """
        return self.process.variance(t)

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact joint samples [T, N, d]: a candidate is drawn for each path, then a path of the target.

        Raises:
            BadInput, NotImplementedError: as `GaussianBridge.sample`.
        """
        ends, weights = self._candidates(end)
        chosen = ends[0]
        if len(ends) > 1:
            which = torch.multinomial(weights, ends.shape[1], replacement=True, generator=generator)
            chosen = ends[which, torch.arange(ends.shape[1], device=ends.device)]
        return self.process.sample(t, chosen, generator=generator)

    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised log-density of z [T, N, d] at each time by itself, of all d dimensions: [T, N].

        Raises:
            BadInput: as `GaussianBridge.log_prob`.
        """
        ends, weights = self._candidates(end)
        each = torch.stack([self.process.log_prob(z, t, v) for v in ends])
        return torch.logsumexp(weights.log()[:, None, None] + each, 0)

    def log_prob_path(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised joint log-density of paths z [T, N, d] at increasing times t [T]: [N].

        Raises:
            BadInput, NotImplementedError: as `GaussianBridge.log_prob_path`.
        """
        ends, weights = self._candidates(end)
        each = torch.stack([self.process.log_prob_path(z, t, v) for v in ends])
        return torch.logsumexp(weights.log()[:, None] + each, 0)

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The target's cost towards each end point by itself, [N] or [K, N]: `RunningCost` mixes."""
        return self.process.cost(latent_map, trajectory, end, generator=generator)

    def _candidates(self, end: Tensor) -> tuple[Tensor, Tensor]:
        """Those of positive probability, [K, N, d], and their probabilities [K]."""
        if end.dim() != 3:
            return check_end(end)[None], end.new_ones(1)
        if not len(end):
            raise BadInput(
                f"end points are {tuple(end.shape)}: expected [K, N, d] of one candidate or more"
            )
        if len(end) == 1 or self.keep == 1:
            return end[:1], end.new_ones(1)
        weights = end.new_full(end.shape[:1], (1 - self.keep) / (len(end) - 1))
        weights[0] = self.keep
        return end, weights
