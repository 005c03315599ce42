"""A tuning run: what it leaves behind, that it can be repeated, cut off and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from filelock import FileLock
from tiny import WORDS, tiny_bert, tiny_tokenizer
from torch import Tensor, nn
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

import pets
from bridges import BadInput, RunningCost
from pets.tasks import metrics, prompts
from pets.tasks.base import Example, Label, Task, TaskData
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer
from pets.tuning import tune as tuning_module
from pets.tuning.loop import TuningLoop
from pets.tuning.models import load_pet
from pets.tuning.preparing import prepared
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

pytestmark = pytest.mark.slow


class Toy(Task):
    name = "toy"
    labels = (Label("negative", "bad"), Label("positive", "good"))

    def load(self, folder: str | Path | None = None) -> TaskData:
        return DATA


TASK = Toy()
SIGNS = (("hated", "poor", "slow"), ("liked", "fine", "quick"))  # the words that tell the classes apart
SETTINGS = TuneSettings(shots=8, max_steps=30, batch_size=4, eval_every=10, learning_rate=0.01)
PET = "pet/adapter_model.safetensors"


def examples(count: int, seed: int) -> tuple[Example, ...]:
    """Half of each class; every text holds three words of its class and up to two others."""
    rng = random.Random(seed)
    texts: dict[str, int] = {}
    while len(texts) < count:
        label = len(texts) % 2
        words = rng.choices(SIGNS[label], k=3) + rng.sample(WORDS[13:24], rng.randrange(3))
        rng.shuffle(words)
        texts.setdefault(" ".join(words), label)
    return tuple(Example(text, label) for text, label in texts.items())


DATA = TaskData(TASK, examples(40, 0), examples(12, 1))


def model() -> BertForMaskedLM:
    """Larger weights than usual: states that tell words apart, so that a few steps teach something."""
    return tiny_bert(initializer_range=0.2)


def cost_for(plm: BertForMaskedLM, bridge: str = "brownian") -> RunningCost:
    return RunningCost.for_model(plm, bridge)


def run(
    folder: Path, *, plm: BertForMaskedLM | None = None, data: TaskData = DATA, **changes: Any
) -> dict[str, Any]:
    cost = changes.pop("cost", None)
    settings = dataclasses.replace(SETTINGS, **changes)
    return tune(plm or model(), tiny_tokenizer(), data, settings, folder, cost=cost, progress=False)


def same_bytes(one: Path, two: Path, *names: str) -> bool:
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with a cost; only read it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    plm = model()
    run(folder, plm=plm, cost=cost_for(plm))
    return folder


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


# What a run leaves


@pytest.mark.parametrize("with_cost", [False, True], ids=["vanilla", "cost"])
def test_the_loss_falls(tmp_path: Path, with_cost: bool) -> None:
    plm = model()
    cost = cost_for(plm) if with_cost else None
    curves = run(tmp_path / "run", plm=plm, cost=cost)["curves"]
    assert curves[-1]["loss"] < 0.7 * curves[1]["loss"]
    assert curves[-1]["dev_loss"] < 0.5 * curves[0]["dev_loss"]


def test_the_result_is_one_json_line_that_says_everything(finished: Path) -> None:
    text = (finished / "result.json").read_text()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert found["settings"] == dataclasses.asdict(SETTINGS)
    assert found["settings"]["seed"] == 42
    assert found["versions"]["torch"] == torch.__version__
    assert {"transformers", "peft", "bridge-pets", "python"} <= set(found["versions"])
    assert (found["task"], found["pet"], found["bridge"]["name"]) == ("toy", "lora", "brownian")
    assert found["examples"] == {"train": 16, "dev": 16, "reported": 12}
    assert found["trainable_parameters"] == 3 * 2 * 2 * 8 * 32  # layers, projections, factors, r, H
    assert [entry["step"] for entry in found["curves"]] == [0, 10, 20, 30]
    assert found["best_step"] > 0
    for entry in found["curves"][1:]:
        assert entry["running_cost"] > 0
        assert entry["loss"] > SETTINGS.weight * entry["running_cost"]


def test_a_finished_run_holds_what_it_should_and_no_more(finished: Path) -> None:
    names = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    pet = {PET, "pet/adapter_config.json", "pet/README.md"}
    assert names == {"run.json", "result.json", "timing.json"} | pet
    assert "# lora for toy" in (finished / "pet" / "README.md").read_text(encoding="utf-8")


def everything(plm: nn.Module) -> tuple[Any, ...]:
    """Whatever tuning could leave behind on a model."""
    modules = {
        name: (type(m), set(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), m.training)
        for name, m in plm.named_modules()
    }
    flags = {name: p.requires_grad for name, p in plm.named_parameters()}
    weights = {name: t.numpy().tobytes() for name, t in plm.state_dict().items()}
    return modules, flags, weights


@pytest.mark.parametrize("training", [True, False])
def test_the_language_model_is_left_as_it_was(tmp_path: Path, training: bool) -> None:
    plm = model().train(training)
    plm.bert.embeddings.requires_grad_(False)
    plm(input_ids=torch.tensor([[5]]), output_hidden_states=True)  # transformers' own hooks
    before = everything(plm)
    run(tmp_path / "run", plm=plm, cost=cost_for(plm))
    assert everything(plm) == before


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(tmp_path / "run", max_steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_lora_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    inner = TuningLoop.run

    def watched(self: TuningLoop, *args: Any, **kwargs: Any) -> None:
        seen.append({n: p.detach().clone() for n, p in self.classifier.named_parameters()})
        inner(self, *args, **kwargs)
        seen.append({n: p.detach().clone() for n, p in self.classifier.named_parameters()})

    monkeypatch.setattr(TuningLoop, "run", watched)
    run(tmp_path / "run")
    before, after = seen
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "lora_" in name}


@pytest.mark.parametrize("split", ["reported", "dev"])
def test_the_saved_pet_scores_what_was_said(
    tmp_path: Path, split: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = []
    inner = TuningLoop.evaluate

    def watched(self: TuningLoop, name: str) -> Any:
        rows[:] = self.rows[split]
        return inner(self, name)

    monkeypatch.setattr(TuningLoop, "evaluate", watched)
    said = run(tmp_path / "run")
    plm = model()
    verbalizer = Verbalizer.of_words(tokenizer, TASK.verbalizer)
    classifier = PromptClassifier(load_pet(plm, tmp_path / "run" / "pet"), verbalizer)
    batch = prompts.collate(rows, 0)
    labels = [label for _, label in rows]
    answers = classifier(**batch).logits.argmax(1).tolist()
    assert metrics.score(TASK, answers, labels) == said[split]
    assert said[split]["accuracy"] > 0.8  # the frozen model guesses


def test_labels_of_several_words_are_tuned_and_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        said = run(tmp_path, data=with_words("bad,poor", "good,very fine"), cost=cost_for(model()))
    assert said["reported"]["accuracy"] > 0.8
    assert "'very fine' is 2 tokens of this vocabulary (very fine)" in caplog.text
    assert all(math.isfinite(look["running_cost"]) for look in said["curves"][1:])


# Repetition


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, finished: Path) -> None:
    plm = model()
    torch.manual_seed(99)  # of no influence
    run(tmp_path / "run", plm=plm, cost=cost_for(plm))
    assert same_bytes(tmp_path / "run", finished, "result.json", "run.json", PET)


def test_another_seed_gives_another_run(tmp_path: Path, finished: Path) -> None:
    plm = model()
    run(tmp_path / "run", plm=plm, cost=cost_for(plm), seed=43)
    assert result(tmp_path / "run")["curves"] != result(finished)["curves"]
    assert not same_bytes(tmp_path / "run", finished, PET)


def stop_at(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Interrupt the training at a step; the list grows by every step that was begun."""
    inner, begun = TuningLoop.step, list[int]()

    def stopping(self: TuningLoop, step: int) -> Any:
        begun.append(step)
        if step == limit:
            raise KeyboardInterrupt
        return inner(self, step)

    monkeypatch.setattr(TuningLoop, "step", stopping)
    return begun


@pytest.mark.parametrize("step", [0, 7, 10, 17, 29])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, finished: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    plm = model()
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(folder, plm=plm, cost=cost_for(plm))
    assert not (folder / "result.json").exists()
    begun = stop_at(monkeypatch, -1)
    run(folder, plm=plm, cost=cost_for(plm))  # the same model object: it was left clean
    assert begun == list(range(step // 10 * 10, 30))
    assert same_bytes(folder, finished, "result.json", "run.json", PET)


def test_a_cost_that_draws_noise_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plm = model()
    whole = run(tmp_path / "whole", plm=plm, cost=cost_for(plm, "sde"))
    with monkeypatch.context() as patch:
        stop_at(patch, 17)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", plm=plm, cost=cost_for(plm, "sde"))
    torch.rand(3)  # whatever happens to the global generator meanwhile
    run(tmp_path / "run", plm=plm, cost=cost_for(plm, "sde"))
    assert same_bytes(tmp_path / "run", tmp_path / "whole", "result.json", "run.json", PET)
    costs = [entry["running_cost"] for entry in whole["curves"] if entry["running_cost"] is not None]
    assert len(set(costs)) == len(costs) > 1


def test_an_interruption_leaves_the_model_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plm = model()
    plm(input_ids=torch.tensor([[5]]), output_hidden_states=True)
    before = everything(plm)
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", plm=plm, cost=cost_for(plm))
    assert everything(plm) == before


def slow_run(folder: str) -> None:
    """What the killed process does: `finished`, slowed down."""
    inner = TuningLoop.step

    def slow(self: TuningLoop, step: int) -> Any:
        time.sleep(0.05 if step < 10 else 2.0)
        return inner(self, step)

    TuningLoop.step = slow  # type: ignore[method-assign]
    plm = model()
    run(Path(folder), plm=plm, cost=cost_for(plm))


def test_a_killed_process_loses_nothing(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "run"
    process = processes.start([__file__, folder])
    try:
        deadline = time.monotonic() + 120
        while not (folder / "state.safetensors").exists():
            assert process.runs, process.output
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait().returncode == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    plm = model()
    run(folder, plm=plm, cost=cost_for(plm))
    assert same_bytes(folder, finished, "result.json", "run.json", PET)


# Folders


def test_a_finished_run_is_returned_without_training(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = stop_at(monkeypatch, 0)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    plm = model()
    assert run(finished, plm=plm, cost=cost_for(plm)) == result(finished)
    assert not begun
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "seed 42 there, 7 here"),
        ({"weight": 0.9}, "weight 0.5 there, 0.9 here"),
        (
            {"learning_rate": 0.1, "max_steps": 31},
            "learning_rate 0.01 there.*max_steps 30 there, 31 here",
        ),
        ({"pet_options": {"r": 4}}, "r None there, 4 here"),
        ({"data": TaskData(TASK, examples(40, 5), DATA.reported)}, "other examples"),
        ({"data": TaskData(TASK, DATA.train, DATA.reported[1:])}, "other examples"),
        (
            {"data": TaskData(TASK.with_words(["poor", "fine"]), DATA.train, DATA.reported)},
            "labels ",
        ),
        ({"bridge": "ou"}, "name 'brownian' there, 'ou' here"),
        ({"cost": None}, "cost .* there, None here"),
        ({"plm": tiny_bert(seed=1)}, "another model: other weights"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    finished: Path, changes: dict[str, Any], message: str
) -> None:
    changes = dict(changes)
    plm = changes.pop("plm", None) or model()
    cost = changes.pop("cost", cost_for(plm, changes.pop("bridge", "brownian")))
    with pytest.raises(BadInput, match=f"holds another run .*({message}).*another folder"):
        run(finished, plm=plm, cost=cost, **changes)


def other_layer(plm: BertForMaskedLM) -> None:
    """As after another training with frozen embeddings."""
    plm.bert.encoder.layer[0].output.dense.weight.data.mul_(1.5)


def more_dropout(plm: BertForMaskedLM) -> None:
    plm.config.hidden_dropout_prob = 0.5


@pytest.mark.parametrize("change", [other_layer, more_dropout])
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_model_of_the_same_embeddings_is_another(
    tmp_path: Path,
    is_finished: bool,
    change: Callable[[BertForMaskedLM], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        if not is_finished:
            stop_at(patch, 11)
        with contextlib.suppress(KeyboardInterrupt):
            run(folder, max_steps=12)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    other = model()
    change(other)
    with pytest.raises(BadInput, match=r"holds another run \(another model: [^;]*\): give what"):
        run(folder, plm=other, max_steps=12)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_another_tokenizer_is_another_run(finished: Path) -> None:
    plm, tokenizer = model(), tiny_tokenizer()
    tokenizer.add_tokens(["film noir"])
    with pytest.raises(BadInput, match=r"holds another run \(another tokenizer\)"):
        tune(plm, tokenizer, DATA, SETTINGS, finished, cost=cost_for(plm))


def test_other_code_is_another_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plm = model()
    monkeypatch.setattr(tuning_module, "source_digest", lambda *folders: "0" * 12)
    with pytest.raises(BadInput, match=r"holds another run \(code '\w+' there, '0+' here\)"):
        run(finished, plm=plm, cost=cost_for(plm))


def test_a_run_of_an_older_version_is_neither_taken_for_this_models_nor_touched(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, max_steps=2)
    identity = json.loads((folder / "run.json").read_text())
    for name in ("config_sha256", "tokenizer_sha256", "model_code", "cost_code", "code"):
        del identity[name]
    (folder / "run.json").write_text(json.dumps(identity))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(BadInput, match=r"made by an older version.*cannot be told.*another folder"):
        run(folder, max_steps=2)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_foreign_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="exists and holds no run"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(BadInput, match="exists and holds no run"):
        run(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "precious"


def test_what_a_kill_before_the_first_file_leaves_is_no_obstacle(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "old"):
        folder.mkdir()
        (folder / ".lock").touch()
    (tmp_path / "new" / ".run.json.0123abcd.new" / "new").mkdir(parents=True)
    (tmp_path / "old" / ".run.json.new").write_text("{")  # of an earlier version
    for folder in (tmp_path / "new", tmp_path / "old"):
        run(folder, max_steps=1)
        names = sorted(p.name for p in folder.iterdir())
        assert names == ["pet", "result.json", "run.json", "timing.json"]
    (folder / ".lock").touch()
    (folder / ".result.json.0123abcd.new").mkdir()
    run(folder, max_steps=1)  # finished, so nothing is written, but that is put in order
    assert sorted(p.name for p in folder.iterdir()) == names


def test_a_second_run_in_the_folder_is_refused_while_one_lasts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(BadInput, match="another run is running"):
        run(tmp_path / "run", max_steps=1)
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_what_is_not_of_the_run_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(folder, max_steps=3)
    (folder / "notes.txt").write_text("mine")  # beside it is fine
    (folder / "pet").mkdir()
    (folder / "pet" / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match=r"pet exists and holds no PET of a run, but 'thesis\.tex'"):
        run(folder, max_steps=3)
    shutil.rmtree(folder / "pet")
    (folder / "timing.json").symlink_to(tmp_path / "victim")
    with pytest.raises(BadInput, match=r"timing\.json is a symbolic link"):
        run(folder, max_steps=3)
    (folder / "timing.json").unlink()
    run(folder, max_steps=3)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("change", [{"best_step": "2"}, {"dev": {"accuracy": None}}, {"curves": []}])
def test_a_result_edited_by_hand_is_refused(
    tmp_path: Path, finished: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").write_text(json.dumps(result(finished) | change))
    plm = model()
    with pytest.raises(
        BadInput, match=r"result\.json is no result of a run \(.*\): delete it to run anew"
    ):
        run(folder, plm=plm, cost=cost_for(plm))


def test_vanilla_does_not_care_about_the_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path / "run", weight=0.5, max_steps=10)
    begun = stop_at(monkeypatch, 0)
    assert run(tmp_path / "run", weight=0.9, max_steps=10) == first
    assert not begun


def test_the_cost_changes_the_result_and_its_weight_too(tmp_path: Path, finished: Path) -> None:
    plm = model()
    run(tmp_path / "vanilla", plm=plm)
    run(tmp_path / "heavy", plm=plm, cost=cost_for(plm), weight=5.0)
    pets = [
        (folder / PET).read_bytes() for folder in (finished, tmp_path / "vanilla", tmp_path / "heavy")
    ]
    assert len(set(pets)) == 3


# Selection


def scramble(reported: tuple[Example, ...]) -> tuple[Example, ...]:
    return tuple(Example("bird " + e.text[::-1], 1 - e.label) for e in reversed(reported))


def test_the_reported_set_has_no_influence_on_the_run(tmp_path: Path, finished: Path) -> None:
    plm = model()
    data = TaskData(TASK, DATA.train, scramble(DATA.reported))
    run(tmp_path / "run", plm=plm, cost=cost_for(plm), data=data)
    one, two = result(tmp_path / "run"), result(finished)
    for key in ("curves", "best_step", "dev"):
        assert one[key] == two[key]
    assert same_bytes(tmp_path / "run", finished, PET)


def test_the_reported_set_is_scored_once_and_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    inner = TuningLoop.evaluate

    def watched(self: TuningLoop, split: str) -> Any:
        looks.append(split)
        return inner(self, split)

    monkeypatch.setattr(TuningLoop, "evaluate", watched)
    run(tmp_path / "run")
    assert looks == ["dev"] * 4 + ["reported"]


def scripted(monkeypatch: pytest.MonkeyPatch, looks: list[tuple[float, float]]) -> None:
    """Let the looks at the dev set find these accuracies and losses."""
    remaining = iter(looks)
    inner = TuningLoop.evaluate

    def evaluate(self: TuningLoop, split: str) -> Any:
        if split != "dev":
            return inner(self, split)
        accuracy, loss = next(remaining)
        return {"accuracy": accuracy}, loss

    monkeypatch.setattr(TuningLoop, "evaluate", evaluate)


@pytest.mark.parametrize(
    ("looks", "best"),
    [
        ([(0.5, 4.0), (0.7, 2.0), (0.9, 3.0), (0.8, 1.0)], 20),  # the metric decides
        ([(0.5, 0.1), (0.9, 3.0), (0.9, 2.0), (0.9, 2.5)], 20),  # then the loss
        ([(0.5, 0.1), (0.9, 2.0), (0.9, 2.0), (0.9, 2.0)], 10),  # then the earliest
    ],
)
def test_the_checkpoint_is_chosen_by_dev_metric_then_loss(
    tmp_path: Path, looks: list[tuple[float, float]], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        scripted(patch, looks)
        found = run(tmp_path / "run")
    assert found["best_step"] == best
    assert found["dev"]["accuracy"] == 0.9
    with monkeypatch.context() as patch:  # a run that ends there
        scripted(patch, [(0.0, 9.0)] * (best // 10) + [(1.0, 0.0)])
        run(tmp_path / "short", max_steps=best)
    assert same_bytes(tmp_path / "run", tmp_path / "short", PET)


def test_a_resumed_run_keeps_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(0.5, 4.0), (0.9, 2.0), (0.6, 3.0), (0.7, 3.0)]
    with monkeypatch.context() as patch:
        scripted(patch, looks)
        run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        scripted(patch, looks[:3])
        stop_at(patch, 25)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    with monkeypatch.context() as patch:
        scripted(patch, looks[3:])
        assert run(tmp_path / "run")["best_step"] == 10
    assert same_bytes(tmp_path / "run", tmp_path / "whole", "result.json", PET)


def test_the_full_set_mode_holds_a_part_of_train_out(tmp_path: Path) -> None:
    found = run(tmp_path / "run", shots=None)
    assert found["examples"] == {"train": 36, "dev": 4, "reported": 12}  # a tenth of each class
    assert found["curves"][-1]["dev_loss"] < found["curves"][0]["dev_loss"]


# Refusals


def other_model() -> RunningCost:
    return cost_for(tiny_bert(seed=1))


def nan_model() -> BertForMaskedLM:
    plm = model()
    nn.init.constant_(plm.bert.encoder.layer[0].output.dense.bias, float("nan"))
    return plm


def with_words(*words: str) -> TaskData:
    return TaskData(TASK.with_words(words), DATA.train, DATA.reported)


REFUSALS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "shots": (lambda: {"shots": 100}, "100 shots for each of train and dev need 200"),
    "no shots": (lambda: {"shots": 0}, "shots 0 is too small"),
    "word": (lambda: {"data": with_words("bad", "good,")}, "label word '' is empty"),
    "unknown word": (
        lambda: {"data": with_words("bad", "terrific")},
        "'terrific' is not in this vocabulary",
    ),
    "same word": (lambda: {"data": with_words("bad", "bad")}, "stands for the classes"),
    "cost": (lambda: {"cost": other_model()}, "the word embeddings differ"),
    "weight": (lambda: {"cost": cost_for(model()), "weight": -1.0}, "weight=-1.0: expected"),
    "pet": (lambda: {"pet": "lorra"}, "unknown PET 'lorra'; did you mean 'lora'"),
    "option": (lambda: {"pet_options": {"rank": 8}}, "PET 'lora' has no option 'rank'"),
    "modules": (lambda: {"pet_options": {"target_modules": ["nope"]}}, "PET 'lora' on BertForMaskedLM"),
    "length": (lambda: {"max_length": 3}, "max_length 3 leaves no room"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    changes, message = REFUSALS[case]
    plm = model()
    before = everything(plm)
    with pytest.raises(BadInput) as caught:
        run(tmp_path / "run", plm=plm, **changes())
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert everything(plm) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("max_steps", 1.5),
        ("batch_size", 0),
        ("eval_every", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("weight_decay", 1.0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{name}={value}: expected a"):
        TuneSettings(**{name: value})


@pytest.mark.parametrize("pet", pets.available())
def test_the_learning_rate_is_the_pets_where_none_is_given(tmp_path: Path, pet: str) -> None:
    """The published protocol's; the number used is in the result, and replacing the PET replaces it."""
    rates: set[float] = set()
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.update(group["lr"] for group in self.param_groups)
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", recorded)
        found = run(tmp_path / "run", pet=pet, learning_rate=None, max_steps=1)
    expected = 1e-3 if pet in ("prefix", "prompt") else 1e-4
    assert rates == {expected}
    assert found["settings"]["learning_rate"] == expected
    with pytest.raises(BadInput, match=f"learning_rate {expected} there, 0.01 here"):
        run(tmp_path / "run", pet=pet, max_steps=1)
    assert dataclasses.replace(TuneSettings(pet="lora"), pet=pet).rate == expected


def test_an_unknown_pet_has_no_learning_rate() -> None:
    with pytest.raises(BadInput, match="unknown PET 'lara'; did you mean 'lora'"):
        _ = TuneSettings(pet="lara").rate


def test_a_broken_model_ends_the_run_with_advice(tmp_path: Path) -> None:
    plm = nan_model()
    with pytest.raises(BadInput, match=r"is nan at step 0: that is before any tuning"):
        run(tmp_path / "run", plm=plm)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TuningLoop._forward

    def diverged(self: TuningLoop, *args: Any) -> Any:
        output = forward(self, *args)
        if self.classifier.training:
            output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(TuningLoop, "_forward", diverged)
    with pytest.raises(BadInput, match=r"loss became nan at step 0: lower learning_rate"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "pet").exists()


def test_a_weight_that_overflows_ends_the_run_with_advice(tmp_path: Path) -> None:
    plm = model()
    with pytest.raises(BadInput, match=r"loss became inf at step 0: .* or weight \(1e\+39\)"):
        run(tmp_path / "run", plm=plm, cost=cost_for(plm), weight=1e39)


if __name__ == "__main__":
    slow_run(sys.argv[1])


@pytest.mark.parametrize(
    ("pet", "dtype", "told"),
    [
        ("ln_tuning", torch.bfloat16, True),
        ("lora", torch.bfloat16, False),
        ("ln_tuning", torch.float32, False),
    ],
)
def test_what_is_trained_in_half_precision_is_said(
    pet: str, dtype: torch.dtype, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"target_modules": ["LayerNorm"]} if pet == "ln_tuning" else {}
    settings = dataclasses.replace(SETTINGS, pet=pet, pet_options=options, max_steps=1)
    with prepared(model().to(dtype), tiny_tokenizer(), DATA, settings):
        pass
    assert ("kept in bfloat16" in caplog.text) == told
