"""A tiny masked language model, pretrained on the spot."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from tokenizers.decoders import WordPiece as WordPieceDecoder

_SPECIAL = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}  # fmt: skip


def _tokenizer(texts: Sequence[str], words: Sequence[str], vocab_size: int, length: int):
    special = list(_SPECIAL.values())
    learner = Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.normalizer = BertNormalizer(lowercase=True)
    learner.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, limit_alphabet=100, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    pieces = sorted(set(learner.get_vocab()).union(words).difference(special))
    learner.model = WordPiece({p: i for i, p in enumerate(special + pieces)}, unk_token="[UNK]")
    learner.decoder = WordPieceDecoder()
    learner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[(t, special.index(t)) for t in ("[CLS]", "[SEP]")])
    return PreTrainedTokenizerFast(tokenizer_object=learner, model_max_length=length, **_SPECIAL)
