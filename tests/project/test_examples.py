"""Every script in examples/ runs as a user would start it; loss and cost fall, the adapter loads."""

from __future__ import annotations

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
    return [float(value) for value in re.findall(rf"\b{name}\W+([\d.]+)", printed)]


def assert_falls(values: list[float], count: int) -> None:
    """Means of the first and of the last three: dropout makes single ones uneven."""
    assert len(values) == count
    assert sum(values[-3:]) < sum(values[:3]), values


def lora_norm(model_folder: Path, adapter: Path) -> float:
    """Of all factors B, which start at zero."""
    model = load_pet(BertForMaskedLM.from_pretrained(model_folder), adapter)
    return sum(p.norm().item() for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(
    ("script", "bridge"),
    [
        ("hand_written_loop.py", "brownian"),
        ("accelerate_loop.py", "sde"),
        ("ddp.py", "brownian"),
        ("fsdp.py", "brownian"),
    ],
)
def test_a_loop_trains_and_saves(script: str, bridge: str, files: Path, tmp_path: Path) -> None:
    printed = run(files, script, tmp_path / "adapter", bridge=bridge)
    assert_falls(printed_values(printed, "loss"), 20)
    assert_falls(printed_values(printed, "running cost"), 20)
    assert lora_norm(files / "model", tmp_path / "adapter") > 0


def test_the_trainer_trains_saves_and_resumes(files: Path, tmp_path: Path) -> None:
    """The last checkpoint taken away, `--resume` trains its epoch again, to the same bytes."""
    printed = run(files, "trainer.py", tmp_path, "--epochs", "8")
    assert_falls(printed_values(printed, "loss"), 8)
    assert_falls(printed_values(printed, "running_cost"), 8)
    assert len(printed_values(printed, "eval_loss")) == 8
    weights = tmp_path / "adapter" / WEIGHTS
    assert lora_norm(files / "model", weights.parent) > 0
    expected = weights.read_bytes()
    shutil.rmtree(weights.parent)
    shutil.rmtree(tmp_path / "checkpoint-16")
    resumed = run(files, "trainer.py", tmp_path, "--epochs", "8", "--resume")
    assert len(printed_values(resumed, "loss")) == 1
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
    losses, costs = printed_values(printed, "loss"), printed_values(printed, "running_cost")
    assert_falls(losses, 8)
    assert_falls(costs, 8)
    # Without the cost a fresh model's loss is that of guessing among all words.
    assert losses[0] - 0.5 * costs[0] == pytest.approx(math.log(plm.config.vocab_size), abs=0.3)
    assert costs[0] > 1
    model = load_pet(plm, tmp_path)
    assert sum(p.norm().item() for n, p in model.named_parameters() if "lora_B" in n) > 0


def test_the_readme_names_every_example_with_its_command() -> None:
    text = (EXAMPLES / "README.md").read_text()
    commands = re.findall(r"`((?:python|torchrun) .*?)`", text)
    named = [re.search(r"examples/(\w+\.py)", command) for command in commands]
    assert sorted(match[1] for match in named if match) == sorted(p.name for p in EXAMPLES.glob("*.py"))
