"""A tiny BERT, pretrained on the spot on whatever text is at hand, and cached in a folder.

It exists so that the demonstration and the tests can tune a language model that knows something
without a download: a WordPiece vocabulary learnt from the texts and some hundred steps of masked
language modelling, about a minute on two CPU cores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from bridges.errors import BadInput
from bridges.fitting.batches import batches, masked_batch
from bridges.model.positions import IGNORED
from bridges.progress import progress_bar
from bridges.storage.files import new_folder
from bridges.storage.ownership import check_ours

_RECORD = "tiny_lm.json"
_FILES = (
    *(_RECORD, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)
_PAD, _UNK, _CLS, _SEP, _MASK = range(5)
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # their ids are their places


@dataclass(frozen=True)
class Settings:
    """Size of the model and length of its pretraining; the defaults suit about 400 000 tokens."""

    vocabulary: int = 4000
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    length: int = 128  # tokens of a window, [CLS] and [SEP] included; also the longest input
    steps: int = 1200
    batch: int = 16  # windows
    learning_rate: float = 2e-3
    initial: float = 0.07  # standard deviation of the first weights: about 1 / sqrt(hidden)
    warm_up: float = 0.1  # share of the steps
    held_out: float = 0.04  # share of the texts


_DEFAULTS = Settings()


def tiny_lm(
    folder: str | Path,
    texts: Sequence[str],
    words: Sequence[str],
    *,
    seed: int = 0,
    settings: Settings = _DEFAULTS,
) -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """Return a tiny masked language model of `texts` (in eval mode, on the CPU) and its tokenizer.

    The first call trains and writes `folder`, complete or not at all; later calls with the same
    texts, words, seed and settings load it, others train anew and replace it. The same arguments
    give the same model on the same machine; the caller's random state is left alone.

    Args:
        folder: Where the model lives, in the format of `save_pretrained`.
        texts: The text to learn from, any length each; longer ones are cut into windows.
        words: Label words; each becomes one token of the vocabulary.
        seed: Seed of the weights, the masks and the order.
        settings: Size and length of the training.

    Raises:
        BadInput: Fewer than two texts, a label word that is not one plain word, or a `folder`
            that holds something else.
    """
    folder = Path(folder)
    if len(texts) < 2:
        raise BadInput(f"a language model needs at least 2 texts to learn from, not {len(texts)}")
    record = {
        "texts": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
        "words": list(words),
        "seed": seed,
        "settings": asdict(settings),
    }
    if not _is_current(folder, record):
        _write(folder, texts, words, seed, settings, record)
    # Read back in any case: a fresh model and a cached one are the same, down to their name.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return BertForMaskedLM.from_pretrained(folder, use_safetensors=True).eval(), tokenizer


def _write(
    folder: Path,
    texts: Sequence[str],
    words: Sequence[str],
    seed: int,
    settings: Settings,
    record: dict[str, Any],
) -> None:
    tokenizer = _tokenizer(texts, words, settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU only: that is what is restored
        model = _pretrain(_windows(tokenizer, texts, settings), tokenizer, seed, settings)
    with new_folder(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        (new / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _is_current(folder: Path, record: dict[str, Any]) -> bool:
    """Whether `folder` holds the model that `record` describes; says so where it holds another."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(
            f"{folder} exists and was not written by tiny_lm; name another folder or remove it"
        ) from None
    differs = [key for key, value in record.items() if found.get(key) != value]
    if differs:
        check_ours(folder, _FILES, "not just a model of tiny_lm")
        tqdm.write(f"{folder} was trained with other {', '.join(differs)}: training it anew")
    return not differs


def _tokenizer(
    texts: Sequence[str], words: Sequence[str], settings: Settings
) -> PreTrainedTokenizerFast:
    """Learn a lower-cased WordPiece vocabulary, the same at every call."""
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers characters inside words in the order of a randomly seeded hash map and
    # breaks ties by these numbers. Naming them (and the label words) first fixes the outcome.
    lowered = [word.lower() for word in words]
    inside = sorted({f"##{c}" for text in texts for c in learner.normalizer.normalize_str(text)})
    first = [*_SPECIAL, *inside, *(word for word in lowered if word not in inside)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocabulary, special_tokens=first, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    pieces = learner.get_vocab()
    # A fresh tokenizer over the same vocabulary: in `learner` all of `first` are special tokens.
    final = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    final.normalizer = learner.normalizer
    final.pre_tokenizer = learner.pre_tokenizer
    final.decoder = decoders.WordPiece()
    final.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _CLS), ("[SEP]", _SEP)],
    )
    for word in lowered:
        if final.encode(word, add_special_tokens=False).tokens != [word]:
            raise BadInput(f"the label word {word!r} is not one plain word; choose another")
    return PreTrainedTokenizerFast(
        tokenizer_object=final,
        model_max_length=settings.length,
        **{f"{name[1:-1].lower()}_token": name for name in _SPECIAL},
    )


def _windows(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], settings: Settings
) -> list[list[list[int]]]:
    """Return the windows of every text, token ids of at most ``length`` each."""
    size = settings.length - 2
    encoded = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [
        [[_CLS, *text.ids[start : start + size], _SEP] for start in range(0, len(text.ids), size)]
        for text in encoded
    ]


def _pretrain(
    windows: Sequence[list[list[int]]],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    settings: Settings,
) -> BertForMaskedLM:
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(windows), generator=draw).tolist()
    cut = max(1, round(settings.held_out * len(windows)))
    held_out = [window for i in order[:cut] for window in windows[i]]
    train = [window for i in order[cut:] for window in windows[i]]
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=4 * settings.hidden,
            max_position_embeddings=settings.length,
            # So few steps underfit: dropout would only slow them down.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=settings.initial,
        )
    )
    vectors = _word_vectors(train, len(tokenizer), settings.hidden)
    with torch.no_grad():
        words = model.bert.embeddings.word_embeddings.weight  # [V, H], also the output embedding
        words[len(_SPECIAL) :] = settings.initial * vectors[len(_SPECIAL) :]
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.01)
    rise = max(1, round(settings.warm_up * settings.steps))
    fall = max(1, settings.steps - rise)
    schedule = LambdaLR(optimizer, lambda s: min((s + 1) / rise, (settings.steps - s) / fall))
    stream = batches(train, settings.batch, seed=seed)
    model.train()
    bar = progress_bar(range(settings.steps), desc="pretraining a tiny language model", unit="step")
    for step in bar:
        loss = _loss(model, tokenizer, next(stream)[1], draw)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix_str(f"loss={loss.item():.2f}")
    model.eval()
    with torch.no_grad():
        parts = [held_out[i : i + 64] for i in range(0, len(held_out), 64)]
        total = sum(_loss(model, tokenizer, part, draw).item() * len(part) for part in parts)
    tqdm.write(f"held-out masked-LM loss {total / len(held_out):.2f} nats per token")
    return model


def _word_vectors(windows: Sequence[list[int]], vocabulary: int, size: int) -> Tensor:
    """Return word vectors [V, H] of unit standard deviation: which tokens share a window?

    The positive pointwise mutual information of all pairs, factorised. It takes seconds, and gives
    the embedding what the short training is too short to find: which words are about one subject.
    """
    occurs = torch.zeros(len(windows), vocabulary)
    for row, window in zip(occurs, windows, strict=True):
        row[window] = 1.0
    count = occurs.sum(0).clamp(min=1.0)
    together = occurs.T @ occurs
    information = (together * len(windows) / count / count[:, None]).clamp(min=1.0).log()
    information[together < 2] = 0.0  # once is chance
    information.fill_diagonal_(0.0)
    rank = min(size, vocabulary)
    left, strength, _ = torch.svd_lowrank(information, q=rank, niter=3)
    vectors = nn.functional.pad(left * strength.sqrt(), (0, size - rank))
    return vectors / vectors.std().clamp(min=1e-6)


def _loss(
    model: BertForMaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[list[int]],
    draw: torch.Generator,
) -> Tensor:
    """Return the masked-LM loss of a batch of windows."""
    batch = masked_batch(rows, tokenizer, share=0.15, rng=draw)
    states = model.bert(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    chosen = batch.targets != IGNORED
    # Only the chosen places are scored: the head over the vocabulary is most of so small a model.
    return nn.functional.cross_entropy(model.cls(states[chosen]), batch.targets[chosen])
