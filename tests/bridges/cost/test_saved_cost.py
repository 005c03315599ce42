"""A saved cost is checked when it is loaded: types, sizes, and that its tensors are those saved."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_bert
from torch import Tensor

from bridges import BadInput, RunningCost
from bridges.cost.files import tensors_sha256

ENDS = "end_points.vectors"
WEIGHT = "latent_map.layers.0.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost") / "cost"
    cost = RunningCost.for_model(tiny_bert(), "ou", widths=(8, 4))
    cost.fit_record = {"steps": 3, "held_out": [[0, 0.5], [3, 0.25]], "settings": {"seed": 0}}
    cost.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def write_tensors(folder: Path, **changed: Tensor) -> None:
    file = folder / "model.safetensors"
    save_file({k: v.contiguous().clone() for k, v in {**load_file(file), **changed}.items()}, file)


def edit(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    file = folder / "config.json"
    config = here = json.loads(file.read_text())
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    file.write_text(json.dumps(config))


def forget_digest(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["weights_sha256"]
    file.write_text(json.dumps(config))


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        RunningCost.from_pretrained(folder)
    assert len(str(caught.value)) <= 1500
    return str(caught.value)


def _with(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[1, 0] = value
    return tensor


BROKEN: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "a weight is NaN": (WEIGHT, lambda x: _with(x, float("nan")), f"{WEIGHT} has numbers that are not"),
    "a weight is inf": (WEIGHT, lambda x: _with(x, float("inf")), f"{WEIGHT} has numbers that are not"),
    "an end is NaN": (ENDS, lambda x: _with(x, float("nan")), f"{ENDS} has numbers that are not finite"),
    "ends are scaled": (
        ENDS,
        lambda x: 1000 * x,
        "the end point of token 0 has length 1000, expected 1",
    ),
    "an end is longer": (ENDS, lambda x: _with(x, 2.0), "the end point of token 1 has length 2"),
    "all ends are zero": (ENDS, torch.zeros_like, "the end point of token 0 has length 0, expected 1"),
}
UNNOTICED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "ends are permuted": (ENDS, lambda x: x.flip(0)),
    "ends of the other sign": (ENDS, lambda x: -x),
    "a map of another fit": (WEIGHT, lambda x: 1.001 * x),
    "a bit of the map": (WEIGHT, lambda x: _with(x, float(x[1, 0]) * (1 + 2**-23))),
}


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_cannot_be_right_are_refused(case: str, digest: bool, folder: Path) -> None:
    """Also in costs that were saved before there was a digest."""
    name, change, message = BROKEN[case]
    if not digest:
        forget_digest(folder)
    write_tensors(folder, **{name: change(load_file(folder / "model.safetensors")[name])})
    assert message in refused(folder)


@pytest.mark.parametrize("case", UNNOTICED)
def test_other_tensors_than_were_saved_are_refused(case: str, folder: Path) -> None:
    name, change = UNNOTICED[case]
    write_tensors(folder, **{name: change(load_file(folder / "model.safetensors")[name])})
    assert "holds other tensors than config.json was saved with" in refused(folder)
    forget_digest(folder)
    RunningCost.from_pretrained(folder)


def test_a_word_without_an_end_is_fine(tmp_path: Path) -> None:
    """A row of zeros: a word whose embedding is the mean of all."""
    cost = RunningCost.for_model(tiny_bert(), widths=(8, 4))
    cost.end_points.vectors[3] = 0
    cost.save_pretrained(tmp_path / "cost")
    assert not RunningCost.from_pretrained(tmp_path / "cost").end_points.vectors[3].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cost_of_another_dtype_is_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    cost = RunningCost.for_model(tiny_bert(), widths=(8, 4)).to(dtype)
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.end_points.vectors.dtype == dtype
    forget_digest(tmp_path / "cost")
    assert RunningCost.from_pretrained(tmp_path / "cost").digest() == cost.digest()


def test_the_digest_is_in_the_config_and_knows_names_shapes_and_types(folder: Path) -> None:
    stored = json.loads((folder / "config.json").read_text())["weights_sha256"]
    tensors = load_file(folder / "model.safetensors")
    assert (
        stored
        == tensors_sha256(tensors)
        == RunningCost.from_pretrained(folder).config()["weights_sha256"]
    )
    one = torch.arange(6.0)
    others = [{"a": one}, {"b": one}, {"a": one.view(2, 3)}, {"a": one.double()}, {"a": one + 1}]
    assert len({tensors_sha256(tensors) for tensors in others}) == 5


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    write_tensors(folder, **{WEIGHT: torch.ones(8, 64, dtype=torch.int32)})
    assert f"'{WEIGHT}' is of torch.int32" in refused(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save({"a": torch.ones(2)}, folder / "model.safetensors")
    assert "model.safetensors cannot be read" in refused(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "model.safetensors cannot be read" in refused(folder)


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    1e300,
    float("nan"),
    "x",
    [],
    [1],
    {},
    {"a": 1},
    [[[]]],
)
PLACES = [
    *[("model", name) for name in ("name", "model_type", "num_layers", "hidden_size", "vocab_size")],
    *[("model", name) for name in ("fingerprint", "encoder_decoder")],
    *[(name,) for name in ("model", "bridge", "widths", "fit", "options", "weights_sha256")],
    ("widths", 0),
    ("bridge", "name"),
    ("bridge", "parameters"),
    *[("bridge", "parameters", name) for name in ("theta", "sigma", "likelihood", "learn")],
    *[("fit", name) for name in ("steps", "held_out", "settings")],
    ("fit", "held_out", 0),
    ("options", "shuffle_ends"),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_config_of_wrong_types_is_refused_or_taken_but_never_a_traceback(
    place: tuple[Any, ...], folder: Path
) -> None:
    before = (folder / "config.json").read_text()
    taken = []
    for value in WRONG:
        edit(folder, place, value)
        with contextlib.suppress(BadInput):
            RunningCost.from_pretrained(folder)
            taken.append(value)
        (folder / "config.json").write_text(before)
    allowed = RIGHT.get(".".join(map(str, place)), [])
    assert repr(taken) == repr(allowed)


# What is of the right type by chance.
RIGHT: dict[str, list[Any]] = {
    "model.name": ["x"],
    "model.model_type": ["x"],
    "model.num_layers": [-1],
    "model.encoder_decoder": [True],
    "options": [{}],
    "options.shuffle_ends": [True, "x"],
    "fit": [None],
    "fit.settings": [{}, {"a": 1}],
    "bridge.parameters": [{}],
    "bridge.parameters.learn": [[]],
}


@pytest.mark.parametrize("value", [float("nan"), 1e300, 10**30, "x", None])
def test_a_fingerprint_of_no_numbers_is_refused(value: Any, folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    found = config["model"]["fingerprint"]
    entries = found if isinstance(found, list) else found["entries"]
    entries[0] = value
    file.write_text(json.dumps(config))
    assert "model: fingerprint is" in refused(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\x00", '{"format": 1' + "0" * 9000]
)
def test_a_config_that_no_json_reader_takes_is_refused(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json cannot be read" in refused(folder) or "has format" in refused(folder)


def test_a_config_that_asks_for_all_the_memory_is_refused_before_it_is_taken(folder: Path) -> None:
    edit(folder, ("widths",), [2**20, 2**18, 4])
    assert "has widths[0] 1048576, and no tensor of model.safetensors is larger" in refused(folder)
