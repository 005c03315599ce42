"""A running cost that reads through a lens: its value, its files, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEXTS, VOCABULARY, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor, nn

import bridges
from bridges import BadInput, EndPoints, RunningCost
from bridges.cost.files import tensors_sha256
from bridges.latent.latent_map import Layers
from bridges.latent.lens import Lens

EXACT = {"rtol": 1e-12, "atol": 1e-12}
WEIGHT, BIAS, CENTRE = (f"latent_map.{name}" for name in ("weight", "bias", "centre"))


def new_cost(model: nn.Module, bridge: Any = "brownian", **options: Any) -> RunningCost:
    return RunningCost.for_model(model, bridge, **{"map": "lens", "latent_dim": 6, **options})


def fitted(model: nn.Module, bridge: Any = "brownian", **options: Any) -> RunningCost:
    cost = new_cost(model, bridge, **options)
    cost.fit(model, tiny_tokenizer(), TEXTS, progress=False, batch_size=8, max_length=16, held_out=12)
    return cost


def batch(*, causal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, targets and mask of two rows, the second padded."""
    ids = torch.randint(5, len(VOCABULARY), (2, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    targets = torch.full_like(ids, -100)
    for row, columns in enumerate([(3, 4, 7), (2, 4)]):
        targets[row, list(columns)] = ids[row, list(columns)]
    return ids, targets, mask


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return [h.double() for h in output.hidden_states]


# Its value


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
@pytest.mark.parametrize("bridge", ["brownian", "ou:theta=2,sigma=0.5"])
def test_the_cost_is_its_definition(make: Any, bridge: str) -> None:
    """``m^2 |A h / rms(h) + b - v|^2 / 2 s2``, one layer and one token at a time."""
    model = make()
    cost = new_cost(model, bridge).double()
    lens = cost.latent_map
    assert isinstance(lens, Lens)
    nn.init.normal_(lens.bias)
    ids, targets, mask = batch()
    hidden = hidden_states(model, ids, mask)
    expected = []
    shift = 1 if cost.reads == "next" else 0
    times = torch.arange(1, len(hidden) + 1).double() / (len(hidden) + 1)
    factor, variance = cost.bridge.marginal(times)  # type: ignore[operator]
    for row, column in (targets != -100).nonzero().tolist():
        end, total = cost.end_points.vectors[targets[row, column]], 0.0
        for i, states in enumerate(hidden):
            h = states[row, column - shift]
            guess = lens.weight[i] @ (h / (h @ h / len(h)).sqrt()) + lens.bias[i]
            total += float(factor[i] ** 2 * (guess - end).square().sum() / (2 * variance[i]))
        expected.append(total / len(hidden))
    found = cost.costs(hidden, targets, mask)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    trajectory, _ = cost.trajectory(hidden, targets, mask)
    guesses = lens(trajectory)
    torch.testing.assert_close(cost.latents(trajectory), factor[:, None, None] * guesses, **EXACT)


def test_it_takes_no_notice_of_the_context() -> None:
    model = tiny_bert()
    cost = new_cost(model).double()
    ids, targets, mask = batch()
    hidden = hidden_states(model, ids, mask)
    trajectory, _ = cost.trajectory(hidden, targets, mask)
    assert trajectory.context.shape == (4, 0, 32)
    expected = cost(hidden, targets, mask)
    for states in hidden:
        states[targets == -100] = float("nan")
    assert torch.equal(cost(hidden, targets, mask), expected)


@pytest.mark.parametrize("bridge", ["brownian", "brownian:likelihood=path", "student", "posterior"])
def test_the_scale_of_the_states_does_not_count(bridge: str) -> None:
    """Nor has the gradient a component along a state: only its direction is read."""
    model = tiny_bert()
    cost = new_cost(model, bridge).double()
    ids, targets, mask = batch()
    hidden = [h.requires_grad_() for h in hidden_states(model, ids, mask)]
    value = cost(hidden, targets, mask)
    for scale in (1e-3, 2e4):
        scaled = [h.detach() * scale for h in hidden]
        torch.testing.assert_close(cost(scaled, targets, mask), value.detach(), rtol=1e-9, atol=0)
    for h, grad in zip(hidden, torch.autograd.grad(value, hidden), strict=True):
        assert grad.norm() > 0
        along = (h * grad).sum(-1).abs()
        assert (along <= 1e-10 * (h.norm(dim=-1) * grad.norm(dim=-1) + 1e-9)).all()


@pytest.mark.parametrize("bridge", ["kinetic", "regression", "random", "clock", "axis"])
def test_every_kind_of_cost_takes_a_lens(bridge: str) -> None:
    model = tiny_bert()
    cost = fitted(model, bridge)
    ids, targets, mask = batch()
    states = [h.float().requires_grad_() for h in hidden_states(model, ids, mask)]
    value = cost(states, targets, mask)
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(value, states, allow_unused=False))
    assert not any(p.requires_grad for p in cost.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_in_few_bits_cost_what_they_do_in_float64(dtype: torch.dtype) -> None:
    """1e-4 of the value, with one huge dimension as large models have; the lens is in float32."""
    model = tiny_bert()
    cost = new_cost(model)
    ids, targets, mask = batch()
    hidden = [h.to(dtype) for h in hidden_states(model, ids, mask)]
    for states in hidden:
        states[..., 3] *= 2e4
    expected = cost.costs([h.double() for h in hidden], targets, mask)
    exact = new_cost(model).double().costs([h.double() for h in hidden], targets, mask)
    for found in (cost.costs(hidden, targets, mask), expected):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


# What it is made of


def test_what_it_is_made_of_is_in_its_config() -> None:
    model = tiny_bert()
    cost = new_cost(model)
    config = cost.config()
    assert (config["format"], config["map"], config["widths"]) == (2, "lens", [6])
    assert config["options"]["ends"] == "white"
    plain, published = new_cost(model, ends="pca"), RunningCost.for_model(model)
    assert plain.config()["options"]["ends"] == "pca"
    assert (published.config()["format"], published.config()["map"]) == (1, "mlp")
    assert published.config()["options"]["ends"] == "pca"
    white = RunningCost.for_model(model, latent_dim=6, ends="white")
    assert torch.equal(white.end_points.vectors, cost.end_points.vectors)
    assert not torch.equal(white.end_points.vectors, plain.end_points.vectors)
    assert len({c.digest() for c in (cost, plain, published, white)}) == 4


def test_its_seed_is_that_of_the_random_lens() -> None:
    """With guesses of about unit length: half to twice, over tokens."""
    model = tiny_bert()
    one, again, other = new_cost(model), new_cost(model), new_cost(model, seed=1)
    assert one.digest() == again.digest() != other.digest()
    ids, targets, mask = batch()
    trajectory, _ = one.trajectory(hidden_states(model, ids, mask), targets, mask)
    length = one.latent_map(trajectory).norm(dim=-1).mean(1)
    assert ((length > 0.5) & (length < 2)).all()


def test_a_lens_that_cannot_be_made_is_refused() -> None:
    model = tiny_bert()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"map": "lense"}, "map='lense'|map 'lense'"),
        ({"ends": "zca"}, "ends"),
        ({"widths": (16, 8), "latent_dim": None}, "map='lens' has no layers of its own to give widths"),
        ({"latent_dim": 33}, "latent_dim=33: expected 1 to 32"),
        ({"latent_dim": 0}, "latent_dim=0: expected 1 to 32"),
        ({"bridge": "sde"}, "map='lens': the drift of 'sde' is a network .*; use map='mlp', or another"),
        ({"bridge": bridges.get("ou", theta=[1.0, 2.0])}, "2 latent dimensions, but .* in 6"),
        ({"bridge": bridges.get("ou", sigma=[1.0] * 5, learn="sigma")}, "5 latent dimensions"),
    ]
    for given, message in cases:
        with pytest.raises(BadInput, match=message):
            new_cost(model, **given)
    new_cost(model, bridges.get("ou", theta=[1.0] * 6))


class OwnMap(bridges.GaussianBridge):
    """Reads with a map that no lens can stand for; its subclass says which lens can."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, t * (1 - t)

    def make_map(self, hidden_size: int, widths: Any) -> Layers:
        return Layers(hidden_size, widths)


class OwnLens(OwnMap):
    def make_lens(self, num_states: int, hidden_size: int, dim: int) -> Lens:
        return Lens(num_states, hidden_size, dim)


def test_a_bridge_with_a_map_of_its_own_takes_no_lens_that_it_did_not_make() -> None:
    model = tiny_bert()
    with pytest.raises(BadInput, match="OwnMap reads the states with a map of its own"):
        new_cost(model, OwnMap())
    assert isinstance(new_cost(model, OwnLens()).latent_map, Lens)


@pytest.mark.parametrize("name", ["fit", "shuffle_ends"])
@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_what_is_neither_true_nor_false_is_refused(name: str, value: Any) -> None:
    """It is kept in the files, which would not be read again."""
    with pytest.raises(BadInput, match=f"{name}={value!r}: expected True or False"):
        new_cost(tiny_bert(), **{name: value})


# Its files


@pytest.mark.parametrize(
    "bridge", ["brownian", "ou:learn=theta+sigma,likelihood=path", "posterior:process=ou"]
)
@pytest.mark.parametrize("make", [tiny_bert, lambda: tiny_model("t5")])
def test_it_is_loaded_to_the_bit(tmp_path: Path, bridge: str, make: Any) -> None:
    cost = fitted(make(), bridge)
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert type(loaded) is RunningCost
    assert loaded.config() == cost.config()
    assert loaded.digest() == cost.digest()
    mine, theirs = cost.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert {WEIGHT, BIAS, CENTRE} <= set(mine)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.fit_record is not None
    assert len(loaded.fit_record["layers"]) == len(mine[WEIGHT])


def test_it_is_refused_by_another_model() -> None:
    cost = new_cost(tiny_bert())
    with pytest.raises(BadInput, match="other weights"):
        cost.check_model(tiny_bert(seed=1))
    with pytest.raises(BadInput, match="does not fit the model"):
        cost.check_model(tiny_llama())


def test_its_hash_is_blind_to_the_last_digits_of_the_end_points_alone() -> None:
    """2^-16 is the grid: a hundredth of it is none, and ten of it are."""
    model = tiny_bert()
    cost = new_cost(model)
    before = cost.digest()
    vectors = cost.end_points.vectors.clone()
    # From the middle of a cell, so that the noise leaves none.
    middle = (vectors.double() / 2.0**-16).round() * 2.0**-16
    noise = torch.rand(vectors.shape).double() * 2.0**-16
    for scale, same in ((0.01, True), (0.4, True), (10.0, False)):
        cost.end_points.vectors = (middle + scale * noise).float()
        assert (cost.digest() == before) == same
    cost.end_points.vectors = vectors
    with torch.no_grad():
        cost.latent_map.bias[0, 0] += 2.0**-40  # from 0
    assert cost.digest() != before


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost") / "cost"
    fitted(tiny_bert()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def write(folder: Path, change: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Files that say and hold something else, with the hash that belongs to it."""
    held = {**load_file(folder / "model.safetensors"), **tensors}
    held = {k: v.contiguous().clone() for k, v in held.items()}
    save_file(held, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= change | {"weights_sha256": tensors_sha256(held)}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


NAN = torch.full((4, 6), float("nan"))
TAMPERED: dict[str, tuple[dict[str, Any], dict[str, Tensor], str]] = {
    "fewer layers": ({}, {WEIGHT: torch.ones(3, 6, 32)}, r"\(3, 6, 32\), expected \(4, 6, 32\)"),
    "another width": ({}, {WEIGHT: torch.ones(4, 6, 31)}, r"\(4, 6, 31\), expected \(4, 6, 32\)"),
    "another d": ({"widths": [5]}, {}, r"\(4, 6, 32\), expected \(4, 5, 32\)"),
    "a bias of other layers": ({}, {BIAS: torch.ones(3, 6)}, "does not fit its config: .*bias"),
    "a centre of other layers": ({}, {CENTRE: torch.ones(3, 6)}, "does not fit its config: .*centre"),
    "a weight that is none": ({}, {BIAS: NAN}, "bias has numbers that are not finite"),
    "a centre that is none": ({}, {CENTRE: NAN}, "centre has numbers that are not finite"),
    "the published format": ({"format": 1}, {}, "has format 1, expected 2"),
    "no map": ({"map": None}, {}, "has format 2, expected 1"),
    "the published map": ({"map": "mlp", "format": 1}, {}, "does not fit its config"),
    "another map": ({"map": "probe"}, {}, "has format 2, expected 1|map is 'probe'"),
    "no widths": ({"widths": []}, {}, "widths is .*, expected a list of one or more"),
    "several widths": ({"widths": [8, 6]}, {}, "malformed"),
    "an sde": ({"bridge": {"name": "sde", "parameters": {}}}, {}, "the drift of 'sde'"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_files_that_cannot_be_right_are_refused(case: str, folder: Path) -> None:
    change, tensors, message = TAMPERED[case]
    write(folder, change, tensors)
    with pytest.raises(BadInput, match=message):
        RunningCost.from_pretrained(folder)


@pytest.mark.parametrize("layers", [2**40, -1, 0, 2.5, None, "x"])
def test_a_number_of_layers_that_asks_for_all_the_memory_is_refused(layers: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["num_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="has num_layers"):
        RunningCost.from_pretrained(folder)


def test_other_weights_than_were_saved_are_refused(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    save_file({**held, CENTRE: held[CENTRE] + 1e-3}, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"holds other tensors than config.json was saved with"):
        RunningCost.from_pretrained(folder)


def test_costs_from_before_there_were_lenses_are_loaded(tmp_path: Path) -> None:
    """Without a word of a map, and of end points."""
    cost = RunningCost.for_model(tiny_bert(), "ou", widths=(8, 4))
    cost.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["map"], config["options"]["ends"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = RunningCost.from_pretrained(tmp_path)
    assert loaded.config() == cost.config()
    assert loaded.digest() == cost.digest()


def test_a_loaded_cost_is_fitted_as_the_one_that_was_saved(tmp_path: Path) -> None:
    model = tiny_bert()
    new_cost(model).save_pretrained(tmp_path)
    loaded, whole = RunningCost.from_pretrained(tmp_path), fitted(model)
    assert isinstance(loaded.end_points, EndPoints)
    loaded.fit(model, tiny_tokenizer(), TEXTS, progress=False, batch_size=8, max_length=16, held_out=12)
    assert loaded.digest() == whole.digest()
    assert loaded.fit_record == whole.fit_record
