"""Tokenizers of every usual kind over one small corpus, made with the `tokenizers` package."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_WORDS = "it was the a great happy terrible good bad yes no film café not very".split()  # noqa: SIM905
_CORPUS = [f"It was {a} {b}" for a in _WORDS for b in _WORDS] + ["sad sadly sat grated 0 1 ; : ."]

KINDS = {
    "wordpiece": {"mask": True},
    "wordpiece-lower": {"mask": True},
    "bytes": {"mask": True},
    "bytes-causal": {"mask": False},
    "bytes-prefix-space": {"mask": False},
    "metaspace-first": {"mask": False},
    "metaspace-always": {"mask": False},
    "metaspace-never": {"mask": False},
    "llama-legacy": {"mask": False},
    "unigram": {"mask": True},
    "unigram-causal": {"mask": False},
    "end-of-word": {"mask": True},
}


@cache
def made(kind: str) -> Any:
    """A tokenizer of that kind, with BOS in front as its models have."""
    backend = _backend(kind)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if KINDS[kind]["mask"] else "<s> $A",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    mask = {"mask_token": AddedToken("<mask>", lstrip=True, special=True)} if KINDS[kind]["mask"] else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", **mask,
    )  # fmt: skip


def _backend(kind: str) -> Tokenizer:
    options: dict[str, Any] = {"special_tokens": _SPECIAL, "show_progress": False, "vocab_size": 300}
    if kind.startswith("wordpiece"):
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        if kind == "wordpiece-lower":
            backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(**options)
    elif kind.startswith("bytes"):
        backend = Tokenizer(models.BPE())
        prefix = kind == "bytes-prefix-space"
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **{**options, "vocab_size": 360})
    elif kind.startswith("metaspace"):
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        scheme: Any = kind.removeprefix("metaspace-")
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
        backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
        trainer = trainers.BpeTrainer(**options)
    elif kind == "llama-legacy":  # a normalizer, no pre-tokenizer: as sentencepiece's own
        backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        trainer = trainers.BpeTrainer(**options)
    elif kind.startswith("unigram"):
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **{**options, "vocab_size": 120})
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(end_of_word_suffix="</w>", **options)
    backend.train_from_iterator(_CORPUS, trainer)
    if kind == "llama-legacy":
        backend.pre_tokenizer = None
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    return backend
