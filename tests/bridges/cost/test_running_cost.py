"""The running cost: its value, what it reads and what it does not, its files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, tiny_bert, tiny_llama
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

import bridges
from bridges import BadInput, LatentMap, RunningCost, Trajectory
from bridges.cost import files as cost_files

LENGTHS = (9, 6, 4)
WIDTHS = (8, 6, 5)
EXACT = {"rtol": 1e-12, "atol": 0.0}
"""float64: sums of a few hundred terms of size 1."""


def batch(*, causal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, targets and mask of three rows of different lengths, padded on the right."""
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(5, len(VOCABULARY), (len(LENGTHS), max(LENGTHS)), generator=rng)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    chosen = torch.zeros_like(mask)
    for row, columns in enumerate([(5, 6, 7, 8), (3, 5), (2,)] if causal else [(0, 4, 7), (2, 3), (3,)]):
        chosen[row, list(columns)] = True
    return ids, ids.masked_fill(~chosen, -100), mask.long()


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Real ones, in float64."""
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return [h.double() for h in output.hidden_states]


def double_cost(model: nn.Module, bridge: str = "brownian") -> RunningCost:
    return RunningCost.for_model(model, bridge, widths=WIDTHS).double()


def by_hand(cost: RunningCost, hidden: Sequence[Tensor], targets: Tensor, mask: Tensor) -> Tensor:
    """The definition, one layer and one token at a time (method.md, section 3)."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, column in (targets != -100).nonzero().tolist():
        attended = mask[row].bool()
        position = column
        if cost.spec.causal:
            position = column - 1
            attended = attended & (
                torch.arange(mask.shape[1]) < int((targets[row] != -100).nonzero()[0])
            )
        v = cost.end_points.vectors[targets[row, column]]
        for i, layer in enumerate(hidden, start=1):
            t = i / (len(hidden) + 1)
            if isinstance(cost.bridge, bridges.OUBridge):
                rate, rest = cost.bridge.theta, cost.bridge.theta * (1 - t)
                m = math.sinh(rate * t) / math.sinh(rate)
                s2 = (
                    cost.bridge.sigma**2 / rate * math.sinh(rate * t) * math.sinh(rest) / math.sinh(rate)
                )
            else:
                m, s2 = t, t * (1 - t)
            z = torch.cat([layer[row, attended].mean(0), layer[row, position]])
            for k, (weight, bias) in enumerate(
                zip(cost.latent_map.weights, cost.latent_map.biases, strict=True)
            ):
                z = weight @ (F.gelu(z) if k else z) + bias
            total = total + ((z - m * v) ** 2).sum() / (2 * s2)
            count += 1
    return total / count


@pytest.mark.parametrize("bridge", ["brownian", "ou:theta=2,sigma=0.5"])
@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
def test_value_and_gradients_are_the_definition(make: Any, bridge: str) -> None:
    model = make()
    cost = double_cost(model, bridge)
    ids, targets, mask = batch(causal=cost.spec.causal)
    hidden = [h.requires_grad_() for h in hidden_states(model, ids, mask)]
    mine, true = cost(hidden, targets, mask), by_hand(cost, hidden, targets, mask)
    torch.testing.assert_close(mine, true, **EXACT)
    for grad, expected in zip(
        torch.autograd.grad(mine, hidden), torch.autograd.grad(true, hidden), strict=True
    ):
        assert (grad - expected).norm() <= 1e-12 * expected.norm()


def test_gradients_reach_the_model_and_no_parameter_of_the_cost() -> None:
    model = tiny_bert()
    cost = RunningCost.for_model(model)
    ids, targets, mask = batch()
    cost(
        model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states, targets, mask
    ).backward()
    assert all(p.grad is None and not p.requires_grad for p in cost.parameters())
    for name in (
        "embeddings.word_embeddings",
        "encoder.layer.0.attention.self.query",
        "encoder.layer.2.output.dense",
    ):
        grad = model.bert.get_submodule(name).weight.grad
        assert grad is not None
        assert grad.abs().sum() > 0


def test_padding_has_no_influence() -> None:
    model = tiny_bert()
    cost, (ids, targets, mask) = double_cost(model), batch()
    hidden = hidden_states(model, ids, mask)
    changed = [torch.where(mask.bool()[..., None], h, 1e3 * torch.randn_like(h)) for h in hidden]
    assert not torch.equal(changed[0], hidden[0])
    assert torch.equal(cost(changed, targets, mask), cost(hidden, targets, mask))


def test_other_attended_states_count_through_their_mean_alone() -> None:
    model = tiny_bert()
    cost, (ids, targets, mask) = double_cost(model), batch()
    hidden = hidden_states(model, ids, mask)
    value = cost(hidden, targets, mask)
    kept, moved = ([h.clone() for h in hidden] for _ in range(2))
    for h in kept:
        h[0, 1] += 3.0
        h[0, 2] -= 3.0
    for h in moved:
        h[0, 1] += 3.0
    torch.testing.assert_close(cost(kept, targets, mask), value, **EXACT)
    assert abs(cost(moved, targets, mask) - value) > 1e-4 * value


def test_a_batch_is_the_mean_over_its_targets() -> None:
    model = tiny_bert()
    cost, (ids, targets, mask) = double_cost(model), batch()
    hidden = hidden_states(model, ids, mask)
    counts = (targets != -100).sum(1)
    total = sum(
        cost([h[b : b + 1, :n] for h in hidden], targets[b : b + 1, :n]) * counts[b]
        for b, n in enumerate(LENGTHS)
    )
    torch.testing.assert_close(cost(hidden, targets, mask), total / counts.sum(), **EXACT)


def test_without_a_mask_all_positions_are_attended() -> None:
    model = tiny_bert()
    cost, (ids, targets, mask) = double_cost(model), batch()
    hidden = hidden_states(model, ids, mask)
    assert torch.equal(cost(hidden, targets), cost(hidden, targets, torch.ones_like(mask)))
    assert not torch.equal(cost(hidden, targets), cost(hidden, targets, mask))


def test_autocast_around_it_changes_nothing() -> None:
    model = tiny_bert()
    cost, (ids, targets, mask) = RunningCost.for_model(model), batch()
    hidden = [h.float() for h in hidden_states(model, ids, mask)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cost(hidden, targets, mask)
    assert torch.equal(inside, cost(hidden, targets, mask))


def test_states_on_other_devices_than_the_firsts_are_copied_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `device_map="auto"` leaves them; without a second device, to one without data."""
    model, (ids, targets, mask) = tiny_bert(), batch()
    hidden = [h.requires_grad_() for h in hidden_states(model, ids, mask)]
    read: list[Tensor] = []

    def gather(states: Sequence[Tensor], *where: Tensor, **_: Any) -> Trajectory:
        read.extend(states)
        return Trajectory.of_states(torch.zeros(len(states), len(where[1]), 4))

    monkeypatch.setattr(Trajectory, "gather", gather)
    apart = [hidden[0].to("meta"), *hidden[1:]]
    double_cost(model).trajectory(apart, targets, mask)
    assert [h.device.type for h in read] == ["meta"] * len(hidden)
    assert read[0] is apart[0]
    assert all(h.requires_grad for h in read)
    read.clear()
    double_cost(model).trajectory(hidden, targets, mask)
    assert all(h is own for h, own in zip(read, hidden, strict=True))


def test_a_cost_that_draws_no_noise_takes_no_notice_of_a_generator() -> None:
    model = tiny_bert()
    cost, (ids, targets, mask) = double_cost(model), batch()
    hidden, noise = hidden_states(model, ids, mask), torch.Generator().manual_seed(3)
    state = noise.get_state()
    assert torch.equal(cost(hidden, targets, mask, generator=noise), cost(hidden, targets, mask))
    assert torch.equal(noise.get_state(), state)


def test_a_bridge_makes_its_own_map(tmp_path: Path) -> None:
    """For a new model, at the sizes of the rule and from the seed; and again when it is loaded."""

    class Deeper(LatentMap):
        def __init__(self, hidden_size: int, widths: Sequence[int]) -> None:
            super().__init__(hidden_size, widths)
            self.extra = nn.Linear(2, 3)

    class Own(bridges.BrownianBridge, name="own"):
        def make_map(self, hidden_size: int, widths: Sequence[int]) -> LatentMap:
            return Deeper(hidden_size, widths)

    cost, again = (RunningCost.for_model(tiny_bert(), "own", seed=4) for _ in range(2))
    assert isinstance(cost.latent_map, Deeper)
    assert cost.config()["widths"] == [32, 16, 16]
    assert cost.digest() == again.digest()
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert isinstance(loaded.latent_map, Deeper)
    assert torch.equal(loaded.latent_map.extra.weight, cost.latent_map.extra.weight)


def test_causal_states_from_the_last_target_on_have_no_influence() -> None:
    """The last target, at s = 8, is read at 7: what stands at 8 has seen it."""
    model = tiny_llama()
    cost, (ids, targets, mask) = double_cost(model), batch(causal=True)
    hidden = hidden_states(model, ids, mask)
    changed = [h.clone() for h in hidden]
    for h in changed:
        h[0, 8:] += 1.0
        h[1, 5:] += 1.0
        h[2, 2:] += 1.0
    assert torch.equal(cost(changed, targets, mask), cost(hidden, targets, mask))
    for h in changed:
        h[0, 7] += 1.0
    assert cost(changed, targets, mask) != cost(hidden, targets, mask)


def test_causal_context_ends_before_the_first_target() -> None:
    model = tiny_llama()
    cost, (ids, targets, mask) = double_cost(model), batch(causal=True)
    hidden = hidden_states(model, ids, mask)
    before, tokens = cost.trajectory(hidden, targets, mask)
    assert torch.equal(tokens, targets[targets != -100])
    for h in hidden:
        h[0, 5] += 1.0  # the first target's own position: read for the second target, no context
    after, _ = cost.trajectory(hidden, targets, mask)
    assert torch.equal(after.context, before.context)
    assert [
        n for n in range(len(tokens)) if not torch.equal(after.states[:, n], before.states[:, n])
    ] == [1]
    for h in hidden:
        h[0, 4] += 1.0  # the last position of the context
    assert not torch.equal(cost.trajectory(hidden, targets, mask)[0].context[:, 0], before.context[:, 0])


def test_causal_first_token_is_no_target() -> None:
    """Labels that copy the ids: transformers' shift drops the first one too."""
    model = tiny_llama()
    cost = double_cost(model)
    ids, _, mask = batch()
    hidden = hidden_states(model, ids, mask)
    labels = ids.masked_fill(mask == 0, -100)
    first_ignored = labels.clone()
    first_ignored[:, 0] = -100
    assert torch.equal(cost(hidden, labels, mask), cost(hidden, first_ignored, mask))


def test_causal_padding_on_the_left_is_never_read() -> None:
    """Where the first attended token is a label, nothing predicts it: the state before it is padding."""
    model = tiny_llama()
    cost = double_cost(model)
    ids = torch.randint(5, len(VOCABULARY), (1, 6))
    hidden = hidden_states(model, ids, torch.ones_like(ids))
    padded = [torch.cat([torch.full((1, 3, 32), 1e3).double(), h], 1) for h in hidden]
    labels = torch.cat([torch.full((1, 3), -100), ids], 1)
    mask = (labels != -100).long()
    torch.testing.assert_close(cost(padded, labels, mask), cost(hidden, ids), **EXACT)


def _changed(name: str, hidden: list[Tensor], targets: Tensor, mask: Tensor) -> tuple[Any, ...]:
    targets = targets.clone()
    match name:
        case "layers":
            hidden = hidden[:-1]
        case "none":
            hidden = []
        case "shape":
            hidden = [h[:, 1:] for h in hidden]
        case "one shape":
            hidden = [*hidden[:-1], hidden[-1][:, 1:]]
        case "mask":
            mask = mask[:, 1:]
        case "padding":
            targets[2, 5:7] = 8
        case "large":
            targets[0, 0] = len(VOCABULARY)
        case "negative":
            targets[0, 0] = -1
    return hidden, targets, mask


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "layers",
            r"got 3 hidden states of shape \(3, 9, 32\): expected 4 of shape \(3, 9, 32\) for targets",
        ),
        ("none", r"got 0 hidden states.*expected 4 of shape \(3, 9, 32\)"),
        ("shape", r"got 4 hidden states of shape \(3, 8, 32\): expected 4 of shape \(3, 9, 32\)"),
        ("one shape", r"got 4 hidden states of shape .*\(3, 8, 32\): expected 4 of shape \(3, 9, 32\)"),
        ("mask", r"attention_mask \(3, 8\) does not fit states of 3 x 9 positions"),
        ("padding", r"2 targets are at positions that the attention mask leaves out"),
        (
            "large",
            rf"targets from \d+ to {len(VOCABULARY)}: expected .* 0 to {len(VOCABULARY) - 1}",
        ),
        ("negative", r"targets from -1 to \d+: expected token ids from 0 to"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(name: str, message: str) -> None:
    model = tiny_bert()
    ids, targets, mask = batch()
    arguments = _changed(name, hidden_states(model, ids, mask), targets, mask)
    with pytest.raises(BadInput, match=message):
        double_cost(model)(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 16}, "hidden_size is 32 in the cost, 16 in the model"),
        ({"num_hidden_layers": 2}, "num_layers is 3 in the cost, 2 in the model"),
        ({"vocab_size": 70}, "vocab_size is 63 in the cost, 70 in the model"),
        ({"seed": 1}, "the word embeddings differ: same architecture, other weights"),
    ],
)
def test_another_model_is_refused_with_what_differs(changes: dict[str, Any], message: str) -> None:
    cost = RunningCost.for_model(tiny_bert())
    with pytest.raises(BadInput, match=f"was made for .*{message}.*Fit a cost for this model"):
        cost.check_model(tiny_bert(**changes))


def test_another_architecture_is_refused_with_everything_that_differs() -> None:
    cost = RunningCost.for_model(tiny_bert())
    with pytest.raises(BadInput, match=r"model_type is bert .* llama .*num_layers is 3 .*reads is same"):
        cost.check_model(tiny_llama())


def test_the_same_model_in_another_dtype_or_wrapped_is_accepted() -> None:
    cost = RunningCost.for_model(tiny_bert())
    cost.check_model(tiny_bert().bfloat16())
    cost.check_model(nn.Sequential(tiny_bert()))
    cost.check_model(tiny_bert().bert)


def test_what_cannot_carry_a_cost_is_refused() -> None:
    with pytest.raises(BadInput, match="Linear holds no transformers model"):
        RunningCost.for_model(nn.Linear(2, 2))
    vision = ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(BadInput, match="ViTModel has no word embeddings"):
        RunningCost.for_model(vision)


def test_sizes_out_of_range_are_refused() -> None:
    model = tiny_bert()
    with pytest.raises(BadInput, match="latent_dim=5 but widths end in 4: give one of them"):
        RunningCost.for_model(model, latent_dim=5, widths=(8, 4))
    for dim in (0, 33):
        with pytest.raises(BadInput, match=f"latent_dim={dim}: expected 1 to 32"):
            RunningCost.for_model(model, latent_dim=dim)
    with pytest.raises(BadInput, match="unknown bridge 'brown'; did you mean 'brownian'"):
        RunningCost.for_model(model, "brown")


def test_for_model_follows_its_seed_and_leaves_the_global_generator_alone() -> None:
    model = tiny_bert()
    before = torch.random.get_rng_state()
    first, again, other = (RunningCost.for_model(model, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.digest() == again.digest() != other.digest()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_for_model_takes_the_sizes_the_bridge_and_every_width() -> None:
    model = tiny_bert()
    assert RunningCost.for_model(model).config()["widths"] == [32, 16, 16]
    assert RunningCost.for_model(model, latent_dim=7).config()["widths"] == [32, 8, 7]
    assert RunningCost.for_model(model, widths=[5]).config()["widths"] == [5]
    bridge = bridges.get("ou", theta=3.0)
    assert RunningCost.for_model(model, bridge).bridge is bridge
    assert RunningCost.for_model(model, "ou:theta=2").bridge.hyperparameters["theta"] == 2


def test_digest_follows_weights_end_points_and_bridge() -> None:
    model = tiny_bert()
    digests = {
        RunningCost.for_model(model, bridge).digest() for bridge in ("brownian", "ou", "ou:theta=2")
    }
    for change in ("weight", "end point"):
        cost = RunningCost.for_model(model)
        with torch.no_grad():
            (cost.latent_map.biases[0] if change == "weight" else cost.end_points.vectors)[0] += 1e-3
        digests.add(cost.digest())
    assert len(digests) == 5


# Files


def saved(folder: Path, bridge: str = "ou:theta=2,sigma=0.5", *, seed: int = 0) -> RunningCost:
    cost = RunningCost.for_model(tiny_bert(), bridge, widths=WIDTHS, seed=seed)
    cost.fit_record = {"steps": 3, "held_out": [[0, 0.1], [3, 1 / 3]]}
    cost.save_pretrained(folder)
    return cost


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    cost = saved(tmp_path / "deep" / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "deep" / "cost")
    assert {p.name for p in (tmp_path / "deep" / "cost").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    mine, theirs = cost.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert loaded.config() == cost.config()
    assert loaded.fit_record == cost.fit_record
    assert loaded.spec == cost.spec
    assert loaded.digest() == cost.digest()
    assert not any(p.requires_grad for p in loaded.parameters())
    loaded.check_model(tiny_bert())
    ids, targets, mask = batch()
    hidden = hidden_states(tiny_bert(), ids, mask)
    assert torch.equal(cost(hidden, targets, mask), loaded(hidden, targets, mask))


def test_a_bridge_without_parameters_can_be_saved(tmp_path: Path) -> None:
    class Late(bridges.GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    cost = saved(tmp_path / "cost", "late")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert type(loaded.bridge) is Late
    assert loaded.digest() == cost.digest()


def test_every_weight_must_be_there_and_no_other(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    save_file({**whole, "latent_map.layers.9.bias": torch.zeros(2)}, file)
    with pytest.raises(
        BadInput, match=r"does not fit its config: .*Unexpected key.*latent_map.layers.9.bias"
    ):
        RunningCost.from_pretrained(tmp_path)
    for name in whole:
        save_file({k: v for k, v in whole.items() if k != name}, file)
        with pytest.raises(BadInput, match=rf"does not fit its config: .*Missing key.*{name}"):
            RunningCost.from_pretrained(tmp_path)
    save_file({**whole, "latent_map.layers.0.bias": torch.zeros(3)}, file)
    with pytest.raises(BadInput, match=r"does not fit its config: .*size mismatch"):
        RunningCost.from_pretrained(tmp_path)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(BadInput, match=r"model\.safetensors cannot be read"):
        RunningCost.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors cannot be read"):
        RunningCost.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"holds no saved cost: config.json cannot be read"),
        (
            "[]",
            r"has format None, expected 1: .* by this project, or by a newer version of it\?",
        ),
        ('{"model_type": "bert"}', r"the config of a 'bert' model, .*: give the folder that .* wrote"),
        ('{"model": "bert"}', r"has format None, expected 1"),
        ('{"format": 2}', r"has format 2, expected 1"),
        ('{"format": 1, "fit": null, "widths": [2]}', r"lacks bridge, model"),
    ],
)
def test_a_broken_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        RunningCost.from_pretrained(tmp_path)


def test_a_folder_without_a_cost_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no saved cost: config\.json cannot be read"):
        RunningCost.from_pretrained(tmp_path / "nowhere")


def test_a_bridge_that_is_not_registered_here_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["bridge"]["name"] = "elsewhere"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="unknown bridge 'elsewhere'"):
        RunningCost.from_pretrained(tmp_path)


def test_a_bridge_without_a_name_is_not_saved(tmp_path: Path) -> None:
    class Unnamed(bridges.BrownianBridge):
        pass

    cost = RunningCost.for_model(tiny_bert(), Unnamed())
    with pytest.raises(
        BadInput, match="Unnamed has no registered name, so it could not be loaded again"
    ):
        cost.save_pretrained(tmp_path / "cost")
    assert not (tmp_path / "cost").exists()


def test_a_saved_cost_is_replaced(tmp_path: Path) -> None:
    saved(tmp_path / "cost", seed=0)
    second = saved(tmp_path / "cost", seed=1)
    assert RunningCost.from_pretrained(tmp_path / "cost").digest() == second.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["cost"]


def _occupy(name: str, target: Path) -> None:
    match name:
        case "a file":
            target.write_text("mine")
        case "other files":
            target.mkdir()
            (target / "notes.txt").write_text("mine")
        case "a cost with notes":
            saved(target)
            (target / "notes.txt").write_text("mine")
        case "a model":
            tiny_bert().save_pretrained(target)


@pytest.mark.parametrize("name", ["a file", "other files", "a cost with notes", "a model"])
def test_nothing_but_a_cost_is_ever_replaced(tmp_path: Path, name: str) -> None:
    target = tmp_path / "taken"
    _occupy(name, target)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(
        BadInput, match="taken exists and is not just a saved cost: choose another folder"
    ):
        saved(target, seed=5)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    old = saved(tmp_path / "cost", seed=0)

    def broken(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(cost_files, "save_file", broken)
    with pytest.raises(type(error)):
        saved(tmp_path / "cost", seed=1)
    assert RunningCost.from_pretrained(tmp_path / "cost").digest() == old.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["cost"]


def test_a_subclass_may_know_less_than_it_could_be_told() -> None:
    class Narrow(RunningCost):
        def of_trajectory(self, trajectory: Any, answers: Tensor, *, labels: Any = None) -> Tensor:  # type: ignore[override]
            return 2 * super().of_trajectory(trajectory, answers, labels=labels)

    model = tiny_bert()
    cost, twice = (kind.for_model(model, widths=WIDTHS).double() for kind in (RunningCost, Narrow))
    ids, targets, mask = batch()
    hidden = hidden_states(model, ids, mask)
    torch.testing.assert_close(twice(hidden, targets, mask), 2 * cost(hidden, targets, mask), **EXACT)
    own = RunningCost.for_model(model, widths=WIDTHS).double()
    own.of_trajectory = lambda path, answers, *, labels=None: answers.double()  # type: ignore[method-assign,assignment,misc]
    assert torch.equal(own.costs(hidden, targets, mask), targets[targets != -100].double())
