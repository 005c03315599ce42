"""States over their root mean square, and costs whose map reads them so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny import tiny_bert, tiny_llama
from torch.testing import assert_close

from bridges import BadInput, RunningCost
from bridges.latent.trajectory import Trajectory, normalised
from kernels.lens import lens_project


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("scale", [1.0, 22_517.0, 1e30, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_state_over_its_root_mean_square(scale: float, dtype: torch.dtype) -> None:
    states = (draw(3, 5, 8) * scale).to(dtype)
    found = normalised(states)
    expected = [
        [[x / math.sqrt(sum(y * y for y in state) / 8) for x in state] for state in layer]
        for layer in states.tolist()
    ]
    assert found.dtype == torch.float32
    assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_and_the_smallest_numbers_are_normalised_too(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    for size in (info.max, info.tiny):
        assert_close(normalised(torch.full((2, 4), size, dtype=dtype)), torch.ones(2, 4, dtype=dtype))


def test_a_state_of_zeros_stays_one_and_has_no_gradient() -> None:
    states = torch.stack([torch.zeros(4), torch.ones(4)]).requires_grad_()
    found = normalised(states)
    (found * torch.arange(4.0)).sum().backward()
    assert states.grad is not None
    assert torch.equal(found[0], torch.zeros(4))
    assert torch.equal(states.grad[0], torch.zeros(4))
    assert states.grad[1].abs().sum() > 0


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e-3])
def test_its_gradients_are_right(scale: float) -> None:
    states = (draw(2, 3, 5) * scale).requires_grad_()
    checked = {"eps": 1e-6 * scale, "atol": 1e-6 / scale, "rtol": 1e-5}
    assert torch.autograd.gradcheck(normalised, (states,), **checked)
    assert torch.autograd.gradgradcheck(normalised, (draw(2, 3, 5).requires_grad_(),))


def test_it_is_what_a_lens_reads() -> None:
    states, eye = draw(2, 3, 6) * 1e4, torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    assert_close(normalised(states), lens_project(states, eye, torch.zeros(2, 6, dtype=torch.float64)))


@pytest.mark.parametrize("bridge", ["brownian", "sde", "sde:reads=state", "posterior", "regression"])
@pytest.mark.parametrize("fit", [True, False])
def test_a_cost_reads_states_and_contexts_so(bridge: str, fit: bool) -> None:
    """As the plain map of the same seed reads those that were normalised before."""
    model, answers = tiny_bert(), torch.tensor([5, 6, 7, 8])
    plain, mine = (
        RunningCost.for_model(model, bridge, fit=fit, normalise=normalise) for normalise in (None, True)
    )
    width = mine.spec.hidden_size
    given = Trajectory(
        draw(3, 4, width).float() * 300,
        draw(3, 2, width, seed=1).float() * 7,
        torch.tensor([0, 1, 1, 0]),
    )
    divided = [x / x.square().mean(-1, keepdim=True).sqrt() for x in (given.states, given.context)]

    def value(cost: RunningCost, of: Trajectory) -> torch.Tensor:
        return cost.of_trajectory(of, answers, generator=torch.Generator().manual_seed(3))

    assert_close(value(mine, given), value(plain, Trajectory(divided[0], divided[1], given.rows)))
    assert not torch.allclose(value(mine, given), value(plain, given), rtol=1e-4)


def test_it_is_saved_and_an_older_version_refuses_the_file(tmp_path: Path) -> None:
    cost = RunningCost.for_model(tiny_llama(), "brownian", normalise=True)
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    config = json.loads((tmp_path / "cost" / "config.json").read_text())
    assert (config["options"]["normalise"], config["format"]) == (True, 2)
    assert loaded.latent_map.normalises
    assert (loaded.digest(), loaded.config()) == (cost.digest(), cost.config())


def test_a_plain_cost_is_what_it_was(tmp_path: Path) -> None:
    plain, said = (RunningCost.for_model(tiny_bert(), normalise=given) for given in (None, False))
    assert plain.digest() == said.digest() != RunningCost.for_model(tiny_bert(), normalise=True).digest()
    assert plain.config()["format"] == 1
    assert "normalise" not in plain.options


def test_a_file_cannot_say_anything_else(tmp_path: Path) -> None:
    RunningCost.for_model(tiny_bert()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for given, message in (("yes", "normalise='yes'"), (True, "has format 1, expected 2")):
        config["options"]["normalise"] = given
        path.write_text(json.dumps(config))
        with pytest.raises(BadInput, match=message):
            RunningCost.from_pretrained(tmp_path)


def test_a_lens_always_does() -> None:
    model = tiny_bert()
    said = RunningCost.for_model(model, map="lens", normalise=True)
    assert said.digest() == RunningCost.for_model(model, map="lens").digest()
    with pytest.raises(BadInput, match="a lens always reads normalised states"):
        RunningCost.for_model(model, map="lens", normalise=False)
    with pytest.raises(BadInput, match="normalise='yes'"):
        RunningCost.for_model(model, normalise="yes")  # type: ignore[arg-type]
