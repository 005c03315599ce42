"""The costs of a comparison are made by their recipes, each once, with one reading of the text."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from comparison_cases import FIT, save_inputs, small_grid, sources
from own_code import save_own_code
from tiny import TEXTS

import bridges
from bridges import BadInput, FitSettings, RunningCost
from bridges.fitting.loop import FitLoop
from bridges.fitting.text import ReadBatch
from bridges.model.probe import probe
from pets.study.cells import costs as costs_module
from pets.study.cells.cell import describe
from pets.study.cells.context import Context

ARMS = (
    "brownian",
    "ou:theta=2",
    "sde",
    "regression",
    "brownian@shuffled-ends",
    "brownian@random-map",
    "none",
    "label-smoothing",
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inputs(tmp_path_factory.mktemp("inputs"))


def context(inputs: Path, folder: Path, *arms: str) -> Context:
    return Context(small_grid(arms=arms), folder, *sources(inputs))


def readings(of: Context) -> int:
    """How often the model ran while the costs were made."""
    calls: list[int] = []
    probe(of.model.plm)  # which is one look, whatever is fitted
    handle = of.model.plm.base_model.register_forward_hook(lambda *_: calls.append(1))
    of.fit(progress=False)
    handle.remove()
    return len(calls)


def test_the_text_is_read_once_for_all_arms(inputs: Path, tmp_path: Path) -> None:
    one, many = context(inputs, tmp_path / "one", "brownian"), context(inputs, tmp_path / "many", *ARMS)
    assert readings(many) == readings(one) == 2  # one batch serves four steps; and what is held out
    assert set(many.costs) == set(ARMS) - {"label-smoothing"}
    assert readings(context(inputs, tmp_path / "many", *ARMS)) == 0  # they are there


def other_layer(of: Context) -> None:
    of.model.plm.bert.encoder.layer[0].output.dense.bias.data.add_(0.1)


def other_dropout(of: Context) -> None:
    of.model.plm.config.hidden_dropout_prob = 0.4


def other_tokenizer(of: Context) -> None:
    of.model.tokenizer.add_tokens(["film noir"])


CHANGES = {
    "model_sha256": other_layer,
    "config_sha256": other_dropout,
    "tokenizer_sha256": other_tokenizer,
}


@pytest.mark.parametrize("part", CHANGES)
def test_costs_and_cells_are_of_one_model_and_tokenizer(inputs: Path, tmp_path: Path, part: str) -> None:
    one, other, again = (context(inputs, tmp_path, "brownian@random-map") for _ in range(3))
    CHANGES[part](other)
    for of in (one, other, again):
        of.fit(progress=False)
    assert len(list((tmp_path / "costs").iterdir())) == 2
    rows = [[describe(of, cell) for cell in of.grid.cells()] for of in (one, other, again)]
    assert rows[0] == rows[2]
    for row, changed in zip(rows[0], rows[1], strict=True):
        assert row.cell != changed.cell
        different = {name for name in row.hashes if row.hashes[name] != changed.hashes[name]}
        assert part in different <= {part, "cost"}


@pytest.mark.parametrize(
    ("name", "other"),
    [("source_digest", lambda *folders: "0" * 12), ("versions", lambda: {"torch": "9"})],
)
def test_what_another_version_fitted_is_fitted_anew_beside_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    context(inputs, tmp_path, "brownian@random-map").fit(progress=False)
    (old,) = (tmp_path / "costs").iterdir()
    monkeypatch.setattr(costs_module, name, other)
    context(inputs, tmp_path, "brownian@random-map").fit(progress=False)
    assert len(list((tmp_path / "costs").iterdir())) == 2
    assert old.exists()


def test_weights_that_a_checkpoint_lacks_are_the_same_when_it_is_loaded_again(
    inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 4}))
    grid = small_grid(arms=())
    found = [Context(grid, tmp_path, str(tmp_path / "model"), inputs / "glue") for _ in range(2)]
    one, two = ([describe(of, cell).cell for cell in grid.cells()] for of in found)
    assert one == two


def test_a_model_with_code_of_its_own_travels(inputs: Path, tmp_path: Path) -> None:
    save_own_code(tmp_path / "plm", factor=2.0)
    here = Context(
        small_grid(arms=()), tmp_path, str(tmp_path / "plm"), inputs / "glue", trust_remote_code=True
    )
    there = pickle.loads(pickle.dumps(here))
    ids = torch.tensor([[2, 5, 4, 3]])
    assert type(there.model.plm).__name__ == "OwnModel"
    assert torch.equal(here.model.plm(input_ids=ids).logits, there.model.plm(input_ids=ids).logits)
    assert here.model.identity == there.model.identity


def test_each_is_the_cost_that_is_fitted_alone(inputs: Path, tmp_path: Path) -> None:
    many = context(inputs, tmp_path / "many", *ARMS)
    many.fit(progress=False)
    for arm in ("ou:theta=2", "sde", "regression", "brownian@shuffled-ends"):
        bridge, _, control = arm.partition("@")
        alone = RunningCost.for_model(many.model.plm, bridge, shuffle_ends=bool(control))
        alone.fit(many.model.plm, many.model.tokenizer, TEXTS, progress=False, **FIT)
        assert many.costs[arm].digest() == alone.digest()
        assert many.costs[arm].fit_record == alone.fit_record
    assert many.costs["brownian@random-map"].fit_record is None
    assert many.costs["none"].fit_record is None


LENSES = ("brownian@lens", "ou@lens", "brownian@lens@random-map", "brownian@lens@shuffled-ends")


def test_published_costs_and_lenses_are_arms_of_one_comparison(inputs: Path, tmp_path: Path) -> None:
    """Each as it is fitted alone, in a folder of its own, and found again."""
    both = context(inputs, tmp_path, "brownian", *LENSES)
    both.fit(progress=False)
    assert both.costs["brownian"].config()["map"] == "mlp"
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "costs").iterdir()}
    assert names == {"brownian", *LENSES}
    shared = {name: FIT[name] for name in ("batch_size", "max_length")}
    for arm in LENSES:
        bridge, _, *control = arm.split("@")
        alone = RunningCost.for_model(
            both.model.plm,
            bridge,
            map="lens",
            shuffle_ends=control == ["shuffled-ends"],
            fit=control != ["random-map"],
        )
        if control != ["random-map"]:
            alone.fit(both.model.plm, both.model.tokenizer, TEXTS, progress=False, **shared)
        assert both.costs[arm].config() == alone.config()
        assert both.costs[arm].digest() == alone.digest()
    assert readings(context(inputs, tmp_path, "brownian", *LENSES)) == 0  # they are there


def test_another_reader_or_other_end_points_are_another_recipe(inputs: Path, tmp_path: Path) -> None:
    of = context(inputs, tmp_path, "brownian")
    (settings, text), plm = (FitSettings(**FIT), tuple(TEXTS)), of.model.plm
    names = set()
    for options in ({}, {"map": "lens"}, {"ends": "white"}, {"map": "lens", "ends": "pca"}):
        # Of one latent dimension and without other layers, so that nothing else tells them apart.
        sizes = {"latent_dim": 8} if "map" in options else {"widths": (8,)}
        cost = RunningCost.for_model(plm, **options, **sizes)
        names.add(costs_module.Recipe("x", cost, settings, text).folder_name("0"))
    assert len(names) == 4


def test_a_lens_for_an_sde_is_refused_before_anything_is_fitted(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="map='lens': the drift of 'sde' is a network"):
        context(inputs, tmp_path, "brownian", "sde@lens").fit(progress=False)
    assert not (tmp_path / "costs").exists()


def test_an_arm_that_comes_later_is_fitted_beside_those_that_are_there(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(inputs, tmp_path, "brownian").fit(progress=False)
    fitted: list[list[str | None]] = []

    def watched(costs: list[RunningCost], *args: object, **options: object) -> object:
        fitted.append([cost.bridge.registered_name for cost in costs])
        return bridges.fit_together(costs, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(costs_module, "fit_together", watched)
    context(inputs, tmp_path, *ARMS).fit(progress=False)
    assert fitted == [["ou", "sde", "regression", "brownian"]]  # the last with shuffled end points


def test_an_interrupted_fit_of_all_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = context(inputs, tmp_path / "straight", *ARMS)
    straight.fit(progress=False)
    original, taken = FitLoop.step, []

    def interrupted(self: FitLoop, reading: ReadBatch) -> None:
        taken.append(reading.number)
        if len(taken) == 13:  # the third step of the third of five costs
            raise KeyboardInterrupt
        original(self, reading)

    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            context(inputs, tmp_path / "runs", *ARMS).fit(progress=False)
    left = sorted(p.name.partition("-")[0] for p in (tmp_path / "runs" / "costs").iterdir())
    assert left == ["brownian", "brownian@shuffled", "ou", "regression", "sde"]
    numbers: list[int] = []

    def counted(self: FitLoop, reading: ReadBatch) -> None:
        numbers.append(reading.number)
        original(self, reading)

    monkeypatch.setattr(FitLoop, "step", counted)
    resumed = context(inputs, tmp_path / "runs", *ARMS)
    resumed.fit(progress=False)
    assert sorted(set(numbers)) == [2, 3]  # a state is kept every two steps
    assert resumed.cost_sha256 == straight.cost_sha256
    assert not list((tmp_path / "runs" / "costs").glob("*.partial"))
