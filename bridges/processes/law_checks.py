"""Whether what a bridge's formulas give is what a law is made of: for whoever writes one."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, shown

logger = logging.getLogger(__name__)

_NEAR = 1e-3


class Law(Protocol):
    """What is asked of a `bridges.processes.gaussian_law.GaussianLaw`."""

    @property
    def dims(self) -> int | None: ...

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]: ...


def check_marginal(law: Law, found: Any, times: tuple[Tensor, ...]) -> None:
    """Whether it is a pair of tensors, a number for each time, or for each time and dimension.

    Raises:
        BadInput: if not.
    """
    who = f"{type(law).__name__}.marginal"
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(x, Tensor) for x in found)):
        raise BadInput(
            f"{who} gives {_kinds(found)}: expected two tensors, the mean factor and the variance at "
            "each of the times t"
        )
    for what, values in zip(("mean factor", "variance"), found, strict=True):
        _check_shape(who, law, what, values, tuple(times[0].shape))


def check_covariance(law: Law, found: Any, times: tuple[Tensor, ...]) -> None:
    """Whether it is a tensor, a number for each pair of times, or for each pair and dimension.

    Raises:
        BadInput: if not.
    """
    who = f"{type(law).__name__}.covariance"
    if not isinstance(found, Tensor):
        raise BadInput(
            f"{who} gives {_kinds(found)}: expected a tensor, a number for each pair of times"
        )
    shape = torch.broadcast_shapes(*(t.shape for t in times))
    _check_shape(who, law, "covariance", found, tuple(shape))


def _check_shape(who: str, law: Law, what: str, values: Tensor, times: tuple[int, ...]) -> None:
    if law.dims is None:
        if tuple(values.shape) != times:
            raise BadInput(
                f"{who}: {what} of shape {tuple(values.shape)} at times of shape {times}: expected the "
                "same shape"
            )
    elif tuple(values.shape) not in {(*times, 1), (*times, law.dims)}:
        raise BadInput(
            f"{who}: {what} of shape {tuple(values.shape)} at times of shape {times}, where a parameter "
            f"has a number for each of {law.dims} dimensions: expected {(*times, law.dims)}; compute "
            "with self.per_dimension(t) in the place of t"
        )


def check_values(law: Law, times: Tensor) -> None:
    """Whether there is a law at the times [T] inside (0, 1); a warning where it has no pinned ends.

    Raises:
        BadInput: for a mean factor that is no number, or a variance that is none or not above 0.
    """
    name = type(law).__name__
    with torch.no_grad():
        factor, variance = law.marginal(times)
        ends = law.marginal(torch.tensor([0.0, 1.0], dtype=times.dtype, device=times.device))
    for what, values, right in (
        ("mean factor", factor, factor.isfinite()),
        ("variance", variance, variance.isfinite() & (variance > 0)),
    ):
        if not right.all():
            wrong = (~right.reshape(len(times), -1)).any(1).nonzero()[0, 0]
            value = values[wrong][~right[wrong]].flatten()[0].item()
            expected = "a finite number" if what == "mean factor" else "a finite number above 0"
            raise BadInput(
                f"the {what} of {name} is {value:g} at t = {times[wrong].item():.3g}: expected "
                f"{expected} wherever a layer is; look at {name}.marginal"
            )
    (start, end), spread = ends
    if (start.abs() > _NEAR).any() or ((end - 1).abs() > _NEAR).any() or (spread.abs() > _NEAR).any():
        told = ", ".join(f"{x.flatten()[0].item():.3g}" for x in (start, end, *spread))
        logger.warning(
            "%s is no bridge from 0 to the end point: m(0), m(1), s2(0) and s2(1) are %s, expected 0, "
            "1, 0, 0",
            name,
            told,
        )


def check_parameters(law: nn.Module) -> None:
    """Whether a law that learns nothing has nothing that would be fitted.

    Raises:
        BadInput: for a parameter of torch's own, which a fit would move by a cost without normaliser.
    """
    for name, _ in law.named_parameters():
        raise BadInput(
            f"{type(law).__name__} has the torch parameter {shown(name)}, which a fit would move by a "
            "cost without its normaliser: declare what is learned in the class body, a = Positive(0.1, "
            "10) for example, and name it by learn='a'; or keep it as a buffer, which stays as it is"
        )


def _kinds(found: Any) -> str:
    if isinstance(found, (tuple, list)):
        return f"{type(found).__name__} of {len(found)}: {', '.join(type(x).__name__ for x in found)}"
    return type(found).__name__
