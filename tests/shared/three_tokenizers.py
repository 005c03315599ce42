"""Three kinds of tokenizers over a few words, and the real one of minilm."""

from __future__ import annotations

from functools import cache
from typing import Any

from shared_files import shared
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
from transformers import AutoTokenizer, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
WORDS = "yes no maybe great terrible terribly positive negative same different film plot".split()  # noqa: SIM905
CORPUS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
KINDS = ["wordpiece", "bytes", "unigram"]


@cache
def tiny(kind: str) -> Any:
    """WordPiece, byte-level BPE or sentencepiece-style Unigram over WORDS; `<s> text </s>`."""
    if kind == "wordpiece":
        letters = [chr(code) for code in range(33, 127)]
        pieces = [*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters), "##ful"]
        vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
        backend = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
    elif kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL[:-1],  # <mask> comes below, with its lstrip, as in RoBERTa
            initial_alphabet=alphabet,
            show_progress=False,
        )
        backend.train_from_iterator(CORPUS, trainer)
    else:
        # As in XLM-R and ALBERT, the special tokens are pieces of the model itself.
        scored = [(token, 0.0) for token in SPECIAL]
        scored += [(f"▁{word}", -3.0) for word in WORDS] + [("▁", -4.0), ("ful", -4.0)]
        scored += [(chr(code), -9.0) for code in range(33, 127)]
        backend = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=16,
    )  # fmt: skip


@cache
def real() -> Any:
    return AutoTokenizer.from_pretrained(shared("models", "minilm-l6-mlm"))
