"""Tiny random models and a tokenizer whose vocabulary is a list of words; nothing is downloaded."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SENTENCE = (
    "good bad fine poor yes no maybe same different negative positive the a film book story was is "
    "very not and or of in on at to it this that we they saw read liked hated quick slow dog cat bird "
    "runs sleeps sings red green blue house tree river day night sun moon star rain snow wind"
)
WORDS = _SENTENCE.split()
VOCABULARY = SPECIAL + WORDS
TEXTS = [
    " ".join(WORDS[(7 * i + 3 * j + i * j) % len(WORDS)] for j in range(5 + i % 9)) for i in range(60)
]
"""Sixty texts of 5 to 13 words."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """[CLS] text [SEP], one token a word."""
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    inner.normalizer = Lowercase()
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tiny_bert(*, seed: int = 0, **changes: object) -> BertForMaskedLM:
    """Three layers, H 32, in eval mode."""
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForMaskedLM(BertConfig(**settings)).eval()  # type: ignore[no-any-return]


def tiny_llama(*, seed: int = 0) -> LlamaForCausalLM:
    """Two layers, H 32, in eval mode."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()  # type: ignore[no-any-return]
