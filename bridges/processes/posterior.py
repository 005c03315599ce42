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
from bridges.processes.constants import constant, middle_of, of_one_word
from bridges.processes.snapshot import snapshot, tensor_state

OVER = ("path", "prefixes")


class Posterior(AboutLabel, name="posterior"):
    """Minus the logarithm of the label's posterior among the task's labels, given the states.

        -log( p(z_1 .. z_k | v_y) / sum over c of p(z_1 .. z_k | v_c) )

    Each label c is a bridge that ends at its word, or the mixture of the bridges to its words, and all
    are as likely before. What is the same for all of them costs nothing: a drift towards the label's
    word that leaves the others behind is all it asks for. With ``over="path"`` it is that of all layers,
    with "prefixes" the mean over k of that of the first k: every layer has to tell, and an early one
    counts in all that follow. The process's ``likelihood`` says whether layers are taken by themselves,
    as in the published cost, or as the path that they are. A bridge that learns its sigma learns it from
    this very cost, and its odds come out calibrated among labels that are as likely: by the law of the
    path with the sigma that paths have, by layers taken by themselves, which count the same evidence
    many times, with a larger one.

    Source: ours; Bayes' rule for the processes of arXiv 2305.17670.

    Args:
        process: a Gaussian bridge, as in `bridges.parse`; see `AboutLabel`.
        over: "path" or "prefixes".
        **options: ``layers``, ``until`` and ``since`` of `AboutLabel`.

    Raises:
        BadInput: as `AboutLabel`, and for another ``over``.
    """

    formula = "-log(p(z | v_y) / sum_c p(z | v_c)),  p of process"
    purpose = (
        "About the label: the cross-entropy of the label among the task's, as a bridge through depth "
        "tells it from the states; what is the same for all labels costs nothing. `over=prefixes` asks "
        "every layer, `layers=flat` weighs them alike, `until` leaves the last ones to the task's own "
        "loss, `since` the first ones out, and `layers=exit` arrives at the label at the last one that "
        "counts (docs/anytime.md). The process's `likelihood` takes layers by themselves or as a path; "
        "with its sigma learned (`process=(brownian:likelihood=path,learn=sigma)`) the odds are "
        "calibrated."
    )

    def __init__(self, process: str = "brownian", over: str = "path", **options: Any) -> None:
        super().__init__(process, **options)
        self.over = check_name("over", over, OVER)

    def _among(
        self, latent_map: Reader, trajectory: Trajectory, answers: Tensor, labels: LabelEnds
    ) -> Tensor:
        """The posterior's surprise at each token's label, in nats: [N]."""
        # About the middle of the words, where neither what the latents have in common with all of them
        # nor what the words have in common with each other is left to cancel:
        # |z - m v|^2 = |z - m c|^2 - 2 m (z - m c) (v - c) + m^2 |v - c|^2, the first the same for all.
        middle = middle_of(labels)
        path = self._whitened(latent_map, trajectory, middle)

        def about() -> Tensor:
            return (labels.vectors.flatten(0, 1).double() - middle).to(path.value)  # [C K, d]

        words = constant(labels, ("words", path.value.dtype), about)
        # Both are sums over layers, so what each layer says of each word is not needed by itself.
        prefixes = self.over == "prefixes"

        def fixed() -> tuple[Tensor, Tensor]:
            pull = path.precision * path.mean
            away = pull * path.mean / 2
            away = away.cumsum(0) if prefixes else away.sum(0, keepdim=True)
            return pull[:, None], (away.expand(-1, words.shape[1]) @ words.square().T)[:, None]

        states = tensor_state(words), snapshot(self)
        key = "evidence", trajectory.clock, latent_map.guesses, states
        # Kept with the labels, which of targets that are tokens are those of one batch.
        pull, away = fixed() if None in states else constant(labels, key, fixed)
        toward = pull * path.value
        toward = toward.cumsum(0) if prefixes else toward.sum(0, keepdim=True)
        evidence = toward @ words.T - away
        odds = evidence  # [1 or L, N, C]
        if not of_one_word(labels):
            each = evidence.unflatten(-1, labels.log_weights.shape) + labels.log_weights.to(evidence)
            odds = torch.logsumexp(each, -1)
        if len(odds) == 1:
            return F.cross_entropy(odds[0], answers, reduction="none")
        surprise = F.cross_entropy(odds.flatten(0, 1), answers.repeat(len(odds)), reduction="none")
        return surprise.view(len(odds), -1).mean(0)
