"""Natural cubic splines as fixed matrices: what a spline is at given times is linear in its knots."""

from __future__ import annotations

import torch
from torch import Tensor


def natural_spline_matrix(knots: Tensor, at: Tensor) -> Tensor:
    """The matrix that takes values at the knots to values of their natural cubic spline.

    Natural means: the second derivative is zero at the first and the last knot. Between knots k and
    k+1, with h the gap and u in [0, 1] the place in it, the spline is
    ``(1-u) x_k + u x_{k+1} + h^2/6 (((1-u)^3 - (1-u)) M_k + (u^3 - u) M_{k+1})``, and the second
    derivatives M solve a tridiagonal system.

    Args:
        knots: [K], increasing, K >= 2.
        at: [T], inside the first and the last knot.

    Returns:
        [T, K] in float64.

    Raises:
        ValueError: for knots that do not increase, or times outside them.
    """
    knots, at = knots.to(torch.float64), at.to(torch.float64)
    gaps = knots.diff()
    if knots.dim() != 1 or len(knots) < 2 or (gaps <= 0).any():
        raise ValueError(f"knots must be two or more increasing numbers, got {knots.tolist()}")
    if at.dim() != 1 or (len(at) and (at.min() < knots[0] or at.max() > knots[-1])):
        raise ValueError(
            f"times must lie in [{float(knots[0]):g}, {float(knots[-1]):g}], got {at.tolist()}"
        )
    count = len(knots)
    eye = torch.eye(count, dtype=torch.float64, device=knots.device)
    curvature = torch.zeros_like(eye)  # M = curvature @ x; natural ends: its outer rows are zero
    if count > 2:
        inner = torch.diag((gaps[:-1] + gaps[1:]) / 3)
        inner += torch.diag(gaps[1:-1] / 6, 1) + torch.diag(gaps[1:-1] / 6, -1)
        slopes = eye.diff(dim=0) / gaps[:, None]
        curvature[1:-1] = torch.linalg.solve(inner, slopes.diff(dim=0))
    left = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, count - 2)
    gap = gaps[left][:, None]
    u = (at - knots[left])[:, None] / gap
    bend = (((1 - u) ** 3 - (1 - u)) * curvature[left] + (u**3 - u) * curvature[left + 1]) * gap**2 / 6
    return (1 - u) * eye[left] + u * eye[left + 1] + bend
