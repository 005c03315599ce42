"""One tuning run in two processes ends where it does in one.

The distributed part is this file run as a script, once for each process; see `main`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from processes import run_ranks
from safetensors.torch import load_file
from tiny import WORDS, tiny_llama, tiny_tokenizer

from bridges import BadInput, RunningCost
from bridges.storage.checkpoint import Checkpoint, Snapshot
from pets.tasks.base import GENERATION, Example, Task, TaskData
from pets.tuning.loop import TuningLoop
from pets.tuning.run_folder import RunFolder
from pets.tuning.tune import tune
from pets.tuning.workers import Processes, joined
from tests.pets.tuning.test_tuning import PET, SETTINGS, TASK, examples, model, same_bytes

pytestmark = pytest.mark.slow

WORLD = 2

# Two batches in the evaluation of the selection split, three in that of the reported one.
DATA = TaskData(TASK, examples(100, 0), examples(70, 1))
SETTINGS_HERE = dataclasses.replace(SETTINGS, shots=20)
EXACT: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "brownian": {"bridge": "brownian"},
    "prompt": {"pet": "prompt"},
    "label-smoothing": {"regularizer": "label-smoothing", "weight": 0.1},
}
TOLERANCES = {"loss": 1e-6, "dev_loss": 1e-6, "running_cost": 1e-10}
"""The classifier reads its scores in float32."""
NOISY: dict[str, dict[str, Any]] = {
    "dropout": {"regularizer": "dropout", "weight": 0.3},
    "sde": {"bridge": "sde"},
}


def run(folder: Path, **changes: Any) -> dict[str, Any]:
    """In float64."""
    plm = model().double()
    bridge = changes.pop("bridge", None)
    cost = RunningCost.for_model(plm, bridge).double() if bridge else None
    sharded = changes.pop("sharded", False)
    settings = dataclasses.replace(SETTINGS_HERE, **changes)
    options = {"cost": cost, "sharded": sharded, "progress": False}
    return tune(plm, tiny_tokenizer(), DATA, settings, folder, **options)


def write(folder: Path, *, sharded: bool = False) -> dict[str, Any]:
    """A causal model that writes texts, three batches of which are scored at the end."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    pairs = [(e.text, WORDS[k % 7]) for k, e in enumerate([*DATA.train, *DATA.reported])]
    every = [Example(text, 0, answers=(answer,)) for text, answer in pairs]
    task = Task.with_template(TASK, "{text} {answer}")
    task.kind, task.labels, task.metric, task.answer_tokens = GENERATION, (), "f1", 3
    data = TaskData(task, tuple(every[:100]), tuple(every[100:]))
    settings = dataclasses.replace(SETTINGS_HERE, max_steps=4, eval_every=2)
    return tune(tiny_llama(), tokenizer, data, settings, folder, sharded=sharded, progress=False)


# In each of two processes


def main(folder: Path) -> None:
    """What this rank sees of all runs goes to a file of its own."""
    rank = joined().rank
    if rank:
        Snapshot.save = RunFolder.start = RunFolder.finish = only_the_first_writes  # type: ignore[assignment, method-assign]
    seen: dict[str, Any] = {}
    for name, changes in {**EXACT, **NOISY}.items():
        with mock.patch.object(Checkpoint, "restore_best", note_end(seen, name)):
            seen[name] = run(folder / name, **changes)
    with mock.patch.object(TuningLoop, "step", note_seed(seen.setdefault("seeds", []))):
        run(folder / "seeds", **NOISY["dropout"])
    with mock.patch.object(TuningLoop, "step", stopped(at=17)):
        try:
            run(folder / "resumed", **NOISY["dropout"])
        except KeyboardInterrupt:
            seen["stopped"] = (folder / "resumed" / "result.json").exists()
    seen["resumed"] = run(folder / "resumed", **NOISY["dropout"])
    seen["finished"] = run(folder / "resumed", **NOISY["dropout"])
    try:
        run(folder / "odd", batch_size=5)
    except BadInput as error:
        seen["odd"] = str(error)
    for name in ("brownian", "prompt"):
        run(folder / f"{name} sharded", sharded=True, **EXACT[name])
    for name in ("written", "written sharded"):
        write(folder / name, sharded="sharded" in name)
    (folder / f"{rank}.json").write_text(json.dumps(seen))


def only_the_first_writes(*args: Any, **options: Any) -> None:
    raise AssertionError("a second process writes")


def note_end(seen: dict[str, Any], name: str) -> Any:
    """The weights of the PET after the last step, before the selected ones take their place."""
    restore = Checkpoint.restore_best

    def noted(checkpoint: Checkpoint) -> None:
        parameters = checkpoint.trained.values()
        seen[f"{name} end"] = [p.detach().flatten()[:20].tolist() for p in parameters]
        restore(checkpoint)

    return noted


def note_seed(seeds: list[int]) -> Any:
    step = TuningLoop.step

    def noted(loop: TuningLoop, k: int) -> Any:
        found = step(loop, k)
        seeds.append(torch.initial_seed())
        return found

    return noted


def stopped(at: int) -> Any:
    step = TuningLoop.step

    def interrupted(loop: TuningLoop, k: int) -> Any:
        if k == at:
            raise KeyboardInterrupt
        return step(loop, k)

    return interrupted


# All together


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(WORLD, [__file__, folder])
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_end_where_one_does(name: str, folder: Path, tmp_path: Path) -> None:
    expected = run(tmp_path / name, **EXACT[name])
    found = json.loads((folder / name / "result.json").read_text())
    for entry, other in zip(found.pop("curves"), expected.pop("curves"), strict=True):
        for key, tolerance in TOLERANCES.items():
            value = other.pop(key)
            assert entry.pop(key) == (value and pytest.approx(value, rel=tolerance)), key
        assert entry == other
    assert found == expected
    weights, others = load_file(folder / name / PET), load_file(tmp_path / name / PET)
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        assert weight.dtype == (torch.float32 if name == "prompt" else torch.float64)  # as peft makes it
        bound = 1e-5 if name == "prompt" else 1e-10
        assert (weight - others[key]).abs().max() < bound, key


@pytest.mark.parametrize("name", [*EXACT, *NOISY])
def test_both_processes_have_the_same_pet_and_result(name: str, ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    assert first[f"{name} end"] == second[f"{name} end"]
    assert first[name] == second[name]


def test_each_process_draws_noise_of_its_own(ranks: list[dict[str, Any]]) -> None:
    """With the same for all, examples at the same place in the parts would share it."""
    seeds = [seed for seen in ranks for seed in seen["seeds"]]
    assert len(set(seeds)) == len(seeds) == 2 * SETTINGS.max_steps


def test_an_interrupted_run_goes_on_to_the_same_bytes(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert [seen["stopped"] for seen in ranks] == [False, False]
    assert same_bytes(folder / "dropout", folder / "resumed", "result.json", PET)
    assert all(seen["resumed"] == seen["finished"] == seen["dropout"] for seen in ranks)


@pytest.mark.parametrize("name", ["brownian", "prompt", "written"])
def test_shared_out_weights_change_nothing(name: str, folder: Path) -> None:
    weights, parted = (load_file(folder / which / PET) for which in (name, f"{name} sharded"))
    bound = 1e-10 if name == "brownian" else 1e-5  # in float32; buffers lie elsewhere, so sums round so
    assert all((weight - parted[key]).abs().max() < bound for key, weight in weights.items())
    results = [
        json.loads((folder / which / "result.json").read_text()) for which in (name, f"{name} sharded")
    ]
    assert results[0]["reported"] == results[1]["reported"]


def test_one_process_has_nothing_to_share_out(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is one process"):
        run(tmp_path / "run", sharded=True)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_is_refused(folder: Path, ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        assert seen["odd"] == "batch_size=5 in 2 processes: expected a multiple of 2"
    assert not (folder / "odd").exists()


def test_a_run_of_two_processes_is_not_gone_on_with_by_one(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"holds another run .*processes 2 there, None here"):
        run(folder / "vanilla")


def test_alone_no_message_is_sent() -> None:
    assert joined() == Processes()
    value = torch.ones(3)
    with mock.patch("pets.tuning.workers.dist", None):
        alone = Processes()
        assert alone.mean(value) is value
        assert alone.part([1, 2, 3]) == [1, 2, 3]
        alone.wait()
        alone.adopt([value])
        alone.average_gradients([value])


def test_the_command_line_under_torchrun_speaks_once(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    for name, part in (("train", DATA.train), ("dev", DATA.reported)):
        lines = ["sentence\tlabel", *(f"{example.text}\t{example.label}" for example in part)]
        (tmp_path / "glue" / "SST-2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    options = "--model model --task sst2 --data glue --steps 4 --batch-size 4 --eval-every 2 --shots 4"
    command = ["-m", "pets.cli", "tune", *options.split(), "--out", "run"]
    first, second = run_ranks(WORLD, command, cwd=tmp_path)
    shown = json.loads(first.stdout)
    assert shown["examples"] == {"train": 8, "dev": 8, "reported": 70}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["reported"] == shown["reported"]
    assert first.stderr.count("wrote run") == 1
    assert "wrote run" not in second.stderr
    assert not second.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
