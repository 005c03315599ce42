"""What a forward pass keeps, counted by hand."""

from __future__ import annotations

import gc

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pets.study.compare.kept import kept_for_backward


def test_a_linear_layer_keeps_its_input_and_exp_its_output() -> None:
    layer, x = nn.Linear(8, 16, bias=False), torch.randn(4, 8)
    with kept_for_backward([layer]) as kept:
        y = layer(x).exp()
        assert kept.most == 4 * (4 * 8 + 4 * 16)
        y.sum().backward()
    assert layer.weight.grad is not None
    with kept_for_backward() as with_weights:
        layer(x.requires_grad_())
    assert with_weights.most == 4 * (4 * 8 + 16 * 8)


def test_a_storage_counts_once_and_as_long_as_it_is_kept() -> None:
    x = torch.randn(100, requires_grad=True)
    with kept_for_backward() as kept:
        y = x * x  # both factors are x
        assert kept.most == 400
        (x[:50] * x[50:]).sum().backward()  # views of it
        assert kept.most == 400
        for _ in range(3):
            torch.exp(y).sum().backward(retain_graph=True)  # one after another: never three at once
        assert kept.most == 800


def test_derivatives_of_derivatives_stay_right() -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    with kept_for_backward():
        (slope,) = torch.autograd.grad((x.exp() * x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(bend, ((x + 2) * x.exp()).detach())


def test_two_forwards_at_once_are_both_counted_and_checkpoints_less() -> None:
    x = torch.randn(10, requires_grad=True)
    with kept_for_backward() as two:
        (x.exp() + x.sin().exp()).sum().backward()
    assert two.most == 40 * 3  # exp, x for sin, exp

    def deep(x: torch.Tensor) -> torch.Tensor:
        return x.exp().exp().exp()

    with kept_for_backward() as plain:
        deep(x)
    gc.collect()
    with kept_for_backward() as less:
        checkpoint(deep, x, use_reentrant=False)
    assert less.most < plain.most == 120
