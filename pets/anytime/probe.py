"""A linear probe of every layer: the simple reader that an exit has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput

STRENGTHS = tuple(10 ** (power / 2) for power in range(0, -8, -1))
"""Of the ridge, those that are tried, the strongest first: shares of the number of features."""
FOLDS = 5
_ROUNDING = (1e-5, 1e-6)  # of a feature's size and of all's: a spread below is not the examples'
_STEPS = 500
_ENOUGH = 1e-6  # of a gradient's entry, where a loss is a mean over examples


@dataclass(frozen=True)
class Probe:
    """A logistic regression for each of K layers, on standardised states.

    Attributes:
        mean, scale: float64 [K, 1, H], of the examples; a feature that is the same in all has scale inf.
        weight, bias: float64 [K, H, C] and [K, 1, C].
        strength: [K], what was chosen of `STRENGTHS`.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    strength: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Log-odds [K, N, C] of states [K, N, H]."""
        return (states.double() - self.mean) / self.scale @ self.weight + self.bias

    @classmethod
    def fitted(cls, states: Tensor, answers: Tensor, classes: int) -> Probe:
        """Fit every layer's probe on N labelled examples. Deterministic, float64.

            least over W, b:  mean over i of -log p(y_i | x_i) + s H / 2 |W|^2
            p(. | x) = softmax(W' x + b)

        Each layer has the strength s with the least loss on examples left out, in a stratified
        cross-validation of five folds, or as many as the smallest class has examples. The folds are
        always the same; standardisation is of their training part.

        Args:
            states: [K, N, H].
            answers: int64 [N], classes from 0 on.
            classes: C.

        Raises:
            BadInput: for shapes that do not fit, states that are not finite, or fewer than two classes
                or two examples of one.
        """
        _check(states, answers, classes)
        states, answers = states.detach().cpu().double(), answers.cpu()
        losses = torch.zeros(len(STRENGTHS), len(states), dtype=torch.float64)
        fold = folds(answers, classes)
        for k in range(int(fold.max()) + 1):
            seen, left_out = fold != k, fold == k
            path = _path(states[:, seen], answers[seen], classes, torch.tensor(STRENGTHS))
            for at, probe in enumerate(path):
                odds = probe(states[:, left_out]).log_softmax(2)
                losses[at] -= odds[:, torch.arange(odds.shape[1]), answers[left_out]].sum(1)
        chosen = torch.tensor(STRENGTHS, dtype=torch.float64)[losses.argmin(0)]
        return _path(states, answers, classes, chosen[None])[0]


def folds(answers: Tensor, classes: int) -> Tensor:
    """Which fold each of N examples is left out in, [N]: of every class as many in each, or one more."""
    count = min(FOLDS, int(answers.bincount(minlength=classes).min()))
    fold = torch.zeros_like(answers)
    for label in range(classes):
        own = (answers == label).nonzero().flatten()
        fold[own] = torch.arange(len(own)) % count
    return fold


def _path(states: Tensor, answers: Tensor, classes: int, strengths: Tensor) -> list[Probe]:
    """The probes of S strengths, [S] or [S, K] by layer; each is looked for from the last one on."""
    width = states.shape[2]
    mean = states.mean(1, keepdim=True)
    spread = states.amax(1, keepdim=True) - states.amin(1, keepdim=True)
    sizes = states.abs().mean(1, keepdim=True)
    varies = spread > _ROUNDING[0] * sizes + _ROUNDING[1] * sizes.mean(2, keepdim=True)
    scale = torch.where(varies, states.std(1, correction=0, keepdim=True), torch.inf)
    axes, sizes, rows = torch.linalg.svd((states - mean) / scale, full_matrices=False)
    target = torch.nn.functional.one_hot(answers, classes).to(states)
    weight, bias = (
        states.new_zeros(len(states), sizes.shape[1], classes),
        states.new_zeros(1, 1, classes),
    )
    found = []
    for strength in strengths.double():
        ridge = (width * strength).expand(len(states))[:, None, None]
        weight, bias = _regression(axes, sizes, target, ridge, weight, bias)
        found.append(Probe(mean, scale, rows.mT @ weight, bias, strength.expand(len(states))))
    return found


def _regression(
    axes: Tensor, sizes: Tensor, target: Tensor, ridge: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights [K, r, C] on examples' r principal axes and biases [K, 1, C].

    Along these features are uncorrelated, so each can be scaled by its own curvature: then all
    directions and layers need about as many steps.
    """
    x = axes * sizes[:, None]
    unit = (sizes.square()[:, :, None] / (4 * len(target)) + ridge).rsqrt()

    def loss(free: Tensor, bias: Tensor) -> Tensor:
        weight = unit * free
        fit = -(target * (x @ weight + bias).log_softmax(2)).sum(2).mean(1)
        return (fit + (ridge / 2 * weight.square()).sum((1, 2))).sum()

    free, bias = _minimised(loss, weight / unit, bias.expand(len(x), -1, -1))
    return unit * free, bias


def _minimised(loss: Callable[..., Tensor], *start: Tensor) -> list[Tensor]:
    """Where a smooth convex function of some tensors is least, from a start."""
    parameters = [tensor.clone().requires_grad_() for tensor in start]
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=_STEPS,
        max_eval=2 * _STEPS,
        tolerance_grad=_ENOUGH,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(*parameters)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
    return [parameter.detach() for parameter in parameters]


def _check(states: Tensor, answers: Tensor, classes: int) -> None:
    if states.dim() != 3 or answers.shape != states.shape[1:2] or answers.is_floating_point():
        raise BadInput(
            f"states {tuple(states.shape)} and answers {tuple(answers.shape)} of {answers.dtype}: "
            "expected [K, N, H] and int64 [N]"
        )
    if not states.isfinite().all():
        raise BadInput("states of the examples are not all finite: a probe is fitted to numbers")
    if len(answers) and not ((answers >= 0) & (answers < classes)).all():
        raise BadInput(
            f"answers from {int(answers.min())} to {int(answers.max())}: expected classes from 0 to "
            f"{classes - 1}"
        )
    numbers = answers.bincount(minlength=classes).tolist()
    if classes < 2 or min(numbers) < 2:
        raise BadInput(f"{numbers} examples of the classes: expected at least two classes, each twice")
