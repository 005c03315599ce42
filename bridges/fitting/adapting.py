"""A lens that also learns from a few labelled examples, in closed form.

A lens reads a state h of layer k as p = A x + b, where x = h / rms(h), and A and b come from unlabelled
text: it never saw the task. Here the part of A that tells the task's labels apart is fitted anew, by
ridge regression from the examples' x to their labels' end points, in the dual form (N x N matrices);
everything else of A stays. What is known beforehand is in the metric of the ridge:

- directions along which the states vary most on any text say little about the label: they are damped,
  as in a discriminant analysis with the text's covariance (see `damping`);
- the directions that the lens itself reads the labels by are trusted more than others.

The strength of the ridge is the one whose left-out error is least. That error needs no further fit: the
residual of example i without it is r_i / (1 - h_ii), with h the hat matrix (Allen's PRESS, 1974).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput, is_whole, shown
from bridges.latent.lens import DAMPED
from bridges.latent.trajectory import normalised

STRENGTHS = tuple(10 ** (power / 4) for power in range(-12, 5))
"""Of the ridge, those that are tried: shares of N times the mean squared length of a centred example."""
_MOST = 4096
"""Examples: several N x N matrices a layer are held in memory, and each is decomposed."""
_LENS_SHARE = 0.05  # of the prior variance, along what the lens reads: .05 and .2 were alike
_SAME = 1e-6  # between end points of unit length
_NOTHING = 1e-10  # of the spread of the examples
_TINY = 1e-300  # against 0 / 0 where all examples are the same


@dataclass(frozen=True)
class Adapted:
    """An adapted lens, and how far it is to be believed. L layers, N examples, latents in R^d.

    On the examples it was fitted on it knows more than it will elsewhere. The reader that never saw
    example i, at the same strength and scales, is A x + b - pull_i (shape_i . x + offset_i), exactly.

    Attributes:
        weight, bias: [L, d, H] and [L, d], float64, of x = h / rms(h).
        strength: [L], what was chosen of `STRENGTHS`.
        fitted: [L], R2 of the labels' contrasts on the examples.
        left_out: [L], the same where each example is read without it; below 0 the layer knows nothing.
        pull, shape, offset: [L, N, d], [L, N, H] and [L, N].
    """

    weight: Tensor
    bias: Tensor
    strength: Tensor
    fitted: Tensor
    left_out: Tensor
    pull: Tensor
    shape: Tensor
    offset: Tensor

    def left_out_guesses(self, states: Tensor) -> Tensor:
        """The guesses of the N examples it was fitted on, each by the reader that never saw it.

        Args:
            states: theirs, [L, N, H], as `adapt` was given them.

        Returns:
            float64 [L, N, d].
        """
        x = normalised(states.detach().to("cpu", torch.float64))
        guess = x @ self.weight.mT + self.bias[:, None]
        return guess - self.pull * ((self.shape * x).sum(2) + self.offset)[:, :, None]


def damping(covariance: Tensor, rank: int = DAMPED) -> Tensor:
    """What `adapt` needs of a text's states: their r widest directions, [L, H, r], float64.

    With B the result, I - B B' is the inverse of a covariance whose r largest axes are the text's and
    whose others are alike, up to its scale.

    Args:
        covariance: [L, H, H] of x = h / rms(h).
        rank: r, below H.

    Raises:
        BadInput: for another shape or rank.
    """
    if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2]:
        raise BadInput(f"covariance of shape {list(covariance.shape)}: expected [layers, H, H]")
    width = covariance.shape[1]
    if not is_whole(rank, 1, width - 1):
        raise BadInput(f"rank={shown(rank)}: expected 1 to {width - 1} for states of width {width}")
    values, axes = torch.linalg.eigh(covariance.double())
    values = values.clamp(min=0)  # below it is rounding
    widths, rest = values[:, -rank:], values[:, :-rank].mean(1, keepdim=True)
    # Where the text does not vary at all, as in few tokens, there is nothing to damp.
    varies = widths > values[:, -1:] * width * torch.finfo(torch.float64).eps
    share = torch.where(varies, (1 - rest / widths.clamp(min=_TINY)).clamp(min=0), 0)
    widest: Tensor = axes[:, :, -rank:] * share.sqrt()[:, None]
    return widest


def adapt(
    weight: Tensor,
    bias: Tensor,
    states: Tensor,
    labels: Tensor,
    ends: Tensor,
    damped: Tensor | None = None,
) -> Adapted:
    """Fit anew what of a lens tells labels apart, on N labelled examples. Deterministic, float64.

    Where examples say nothing, latents go to the point of the ends' plane that is as far from every
    label (of unit ends), and no label is preferred.

    Args:
        weight, bias: of the lens, [L, d, H] and [L, d].
        states: of the examples, [L, N, H], as the model gives them, at the position that predicts the
            label; of training examples only.
        labels: [N], whole numbers from 0 to C - 1, each at least twice.
        ends: [C, d], where the labels' trajectories end; of several words, their mean.
        damped: [L, H, r], the result of `damping`; none are without.

    Raises:
        BadInput: for shapes that do not fit, values that are not finite, ends that are all the same, or
            a label with fewer than two examples, or more than 4096 examples.
    """
    damped = states.new_zeros(*states.shape[::2], 0) if damped is None else damped
    weight, bias, x, ends, damped = (
        tensor.detach().to("cpu", torch.float64) for tensor in (weight, bias, states, ends, damped)
    )
    labels = labels.cpu()
    _check(weight, bias, x, labels, ends, damped)
    x = normalised(x.double())
    middle = ends.mean(0)
    _, sizes, axes = torch.linalg.svd(ends - middle, full_matrices=False)
    axes = axes[sizes > 1e-9 * sizes[0]]  # [c, d], c contrasts
    targets = ((ends - middle) @ axes.T)[labels]

    mean_x, mean_target = x.mean(1), targets.mean(0)
    x = x - mean_x[:, None]
    seen = axes @ weight  # [L, c, H]: how the lens reads the contrasts
    part_x, part_seen = x - x @ damped @ damped.mT, x @ seen.mT
    scale_x = (1 - _LENS_SHARE) * _one_over_power(x, part_x, x)
    scale_seen = _LENS_SHARE * _one_over_power(part_seen, part_seen, x)
    kernel = scale_x * (x @ part_x.mT) + scale_seen * (part_seen @ part_seen.mT)
    count = len(labels)
    values, vectors = torch.linalg.eigh((kernel + kernel.mT) / 2)
    residual = targets - mean_target  # [N, c]

    def solve(ridge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For ridges [L]: inverse [L, N, N], dual coefficients and left-out errors [L, N, c]."""
        inverse = (vectors / (values.clamp(min=0) + ridge[:, None])[:, None]) @ vectors.mT
        inverse = inverse - 1 / (count * ridge[:, None, None])  # the mean is fitted, without a ridge
        dual = inverse @ residual
        return inverse, dual, dual / inverse.diagonal(dim1=1, dim2=2)[:, :, None]

    ridges = count * torch.tensor(STRENGTHS, dtype=torch.float64)
    errors = torch.stack([solve(r.expand(len(x)))[2].square().sum((1, 2)) for r in ridges])
    choice = errors.argmin(0)
    inverse, dual, missed = solve(ridges[choice])

    def linear(coefficients: Tensor) -> Tensor:
        """Functions [L, N, m] of the kernel as weights [L, m, H] on x."""
        on_seen: Tensor = coefficients.mT @ part_seen @ seen
        return scale_x * (coefficients.mT @ part_x) + scale_seen * on_seen

    fit, shape = linear(dual), linear(inverse)
    variance = residual.square().sum()
    left_out = residual - missed
    slope = ((left_out * residual).sum((1, 2)) / variance).clamp(0, 1)[:, None]
    nearest_zero = -axes @ middle  # of the ends' plane: equidistant from ends of unit length
    centre = nearest_zero + slope * (mean_target - nearest_zero)
    offset = centre - torch.einsum("lch,lh->lc", fit, mean_x) + axes @ middle
    common = torch.eye(len(middle), dtype=torch.float64) - axes.T @ axes
    r2 = [1 - gap.square().sum((1, 2)) / variance for gap in (residual - kernel @ dual, missed)]
    return Adapted(
        weight=common @ weight + axes.T @ fit,
        bias=bias @ common + offset @ axes,
        strength=(ridges / count)[choice],
        fitted=r2[0],
        left_out=r2[1],
        pull=missed @ axes,
        shape=shape,
        offset=1 / count - torch.einsum("lnh,lh->ln", shape, mean_x),
    )


def _one_over_power(left: Tensor, right: Tensor, whole: Tensor) -> Tensor:
    """[L, 1, 1], of the mean diagonal of their kernel; 0 where that is nothing beside all there is.

    So it is where examples are the same, or differ in nothing but what is damped.
    """
    power, all_of_it = (
        (a * b).sum(2).mean(1)[:, None, None] for a, b in ((left, right), (whole, whole))
    )
    return torch.where(power > _NOTHING * all_of_it, 1 / power.clamp(min=_TINY), 0)


def _check(
    weight: Tensor, bias: Tensor, states: Tensor, labels: Tensor, ends: Tensor, damped: Tensor
) -> None:
    sizes = {"weight": weight.shape, "bias": bias.shape, "states": states.shape, "ends": ends.shape}
    layers, dim, width = weight.shape if weight.ndim == 3 else (0, 0, 0)
    fits = (
        bias.shape == (layers, dim)
        and states.ndim == 3
        and states.shape[::2] == (layers, width)
        and labels.shape == states.shape[1:2]
        and ends.ndim == 2
        and ends.shape[1] == dim
        and damped.ndim == 3
        and damped.shape[:2] == (layers, width)
    )
    if not fits:
        sizes |= {"labels": labels.shape, "damped": damped.shape}
        shapes = ", ".join(f"{name} {list(size)}" for name, size in sizes.items())
        raise BadInput(
            f"{shapes}: expected weight [L, d, H], bias [L, d], states [L, N, H], ends [C, d], "
            "labels [N] and damped [L, H, r]"
        )
    named = {"weight": weight, "bias": bias, "states": states, "ends": ends, "damped": damped}
    for name, tensor in named.items():
        if not tensor.isfinite().all():
            raise BadInput(f"{name} of a lens to be adapted are not all finite: expected numbers")
    if not (states != 0).any(2).all():
        raise BadInput("a state of the examples is zero: expected what the model gives at their labels")
    count = len(ends)
    if labels.is_floating_point() or not ((labels >= 0) & (labels < count)).all():
        raise BadInput(f"labels {shown(labels.tolist())}: expected whole numbers from 0 to {count - 1}")
    if len(labels) > _MOST:
        raise BadInput(
            f"{len(labels)} examples to adapt a lens to: expected at most {_MOST}, for their N x N "
            "matrices are held in memory; give some of each label"
        )
    numbers = labels.bincount(minlength=count).tolist()
    if count < 2 or min(numbers) < 2:
        raise BadInput(f"{numbers} examples of the labels: expected at least two labels, each twice")
    if (ends - ends[:1]).abs().max() < _SAME:
        raise BadInput("the labels' end points are all the same: choose words that differ")
