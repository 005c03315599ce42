"""End points of a task's labels: for each of them a mixture over the words that say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.latent.end_points import EndPoints
from bridges.transfer import to_device

_CANCELLED = 1e-3
"""Length of a mean of unit vectors, or of a difference, below which it points nowhere."""


@dataclass(frozen=True)
class LabelEnds:
    """Where the trajectories of C labels end: at one of up to K words each.

    Attributes:
        vectors: [C, K, d], of unit length; zero where a label has fewer words.
        log_weights: [C, K], log-probabilities of a label's words; -inf where it has fewer.
    """

    vectors: Tensor
    log_weights: Tensor

    @classmethod
    def of_words(
        cls,
        end_points: EndPoints,
        words: Sequence[Sequence[Sequence[int]]],
        weights: Sequence[Sequence[float]] | None = None,
    ) -> LabelEnds:
        """End points of labels with one or more words of one or more tokens each.

        A word of several tokens ends at the mean of its tokens' end points, scaled to unit length.

        Args:
            end_points: of the vocabulary.
            words: token ids of each word of each label.
            weights: of each word of each label, above 0, scaled to sum to 1 in a label; default equal.

        Raises:
            BadInput: for a label without words, a word without tokens, a token outside the vocabulary,
                tokens whose end points cancel, or weights that do not fit.
        """
        dim = end_points.vectors.shape[1]
        most = max(map(len, words), default=0)
        vectors = end_points.vectors.new_zeros(len(words), most, dim)
        log_weights = torch.full_like(vectors[..., 0], -math.inf)
        for label, tokens_of_words in enumerate(words):
            count = len(tokens_of_words)
            if not count:
                raise BadInput(f"label {label} has no words: expected one or more")
            for k, tokens in enumerate(tokens_of_words):
                vectors[label, k] = _word_end(end_points, tokens)
            share = weights[label] if weights is not None else [1.0] * count
            if len(share) != count or not all(0 < w < math.inf for w in share):
                raise BadInput(
                    f"weights {share!r} of label {label}: expected {count} finite numbers above 0"
                )
            proportions = torch.tensor(share, dtype=torch.float64)
            log_weights[label, :count] = (proportions / proportions.sum()).log().to(log_weights)
        return cls(vectors, log_weights)

    @classmethod
    def of_tokens(cls, end_points: EndPoints, tokens: Tensor) -> LabelEnds:
        """Each of the tokens [C] as a label of its own."""
        vectors = end_points(tokens)[:, None]
        return cls(vectors, torch.zeros_like(vectors[..., 0]))

    @classmethod
    def of_batch(cls, end_points: EndPoints, tokens: Tensor) -> tuple[LabelEnds, Tensor]:
        """Each word among tokens [N] as a label of its own, and which of these each token is, [N].

        Where the end points are; of tokens on the host no device is waited for.
        """
        found = tokens.unique(return_inverse=True)
        words, answers = to_device(found, end_points.vectors.device)
        return cls.of_tokens(end_points, words), answers

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, device: torch.device) -> LabelEnds:
        """On a device; itself where it is there already."""
        if self.vectors.device == device:
            return self
        return LabelEnds(self.vectors.to(device), self.log_weights.to(device))

    def means(self) -> Tensor:
        """Each label's mean end point over its words, [C, d]."""
        return (self.log_weights.exp()[..., None] * self.vectors).sum(1)

    def contrasts(self) -> tuple[Tensor, Tensor]:
        """What tells labels apart: their mean end points about the mean of all, and a basis of the span.

        Returns:
            [C, d], in the span, and [r, d] with orthonormal rows; r is at most C - 1, and less where
            labels end at the same places.
        """
        means = self.means().double()
        about = means - means.mean(0)
        _, sizes, axes = torch.linalg.svd(about, full_matrices=False)
        basis = axes[sizes > _CANCELLED * sizes.clamp(min=_CANCELLED).max()]
        return about @ basis.T @ basis, basis

    def confused(self, keep: float) -> LabelEnds:
        """The same labels, each of which may be mistaken for another: a mixture over all labels' words.

        A label's own words share the probability ``keep``, each other label's (1 - keep) / (C - 1), in
        proportion to their weights. Itself where nothing is to be shared: keep is 1, or C is.

        Args:
            keep: above 0, to 1.

        Returns:
            [C, C K, d] and [C, C K], the words of all labels in their order.
        """
        count, words, dim = self.vectors.shape
        if keep == 1 or count == 1:
            return self
        share = self.log_weights.new_full((count, count), math.log((1 - keep) / (count - 1)))
        share.fill_diagonal_(math.log(keep))
        log_weights = share[:, :, None] + self.log_weights  # own label, its candidate, the word
        vectors = self.vectors.reshape(1, count * words, dim).expand(count, -1, -1)
        return LabelEnds(vectors, log_weights.reshape(count, count * words))

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """End points [K, N, d] and log-weights [K, N] of labels [N]."""
        return self.vectors[labels].transpose(0, 1), self.log_weights[labels].T


def _word_end(end_points: EndPoints, tokens: Sequence[int]) -> Tensor:
    """The end point [d] of a word; see `LabelEnds.of_words`."""
    vocabulary = len(end_points.vectors)
    if not tokens or min(tokens) < 0 or max(tokens) >= vocabulary:
        raise BadInput(f"word of tokens {list(tokens)}: expected ids from 0 to {vocabulary - 1}")
    of_tokens: Tensor = end_points(torch.tensor(tokens, device=end_points.vectors.device))
    if len(tokens) == 1:
        return of_tokens[0]  # to the bit what the token itself ends at
    mean = of_tokens.mean(0)
    length = float(mean.norm())
    if length < _CANCELLED:
        raise BadInput(f"the end points of tokens {list(tokens)} cancel: choose another word")
    return mean / length
