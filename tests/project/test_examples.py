"""Every script in examples/ runs as a user would start it; what it logs is what it trained."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import processes
import pytest
from places import REPOSITORY
from safetensors import safe_open
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from transformers import BertForMaskedLM

from bridges import RunningCost
from pets.tuning.models import load_pet

pytestmark = pytest.mark.slow

EXAMPLES = REPOSITORY / "examples"
WEIGHTS = "adapter_model.safetensors"
WITH_MUCH_OF_IT = {  # so that the cost falls too
    "accelerate_loop.py": ("--ratio", "2"),
    "ddp.py": ("--ratio", "2"),
    "fsdp.py": ("--weight", "0.5"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and two costs for it."""
    folder = tmp_path_factory.mktemp("files")
    plm = tiny_bert()
    plm.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for bridge in ("brownian", "sde"):
        RunningCost.for_model(plm, bridge).save_pretrained(folder / bridge)
    return folder


def run(
    files: Path, script: str, out: Path, *options: str, bridge: str = "brownian", model: str = "model"
) -> str:
    """What the example prints."""
    arguments = ["--model", files / model, "--cost", files / bridge, "--out", out, "--lr", "0.01"]
    command = [EXAMPLES / script, *arguments, *options]
    if script in ("ddp.py", "fsdp.py"):
        return "".join(done.stdout for done in processes.run_ranks(2, command, cwd=files))
    done = processes.run(command, cwd=files)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def printed_values(printed: str, name: str) -> list[float]:
    number = r"(-?\d+\.?\d*(?:e-?\d+)?)"
    return [float(value) for value in re.findall(rf"(?<![\w/]){name}\W+?{number}", printed)]


def assert_falls(values: list[float], count: int) -> None:
    """Means of the first and of the last three: dropout makes single ones uneven."""
    assert len(values) == count
    assert sum(values[-3:]) < sum(values[:3]), values


def lora_norm(model_folder: Path, adapter: Path) -> float:
    """Of all factors B, which start at zero."""
    model = load_pet(BertForMaskedLM.from_pretrained(model_folder), adapter)
    return sum(p.norm().item() for n, p in model.named_parameters() if "lora_B" in n)


def rises(steps: int, warmup: int = 4) -> list[float]:
    return [min(1.0, step / warmup) for step in range(steps)]


def rises_and_falls(steps: int, warmup: int = 4) -> list[float]:
    fall = [(1 + math.cos(math.pi * k / (steps - warmup))) / 2 for k in range(steps - warmup)]
    return rises(warmup) + fall


def of_epochs(shares: list[float]) -> list[float]:
    """Of two steps each."""
    return [(a + b) / 2 for a, b in zip(shares[::2], shares[1::2], strict=True)]


def assert_sum(series: dict[str, list[float]], weighed: tuple[str, ...], times: int = 1) -> None:
    """At every step the loss is the task's plus what is weighed; numbers were rounded when printed."""
    for step, loss in enumerate(series["loss"]):
        parts = sum(series[f"weight/{name}"][step] * series[name][step] for name in weighed)
        assert loss == pytest.approx(times * (series["task"][step] + parts), abs=5e-3)


@pytest.mark.parametrize("script", ["hand_written_loop.py", "notebook.ipynb"])
def test_a_plain_loop_shows_what_its_loss_is_made_of(script: str, files: Path, tmp_path: Path) -> None:
    """R-Drop is 0 where its weight is: then nothing is run a second time."""
    if script == "notebook.ipynb":
        printed = run_notebook(files, tmp_path)
        assert len(printed_values(printed, "layers/brownian")) == 2
    else:
        printed = run(files, script, tmp_path)
    names = ("loss", "task", "brownian", "weight/brownian", "weight/r-drop")
    series = {name: printed_values(printed, name) for name in names}
    series["r-drop"] = [0.0, *printed_values(printed, "r-drop")]
    assert {len(values) for values in series.values()} == {20}
    assert_falls(series["task"], 20)
    assert_sum(series, ("brownian", "r-drop"))
    shares = rises_and_falls(20)
    assert series["weight/r-drop"] == pytest.approx([0.5 * share for share in shares], abs=6e-5)
    # The ratio is measured over the first eight steps, then its weight follows the schedule alone.
    measured = series["weight/brownian"][8] / shares[8]
    assert measured > 0.01
    left = [measured * share for share in shares[8:]]
    assert series["weight/brownian"][8:] == pytest.approx(left, abs=2e-4)
    assert lora_norm(files / "model", tmp_path) > 0


def run_notebook(files: Path, out: Path) -> str:
    """What it prints, its cells run in their order, the first with other parameters."""
    pages = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    assert (pages["nbformat"], pages["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in pages["cells"]]
    assert len(set(names)) == len(names)
    cells = [cell for cell in pages["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    first, *others = ("".join(cell["source"]) for cell in cells)
    given = re.sub(
        '"bert-base-uncased", "brownian-bert", "adapter"', f'"model", "brownian", {str(out)!r}', first
    )
    given = given.replace("1e-3", "0.01")
    assert given.count("model") == 2
    done = processes.run(["-c", "\n".join([given, *others])], cwd=files)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "bridge"),
    [("accelerate_loop.py", "sde"), ("ddp.py", "brownian"), ("fsdp.py", "brownian")],
)
def test_a_loop_trains_logs_and_saves(script: str, bridge: str, files: Path, tmp_path: Path) -> None:
    """Two steps an epoch, one without a schedule's end; all of it printed as means of the epoch."""
    printed = run(files, script, tmp_path, *WITH_MUCH_OF_IT[script], bridge=bridge)
    assert_falls(printed_values(printed, "task_loss"), 20)
    assert_falls(printed_values(printed, f"running_cost/{bridge}"), 20)
    found = printed_values(printed, "weight/r-drop")
    assert found == pytest.approx([0.5 * share for share in of_epochs(rises(40))], abs=6e-5)
    weights = printed_values(printed, f"weight/{bridge}")
    assert len(set(weights[4:])) == 1 < len(set(weights[:4]))
    assert lora_norm(files / "model", tmp_path) > 0
    if script == "accelerate_loop.py":
        more = run(files, script, tmp_path, "--resume", "--epochs", "1", bridge=bridge)
        assert printed_values(more, "weight/r-drop") == [0.5]  # the warm-up is over, the ratio measured
        assert printed_values(more, f"weight/{bridge}") == pytest.approx([weights[-1] / 20], abs=6e-5)
        assert printed_values(more, "task_loss")[0] < printed_values(printed, "task_loss")[0] - 0.1


def test_the_trainer_trains_saves_and_resumes(files: Path, tmp_path: Path) -> None:
    """The last checkpoint taken away, `--resume` trains its epoch again, to the same bytes.

    Weights and noise go on; a masked LM's logged loss is the sum over two accumulated batches.
    """
    printed = run(files, "trainer.py", tmp_path, "--epochs", "8")
    assert_falls(printed_values(printed, "'task_loss'"), 8)
    assert len(printed_values(printed, "'running_cost/brownian'")) == 8
    found = printed_values(printed, "'weight/r-drop'")
    assert found == pytest.approx([0.5 * share for share in of_epochs(rises_and_falls(16))], abs=1e-4)
    assert len(printed_values(printed, "'eval_loss'")) == 8
    weights = tmp_path / "adapter" / WEIGHTS
    assert lora_norm(files / "model", weights.parent) > 0
    expected = weights.read_bytes()
    shutil.rmtree(weights.parent)
    shutil.rmtree(tmp_path / "checkpoint-16")
    resumed = run(files, "trainer.py", tmp_path, "--epochs", "8", "--resume")
    for name in ("'task_loss'", "'weight/brownian'", "'weight/r-drop'"):
        assert printed_values(resumed, name) == printed_values(printed, name)[-1:]
    assert weights.read_bytes() == expected


def test_a_classifier_is_trained_with_its_head_and_reloaded(files: Path, tmp_path: Path) -> None:
    """Larger weights than usual make states that tell words apart: there is something to learn."""
    plm = tiny_bert(initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for part in (plm, tiny_tokenizer()):
        part.save_pretrained(files / "apart")
    RunningCost.for_model(plm).save_pretrained(files / "apart-brownian")
    printed = run(files, "classifier.py", tmp_path, bridge="apart-brownian", model="apart")
    losses, costs = printed_values(printed, "loss"), printed_values(printed, "running_cost")
    assert_falls(losses, 10)
    assert_falls(costs, 10)
    # Without the cost a fresh head's loss is about that of guessing among two classes.
    assert losses[0] - 0.5 * costs[0] == pytest.approx(math.log(2), abs=0.3)
    before, after = map(float, re.findall(r"accuracy ([\d.]+) before and ([\d.]+) after", printed)[0])
    assert before + 0.25 <= after
    assert printed.endswith("largest difference of the reloaded logits 0\n")
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        names = set(file.keys())
    assert {n.removeprefix("base_model.model.") for n in names if "lora" not in n} == {
        f"{layer}.{kind}" for layer in ("classifier", "bert.pooler.dense") for kind in ("weight", "bias")
    }


def test_rows_leave_early_and_the_model_is_cut(files: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS), encoding="utf-8")
    options = ["--text", text, "--out", tmp_path / "cut", "--max-loss", "0.5"]
    done = processes.run([EXAMPLES / "early_exit.py", "--model", files / "model", *options], cwd=files)
    assert done.returncode == 0, done.stderr[-3000:]
    left = re.findall(r"(?:negative|positive), (0\.\d+) sure, left at layer (\d) of 3", done.stdout)
    assert len(left) == 2
    assert all(float(sure) >= 0.8 or layer == "3" for sure, layer in left)
    assert "<TruncatedClassifier of BertForMaskedLM: layer" in done.stdout
    assert printed_values(done.stdout, "probabilities") == [0.0]
    assert (tmp_path / "cut" / "exit.safetensors").exists()


def test_an_encoder_decoder_is_trained_with_a_cost_that_the_script_fits(
    files: Path, tmp_path: Path
) -> None:
    """Run again, it finds the saved cost and prints the same.

    The weight lets the cost fall too: at 0.5 a random T5 has far more to gain from its task loss.
    """
    plm = tiny_model("t5")
    for part in (plm, tiny_tokenizer()):
        part.save_pretrained(files / "t5")
    (files / "corpus.txt").write_text("\n".join(TEXTS))
    model = {"bridge": "t5-brownian", "model": "t5"}
    fitting = ("--text", "corpus.txt", "--fit-steps", "20")
    printed = run(files, "encoder_decoder.py", tmp_path / "a", "--weight", "3", *fitting, **model)
    values = [printed_values(printed, name) for name in ("loss", "running cost")]
    for found in values:
        assert_falls(found, 20)
    record = RunningCost.from_pretrained(files / "t5-brownian").fit_record
    assert record is not None
    assert record["steps"] == 20
    printed = run(files, "encoder_decoder.py", tmp_path / "b", "--weight", "3", **model)
    assert [printed_values(printed, name) for name in ("loss", "running cost")] == values
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    tuned = load_pet(plm, tmp_path / "b")
    assert sum(p.norm().item() for n, p in tuned.named_parameters() if "lora_B" in n) > 0


def test_trl_trains_the_loss_with_the_cost(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    plm, tokenizer = tiny_llama(), tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    for part in (plm, tokenizer):
        part.save_pretrained(files / "causal")
    RunningCost.for_model(plm).save_pretrained(files / "causal-brownian")
    printed = run(
        files, "sft_trl.py", tmp_path, "--epochs", "8", bridge="causal-brownian", model="causal"
    )
    of_logs = {
        "loss": "loss",
        "task": "task_loss",
        **{name: f"running_cost/{name}" for name in ("brownian", "label-smoothing")},
        **{f"weight/{name}": f"weight/{name}" for name in ("brownian", "label-smoothing")},
    }
    series = {name: printed_values(printed, f"'{logged}'") for name, logged in of_logs.items()}
    assert {len(values) for values in series.values()} == {8}
    assert_falls(series["task"], 8)
    assert_sum(series, ("brownian", "label-smoothing"))
    # A step an epoch. A fresh model's loss is that of guessing among all words.
    shares = rises_and_falls(8)
    assert series["weight/label-smoothing"] == pytest.approx([0.05 * s for s in shares], abs=6e-5)
    assert series["task"][0] == pytest.approx(math.log(plm.config.vocab_size), abs=0.3)
    assert series["brownian"][0] > 1
    model = load_pet(plm, tmp_path)
    assert sum(p.norm().item() for n, p in model.named_parameters() if "lora_B" in n) > 0


def test_the_readme_names_every_example_with_its_command() -> None:
    text = (EXAMPLES / "README.md").read_text()
    commands = re.findall(r"`((?:python|torchrun) .*?)`", text)
    named = [re.search(r"examples/(\w+\.py)", command) for command in commands]
    assert sorted(match[1] for match in named if match) == sorted(p.name for p in EXAMPLES.glob("*.py"))
