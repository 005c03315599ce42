"""The costs of a comparison are made by their recipes, each once, with one reading of the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison_cases import FIT, save_inputs, small_grid, sources
from tiny import TEXTS

import bridges
from bridges import RunningCost
from bridges.fit_loop import FitLoop
from bridges.fit_text import Reading
from pets.compare import costs as costs_module
from pets.compare.context import Context

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
    handle = of.plm.base_model.register_forward_hook(lambda *_: calls.append(1))
    of.fit(progress=False)
    handle.remove()
    return len(calls)


def test_the_text_is_read_once_for_all_arms(inputs: Path, tmp_path: Path) -> None:
    one, many = context(inputs, tmp_path / "one", "brownian"), context(inputs, tmp_path / "many", *ARMS)
    assert readings(many) == readings(one) > FIT["max_steps"]
    assert set(many.costs) == set(ARMS) - {"label-smoothing"}
    assert readings(context(inputs, tmp_path / "many", *ARMS)) == 0  # they are there


def test_each_is_the_cost_that_is_fitted_alone(inputs: Path, tmp_path: Path) -> None:
    many = context(inputs, tmp_path / "many", *ARMS)
    many.fit(progress=False)
    for arm in ("ou:theta=2", "sde", "regression", "brownian@shuffled-ends"):
        bridge, _, control = arm.partition("@")
        alone = RunningCost.for_model(many.plm, bridge, shuffle_ends=bool(control))
        alone.fit(many.plm, many.tokenizer, TEXTS, progress=False, **FIT)
        assert many.costs[arm].digest() == alone.digest()
        assert many.costs[arm].fit_record == alone.fit_record
    assert many.costs["brownian@random-map"].fit_record is None
    assert many.costs["none"].fit_record is None


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

    def interrupted(self: FitLoop, reading: Reading) -> None:
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

    def counted(self: FitLoop, reading: Reading) -> None:
        numbers.append(reading.number)
        original(self, reading)

    monkeypatch.setattr(FitLoop, "step", counted)
    resumed = context(inputs, tmp_path / "runs", *ARMS)
    resumed.fit(progress=False)
    assert sorted(set(numbers)) == [2, 3]  # a state is kept every two steps
    assert resumed.cost_sha256 == straight.cost_sha256
    assert not list((tmp_path / "runs" / "costs").glob("*.partial"))
