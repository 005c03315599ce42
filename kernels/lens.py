"""The lens: an affine reader of each layer's normalised states, and the Gaussian cost of its reading."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import check_devices, check_end
from kernels.dispatch import choose


def lens_project(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    source: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Each layer's guess of the end point: ``p_i = W_i x_i + b_i`` of the normalised state.

    That is ``x = h / rms(h)`` with the root of the mean of h's squares, or 0 for a state of zeros; it is
    found without overflow or underflow for every finite state.

    Args:
        states: [L, N, H] from `kernels.pooling.pool_trajectory`, in any floating dtype; N may be 0.
        weight: [L, d, H].
        bias: [L, d].
        source: dtype of the hidden states that were pooled, as `kernels.bridge_nll.bridge_nll` takes it.
        backend: the implementation, by name; by default `kernels.dispatch` chooses.

    Returns:
        [L, N, d] in the dtype of the weight, computed in float32 at least, also under an autocast.

    Differentiable once, with respect to the states alone: a lens is made in closed form.

    Raises:
        ValueError: for shapes or devices that do not fit together, a weight or bias that requires a
            gradient where gradients are recorded, or a backend that cannot run.
    """
    _check(states, weight, bias)
    _refuse_gradients({"weight": weight, "bias": bias}, "detach it")
    with torch.autocast(states.device.type, enabled=False):
        chosen = choose(weight, backend).backend.operations
        latent: Tensor = chosen.lens_project(states, weight, bias, source=source or states.dtype)
        return latent.to(weight.dtype)


def lens_nll(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    end: Tensor,
    factor: Tensor,
    mean: Tensor,
    precision: Tensor,
    *,
    source: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """The marginal Gaussian cost of every layer: ``precision_i |factor_i p_i - mean_i v|^2 / 2``.

    The guess p is that of `lens_project`.

    Args:
        states: [L, N, H] from `kernels.pooling.pool_trajectory`, in any floating dtype; N may be 0.
        weight: [L, d, H].
        bias: [L, d].
        end: [N, d] end points v, or [K, N, d]: K of them for each token, whose latents are shared.
        factor: [L], of the guess at each layer.
        mean: [L], of v.
        precision: [L], one over the variance.
        source: dtype of the hidden states that were pooled, as `kernels.bridge_nll.bridge_nll` takes it.
        backend: the implementation, by name; by default `kernels.dispatch` chooses.

    Returns:
        [L, N], or with K end points [K, L, N], in the dtype of the weight, computed in float32 at least,
        also under an autocast. The d latent dimensions are summed, layers and tokens are not.

    Differentiable once, with respect to the states alone.

    Raises:
        ValueError: for shapes or devices that do not fit together, another input that requires a
            gradient where gradients are recorded, or a backend that cannot run.
    """
    layers, tokens, dim = _check(states, weight, bias)
    check_end(end, tokens, dim)
    laws = {"factor": factor, "mean": mean, "precision": precision}
    for name, vector in laws.items():
        if vector.shape != (layers,):
            raise ValueError(f"{name} {tuple(vector.shape)}: expected {(layers,)}, one per layer")
    _refuse_gradients({"weight": weight, "bias": bias}, "detach it")
    check_devices(states=states, end=end, **laws)
    elsewhere = "detach it, or write the cost in PyTorch on the latents of lens_project"
    _refuse_gradients({"end": end, **laws}, elsewhere)
    with torch.autocast(states.device.type, enabled=False):
        chosen = choose(weight, backend).backend.operations
        laws_of = (end, factor, mean, precision)
        values: Tensor = chosen.lens_nll(states, weight, bias, *laws_of, source=source or states.dtype)
        return values.to(weight.dtype)


def _check(states: Tensor, weight: Tensor, bias: Tensor) -> tuple[int, int, int]:
    """(L, N, d) of shapes that fit together."""
    if states.dim() != 3 or not states.is_floating_point():
        raise ValueError(f"states is {states.dtype} {tuple(states.shape)}: expected floats [L, N, H]")
    layers, tokens, width = states.shape
    if weight.dim() != 3 or weight.shape[::2] != (layers, width) or not weight.is_floating_point():
        raise ValueError(
            f"weight is {weight.dtype} {tuple(weight.shape)}: expected floats [{layers}, d, {width}] "
            f"for states {tuple(states.shape)}"
        )
    if bias.shape != weight.shape[:2]:
        raise ValueError(f"bias {tuple(bias.shape)}: expected {tuple(weight.shape[:2])}, [L, d]")
    check_devices(states=states, weight=weight, bias=bias)
    return layers, tokens, weight.shape[1]


def _refuse_gradients(inputs: dict[str, Tensor], instead: str) -> None:
    if torch.is_grad_enabled():
        for name, tensor in inputs.items():
            if tensor.requires_grad:
                raise ValueError(
                    f"{name} requires a gradient, but the lens has one for states alone: {instead}"
                )
