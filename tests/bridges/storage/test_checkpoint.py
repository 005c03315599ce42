"""A loop goes on from its checkpoint to the same bits, and takes over no other loop's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bridges import BadInput
from bridges.storage.checkpoint import Checkpoint, Snapshot
from bridges.storage.shapes import COUNT

SHAPE = {"step": COUNT}


def loop(size: int = 3) -> tuple[nn.Linear, Checkpoint]:
    torch.manual_seed(size)
    layer = nn.Linear(size, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    return layer, Checkpoint(dict(layer.named_parameters()), optimizer)


def step(layer: nn.Linear, checkpoint: Checkpoint) -> None:
    checkpoint.optimizer.zero_grad()
    layer(torch.ones(1, layer.in_features)).square().sum().backward()
    checkpoint.optimizer.step()


def test_it_goes_on_to_the_same_bits_with_its_best(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "state.safetensors", {})
    layer, checkpoint = loop()
    step(layer, checkpoint)
    checkpoint.keep_best()
    best = layer.weight.detach().clone()
    step(layer, checkpoint)
    checkpoint.save(snapshot, {"step": 2})
    other, resumed = loop()
    assert resumed.resume(snapshot, SHAPE) == {"step": 2}
    for one in ((layer, checkpoint), (other, resumed)):
        step(*one)
    assert torch.equal(layer.weight, other.weight)
    resumed.restore_best()
    assert torch.equal(other.weight, best)
    assert not torch.equal(layer.weight, best)


def test_without_a_snapshot_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert loop()[1].resume(Snapshot(tmp_path / "state.safetensors", {}), SHAPE) is None


def test_what_another_loop_trained_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "state.safetensors", {})
    layer, checkpoint = loop(1)  # its weight would fill a larger one
    step(layer, checkpoint)
    checkpoint.save(snapshot, {"step": 1})
    other, larger = loop(3)
    before = other.weight.detach().clone()
    with pytest.raises(BadInput, match=r"no state of this run .*: delete it to begin anew"):
        larger.resume(snapshot, SHAPE)
    assert torch.equal(other.weight, before)
