"""The label's posterior among the others, under a bridge through depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bridges.errors import check_name
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory
from bridges.processes.about_label import AboutLabel

OVER = ("path", "prefixes")


class Posterior(AboutLabel, name="posterior"):
    r"""Minus the logarithm of the label's posterior among the task's labels, given the states.

    .. math:: -\log \frac{p(z_1 \ldots z_k \mid v_y)}{\sum_c p(z_1 \ldots z_k \mid v_c)}

    Each label c is a bridge that ends at its word, or the mixture of the bridges to its words, and all
    are as likely before. What is the same for all of them costs nothing: a drift towards the label's
    word that leaves the others behind is all it asks for. With ``over="path"`` it is that of all layers,
    with "prefixes" the mean over k of that of the first k: every layer has to tell, and an early one
    counts in all that follow. The process's ``likelihood`` says whether layers are taken by themselves,
    as in the published cost, or as the path that they are. By a bridge that learns its sigma the odds
    are calibrated.

    Source: ours; Bayes' rule for the processes of arXiv 2305.17670.

    Args:
        process, layers, until: see `AboutLabel`.
        over: "path" or "prefixes".
    """

    formula = "-log p(z | v_y) / sum_c p(z | v_c),  p of process"

    def __init__(self, process: str = "brownian", over: str = "path", **options: Any) -> None:
        super().__init__(process, **options)
        self.over = check_name("over", over, OVER)

    def of_labels(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        answers: Tensor,
        labels: LabelEnds,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The posterior's surprise at each token's label, in nats: [N]."""
        path = self._whitened(latent_map, trajectory)
        words = labels.vectors.flatten(0, 1).to(path.value)  # [C K, d]
        pull = path.precision * path.mean
        # |value - mean v|^2 without what is the same for all words.
        evidence = (pull[:, None] * path.value) @ words.T
        size = (pull * path.mean).expand(-1, words.shape[1]) @ words.square().T / 2  # [L, C K]
        evidence = evidence - size[:, None]
        total = evidence.cumsum(0) if self.over == "prefixes" else evidence.sum(0, keepdim=True)
        each = total.unflatten(-1, labels.log_weights.shape) + labels.log_weights.to(total)
        odds = torch.logsumexp(each, -1)  # [1 or L, N, C]
        surprise = F.cross_entropy(odds.flatten(0, 1), answers.repeat(len(odds)), reduction="none").view(
            len(odds), -1
        )
        return surprise.mean(0).to(latent_map.dtype)
