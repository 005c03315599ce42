"""Tiny models under the names that pages give to real ones: a page runs as it is."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from filelock import FileLock
from tiny import tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pets.demo import demo, docstrings
from pets.demo.tiny_lm import Settings, tiny_lm

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
BERT = "bert-base-uncased"
T5 = "t5-small"
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_VOCABULARY = 20_000  # enough for each word to be one token


def made_once(factory: pytest.TempPathFactory, texts: Iterable[str]) -> Mapping[str, Path]:
    """As `make`, once for all processes that run the tests."""
    texts, base = list(texts), factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / f"models-{hashlib.sha256(repr(texts).encode()).hexdigest()[:12]}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            make(folder, texts)
            (folder / "made").touch()
    return _places(folder)


def make(folder: Path, texts: Iterable[str]) -> Mapping[str, Path]:
    """Models by their names on pages, for `pages.put_models`; tokenizers know the words of the texts."""
    texts = list(texts)
    words = sorted(set(re.findall(r"[A-Za-z]+", " ".join(texts))))
    texts += [f" {word}" for word in words]  # whatever else it stands behind on the page
    byte_level, pieces = _byte_level(texts), _word_pieces(texts)
    for name, kind, tokenizer in (
        (SMOLLM2, "llama", byte_level),
        (BERT, "bert", pieces),
        (T5, "t5", pieces),
    ):
        ids = {
            f"{which}_token_id": getattr(tokenizer, f"{which}_token_id")
            for which in ("pad", "bos", "eos")
        }
        size = {"vocab_size": len(tokenizer), **{k: v for k, v in ids.items() if v is not None}}
        if kind != "t5":
            size["max_position_embeddings"] = 512
        tiny_model(kind, **size).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    hurried = dataclasses.replace(Settings(), steps=20)
    tiny_lm(
        folder / "tiny-lm", docstrings.corpus(), demo.Docstrings().load().task.words, settings=hurried
    )
    return _places(folder)


def _places(folder: Path) -> Mapping[str, Path]:
    return {
        SMOLLM2: folder / SMOLLM2,
        BERT: folder / BERT,
        T5: folder / T5,
        "$MODEL": folder / "tiny-lm",
    }


def _byte_level(texts: list[str]) -> PreTrainedTokenizerFast:
    """As SmolLM2's: no token around a text, a template for chats."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", model_max_length=512,
    )  # fmt: skip
    tokenizer.chat_template = _CHAT
    return tokenizer


def _word_pieces(texts: list[str]) -> PreTrainedTokenizerFast:
    """As BERT's."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCABULARY, special_tokens=special, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=512,
    )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(make(Path(temporary), ["a text of some words", "another text"]))
