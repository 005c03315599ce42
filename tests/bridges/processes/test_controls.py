"""Controls: their formulas, and that they go where a bridge goes; a cost with a control's options."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from tiny import TEXTS, tiny_bert, tiny_tokenizer
from torch import Tensor, nn

import bridges
import pets
from bridges import BadInput, FitSettings, LatentMap, RunningCost, Trajectory

CONTROLS = ["kinetic", "none", "regression"]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def case(layers: int = 5) -> tuple[LatentMap, Trajectory, Tensor]:
    """Four targets in two sequences, three latent dimensions, float64."""
    latent_map = LatentMap(6, (7, 3)).double().requires_grad_(False)
    states = torch.randn(layers, 4, 6).double().requires_grad_()
    context = torch.randn(layers, 2, 6).double().requires_grad_()
    return (
        latent_map,
        Trajectory(states, context, torch.tensor([0, 1, 1, 0])),
        torch.randn(4, 3).double(),
    )


def new_cost(model: nn.Module, bridge: str = "brownian", **options: bool) -> RunningCost:
    return RunningCost.for_model(model, bridge, widths=(16, 8), **options)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 63, (4, 9))
    labels = torch.full_like(ids, -100)
    labels[:, 3] = ids[:, 3]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize("layers", [1, 5])
def test_regression_is_half_the_mean_square_to_the_end_point(layers: int) -> None:
    latent_map, trajectory, end = case(layers)
    value = bridges.get("regression").cost(latent_map, trajectory, end)
    latent = latent_map(trajectory)
    by_hand = torch.stack([((latent[:, n] - end[n]) ** 2).sum() / (2 * layers) for n in range(4)])
    torch.testing.assert_close(value, by_hand, **EXACT)


@pytest.mark.parametrize("layers", [1, 5])
def test_kinetic_is_the_energy_of_the_path_from_0_to_the_end_point(layers: int) -> None:
    latent_map, trajectory, end = case(layers)
    value = bridges.get("kinetic").cost(latent_map, trajectory, end)
    latent, gap, total = latent_map(trajectory), 1 / (layers + 1), torch.zeros(4).double()
    before = torch.zeros(4, 3).double()
    for after in [*latent, end]:
        total = total + ((after - before) ** 2).sum(1) / (2 * gap)
        before = after
    torch.testing.assert_close(value, total / layers, **EXACT)


def test_kinetic_is_least_on_the_straight_line() -> None:
    """|v|^2 / 2 over the layers there, by states that are the latents themselves."""
    _, trajectory, end = case()
    identity = LatentMap(3, (3,)).double().requires_grad_(False)
    identity.layers[0].weight.data = torch.cat([torch.zeros(3, 3), torch.eye(3)], 1).double()
    identity.layers[0].bias.data.zero_()
    line = (trajectory.times()[:, None, None] * end).requires_grad_()
    straight = Trajectory(line, torch.zeros(5, 2, 3).double(), trajectory.rows)
    value = bridges.get("kinetic").cost(identity, straight, end)
    torch.testing.assert_close(value, end.square().sum(1) / 10, **EXACT)
    (gradient,) = torch.autograd.grad(value.sum(), line)
    assert gradient.abs().max() < 1e-12


def test_kinetic_and_the_brownian_path_have_the_same_gradients() -> None:
    latent_map, trajectory, end = case()
    gradients = [
        torch.autograd.grad(
            bridges.parse(name).cost(latent_map, trajectory, end).sum(), trajectory.states
        )
        for name in ("kinetic", "brownian:likelihood=path")
    ]
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("name", CONTROLS)
def test_several_end_points_are_each_by_itself(name: str) -> None:
    latent_map, trajectory, end = case()
    ends = torch.stack([end, -end, 2 * end])
    control = bridges.get(name)
    each = torch.stack([control.cost(latent_map, trajectory, v) for v in ends])
    torch.testing.assert_close(control.cost(latent_map, trajectory, ends), each, **EXACT)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_has_no_law(name: str) -> None:
    control = bridges.get(name)
    assert isinstance(control, bridges.Control)
    assert not isinstance(control, bridges.Process)
    assert not any(hasattr(control, method) for method in ("mean", "variance", "sample", "log_prob"))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_goes_through_fit_files_and_tuning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    plm = tiny_bert()
    cost = new_cost(plm, name)
    before = cost.digest()
    with caplog.at_level(logging.WARNING):
        result = cost.fit(
            plm, tiny_tokenizer(), TEXTS, progress=False, max_steps=4, batch_size=8, held_out=8
        )
    nothing = name == "none"
    assert ("bridge 'none' has nothing to fit" in caplog.text) == nothing
    assert (result.steps, cost.digest() == before) == ((0, True) if nothing else (4, False))
    assert cost.fit_record is not None
    assert cost.fit_record["steps"] == result.steps
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.digest() == cost.digest()
    assert loaded.config() == cost.config()

    model = get_peft_model(plm, pets.get("lora", r=2)).train()
    alone = model(**batch()).loss
    pets.regularize(model, loaded, weight=0.5)
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        output = model(**batch())
        output.loss.backward()
        optimizer.step()
    assert (output.running_cost.item() == 0) == nothing
    assert alone.isfinite()
    assert output.loss.isfinite()


def test_none_changes_no_loss_and_no_gradient() -> None:
    inputs = batch()
    plm = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = get_peft_model(plm, pets.get("lora", r=2)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = model(**inputs).loss
    expected = torch.autograd.grad(plain, trained)
    with pets.regularize(model, new_cost(plm, "none"), weight=3.0):
        loss = model(**inputs).loss
    assert torch.equal(loss, plain)
    assert all(map(torch.equal, torch.autograd.grad(loss, trained), expected))


# Options of a cost


def test_shuffled_end_points_are_the_same_ones_at_other_words() -> None:
    model = tiny_bert()
    plain = new_cost(model).end_points.vectors
    shuffled, again = (new_cost(model, shuffle_ends=True) for _ in range(2))
    vectors = shuffled.end_points.vectors
    assert torch.equal(vectors, again.end_points.vectors)
    moved = (vectors != plain).any(1)
    assert moved.sum() > 0.9 * len(plain)
    order = torch.tensor([int((plain == v).all(1).nonzero()[0]) for v in vectors])
    assert torch.equal(order.sort().values, torch.arange(len(plain)))
    other = RunningCost.for_model(model, widths=(16, 8), shuffle_ends=True, seed=1)
    assert not torch.equal(other.end_points.vectors, vectors)
    map_alone = new_cost(model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(shuffled.latent_map.parameters(), map_alone.latent_map.parameters(), strict=True)
    )


@pytest.mark.parametrize("option", [{"shuffle_ends": True}, {"fit": False}, {}])
def test_options_are_in_the_config_and_come_back(tmp_path: Path, option: dict[str, bool]) -> None:
    cost = new_cost(tiny_bert(), **option)
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    expected = {"shuffle_ends": False, "fit": True, "ends": "pca", **option}
    written = json.loads((tmp_path / "cost" / "config.json").read_text())
    assert written["options"] == loaded.options == cost.options == expected
    assert loaded.digest() == cost.digest()


def test_a_cost_from_before_there_were_options_has_the_defaults(tmp_path: Path) -> None:
    new_cost(tiny_bert()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["options"], config["bridge"]["parameters"]["learn"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = RunningCost.from_pretrained(tmp_path)
    assert loaded.options == {"shuffle_ends": False, "fit": True, "ends": "pca"}
    assert loaded.bridge.hyperparameters["learn"] == ""


def test_a_cost_that_is_random_on_purpose_is_not_fitted(tmp_path: Path) -> None:
    model = tiny_bert()
    cost = new_cost(model, fit=False)
    cost.save_pretrained(tmp_path / "cost")
    for one in (cost, RunningCost.from_pretrained(tmp_path / "cost")):
        digest = one.digest()
        with pytest.raises(BadInput, match="made with fit=False: its latent map is random on purpose"):
            one.fit(model, tiny_tokenizer(), TEXTS, progress=False)
        assert one.digest() == digest
        assert one.fit_record is None


def test_settings_are_checked_where_nothing_is_fitted_too() -> None:
    model = tiny_bert()
    with pytest.raises(BadInput, match="fit takes no lr"):
        new_cost(model, "none").fit(model, tiny_tokenizer(), TEXTS, lr=1)
    assert FitSettings().max_steps > 0
