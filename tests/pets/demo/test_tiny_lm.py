"""The tiny language model: cached, complete or absent, reproducible."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bridges.errors import BadInput
from pets.demo import tiny_lm as module
from pets.demo.tiny_lm import Settings, tiny_lm

TEXTS = [
    f"Open the {noun} and read {count} bytes of the {noun} until it ends."
    for noun in ("file", "socket", "archive", "mailbox", "stream")
    for count in range(8)
]
WORDS = ["file", "Network"]  # the second is nowhere in the texts
SMALL = Settings(vocabulary=150, hidden=32, layers=1, heads=2, length=16, steps=2, batch=4)


def weights(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(tiny_lm(folder, TEXTS, WORDS, seed=seed, settings=SMALL)[0].state_dict())


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_second_call_loads_what_the_first_one_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_lm(tmp_path / "lm", TEXTS, WORDS, settings=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]
    assert (tmp_path / "lm" / "model.safetensors").exists()
    monkeypatch.setattr(module, "_pretrain", lambda *_: pytest.fail("trained again"))
    again, loaded = tiny_lm(tmp_path / "lm", TEXTS, WORDS, settings=SMALL)
    assert equal(model.state_dict(), again.state_dict())
    assert not model.training
    assert not again.training
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded(TEXTS[0]) == tokenizer(TEXTS[0])
    assert loaded.model_max_length == SMALL.length


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"texts": TEXTS[1:]}, "texts"),
        ({"words": ["file"]}, "words"),
        ({"seed": 1}, "seed"),
        ({"settings": replace(SMALL, steps=3)}, "settings"),
    ],
)
def test_anything_else_trains_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], named: str
) -> None:
    arguments: dict[str, Any] = {"texts": TEXTS, "words": WORDS, "seed": 0, "settings": SMALL}
    tiny_lm(tmp_path / "lm", **arguments)
    assert "anew" not in capsys.readouterr().out
    tiny_lm(tmp_path / "lm", **(arguments | changed))
    assert f"was trained with other {named}: training it anew" in capsys.readouterr().out
    tiny_lm(tmp_path / "lm", **(arguments | changed))
    assert "anew" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]


def test_interrupted_training_leaves_nothing_and_spares_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = weights(tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        for name, seed in (("new", 0), ("old", 1)):
            with pytest.raises(KeyboardInterrupt):
                weights(tmp_path / name, seed)
    with monkeypatch.context() as patch:  # the weights are written, the rest is not
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            weights(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    monkeypatch.setattr(module, "_pretrain", lambda *_: pytest.fail("trained again"))
    assert equal(weights(tmp_path / "old"), old)


def test_same_seed_same_model_whatever_the_global_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = weights(tmp_path / "a")
    torch.manual_seed(2)
    assert equal(weights(tmp_path / "b"), first)
    assert not equal(weights(tmp_path / "c", seed=1), first)


def test_global_random_state_is_untouched(tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    weights(tmp_path / "lm")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]


def test_tokenizer_is_bert_like_and_knows_the_label_words(tmp_path: Path) -> None:
    _, tokenizer = tiny_lm(tmp_path / "lm", TEXTS, WORDS, settings=SMALL)
    for word in WORDS:
        assert tokenizer.tokenize(word) == [word.lower()]
    assert tokenizer.tokenize("networks files")[0].startswith("network")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("[MASK] Open it", "now")["input_ids"])
    assert tokens[:3] == ["[CLS]", "[MASK]", "open"]
    assert tokens.count("[SEP]") == 2
    # A label word is no special token: it survives when these are left out of the text.
    kept = tokenizer.decode(tokenizer("the file")["input_ids"], skip_special_tokens=True)
    assert kept == "the file"


def test_loss_counts_masked_places_only(tmp_path: Path) -> None:
    model, tokenizer = tiny_lm(tmp_path / "lm", TEXTS, WORDS, settings=SMALL)
    windows = [w for text in module._windows(tokenizer, TEXTS, SMALL) for w in text][:8]
    seen: list[int] = []
    handle = model.cls.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    module._loss(model, tokenizer, windows, torch.Generator().manual_seed(0))
    handle.remove()
    ordinary = sum(len(window) - 2 for window in windows)
    assert 0 < seen[0] < 0.4 * ordinary


def test_long_texts_are_cut_into_windows(tmp_path: Path) -> None:
    _, tokenizer = tiny_lm(tmp_path / "lm", TEXTS, WORDS, settings=SMALL)
    ((*windows,),) = module._windows(tokenizer, ["file " * 30], SMALL)
    assert [len(window) for window in windows] == [16, 16, 4]


@pytest.mark.parametrize(
    ("texts", "words", "message"),
    [
        (["one text"], ["file"], "at least 2 texts"),
        (TEXTS, ["two words"], "'two words' is not one plain word"),
        (TEXTS, ["file-like"], "'file-like' is not one plain word"),
    ],
)
def test_bad_input(tmp_path: Path, texts: list[str], words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tiny_lm(tmp_path / "lm", texts, words, settings=SMALL)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="was not written by tiny_lm"):
        tiny_lm(tmp_path, TEXTS, WORDS, settings=SMALL)
    assert (tmp_path / "thesis.tex").exists()


def test_what_lies_beside_the_model_is_not_lost_with_it(tmp_path: Path) -> None:
    tiny_lm(tmp_path / "lm", TEXTS, WORDS, settings=SMALL)
    (tmp_path / "lm" / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=r"holds not just a model of tiny_lm, but 'thesis\.tex'"):
        tiny_lm(tmp_path / "lm", TEXTS, WORDS, seed=7, settings=SMALL)
    assert (tmp_path / "lm" / "thesis.tex").exists()
