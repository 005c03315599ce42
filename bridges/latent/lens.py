"""The lens: a reader of each layer by itself, affine in the normalised state, made in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, is_whole, shown
from bridges.latent.latent_map import Reader, as_latents
from bridges.latent.trajectory import Trajectory
from kernels.lens import lens_nll, lens_project

DAMPED = 32
"""So many directions of the states' spread, at most H/8, are kept for an adaptation to examples."""


class Lens(Reader):
    """For each layer an affine guess of the end point, of the state over its root mean square.

        p_k = A_k h_k / rms(h_k) + b_k,   z_k = m(t_k) p_k

    The cost of a Gaussian process at one layer is ``w_k |p_k - v|^2`` with
    ``w_k = m(t_k)^2 / (2 s2(t_k))``, so the ridge regression of the end point is best for all of them
    at once (`bridges.fitting.lens_fit`). It takes no notice of the context. Until it is fitted it is
    random, with guesses of about unit length: as a control it stays so.

    Args:
        num_states: L+1.
        hidden_size: H.
        dim: d.

    Attributes:
        weight: A, [L+1, d, H].
        bias: b, [L+1, d].
        centre: [L+1, d], the mean guess: on the text that it was fitted on, or the examples it was
            adapted to; where a guess is that knows nothing.
        damped: [L+1, H, r], the directions in which the states of text vary most; see
            `bridges.fitting.adapting.damping`.
    """

    reads_context = False
    guesses = True
    normalises = True
    centre: Tensor
    damped: Tensor

    def __init__(self, num_states: int, hidden_size: int, dim: int) -> None:
        super().__init__()
        if not is_whole(dim, 1, hidden_size):
            raise BadInput(f"latent_dim={shown(dim)}: expected 1 to {hidden_size}")
        scale = (hidden_size * dim) ** -0.5
        self.weight = nn.Parameter(torch.randn(num_states, dim, hidden_size) * scale)
        self.bias = nn.Parameter(torch.zeros(num_states, dim))
        self.register_buffer("centre", torch.zeros(num_states, dim))
        damped = torch.zeros(num_states, hidden_size, max(1, min(DAMPED, hidden_size // 8)))
        self.register_buffer("damped", damped)

    @property
    def dim(self) -> int:
        return self.bias.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def forward(self, trajectory: Trajectory, factor: Tensor | None = None) -> Tensor:
        guess = lens_project(trajectory.states, self.weight, self.bias, source=trajectory.source)
        return as_latents(guess, factor)

    def fused_cost(
        self,
        trajectory: Trajectory,
        end: Tensor,
        carry: Tensor | None,
        mean: Tensor,
        precision: Tensor,
        factor: Tensor,
    ) -> Tensor | None:
        learned = torch.is_grad_enabled() and any(x.requires_grad for x in (mean, precision, factor))
        if carry is not None or learned:
            return None
        given = (trajectory.states, self.weight, self.bias, end, factor, mean, precision)
        return lens_nll(*given, source=trajectory.source).mean(-2)
