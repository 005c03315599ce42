"""Scoring a tuned PET: encoded prompts in, the task's metrics out."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig, PromptLearningConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from bridges import BadInput
from bridges.model.positions import max_positions
from bridges.model.spec import pretrained_model
from pets.tasks import metrics, prompts
from pets.tasks.base import Example, Task
from pets.tasks.classifier import PromptClassifier
from pets.tasks.protocol import OURS, Protocol
from pets.tasks.verbalizer import Verbalizer
from pets.tuning.models import load_pet, unload, untouched
from pets.tuning.workers import Processes

Rows = list[tuple[prompts.Row, int]]
"""Encoded prompts and their class indices."""

_BATCH = 32
"""Prompts in a forward pass, neighbours in length."""


def evaluate(
    classifier: PromptClassifier,
    rows: Rows,
    task: Task,
    pad_id: int,
    processes: Processes | None = None,
) -> tuple[dict[str, float], float]:
    """Metrics and mean task loss of a classifier on encoded prompts; its mode is left as it was.

    Args:
        classifier: reads the task's label words.
        rows: prompts with class indices, in any order.
        task: whose metrics are computed.
        pad_id: the tokenizer's padding token.
        processes: that share the work; all know the same at the end.
    """
    processes = processes or Processes()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0].input_ids))
    batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    predictions, losses = [0.0] * len(rows), [0.0] * len(batches)
    mode = classifier.training
    classifier.eval()
    with torch.no_grad():
        for k in range(processes.rank, len(batches), processes.count):
            chosen = batches[k]
            batch = prompts.collate([rows[i] for i in chosen], pad_id)
            output = classifier(**on_device(batch, classifier))
            losses[k] = output.loss.item() * len(chosen)
            for i, answer in zip(chosen, output.logits.argmax(1).tolist(), strict=True):
                predictions[i] = answer
    classifier.train(mode)
    predictions, losses = processes.total(predictions), processes.total(losses)
    labels = [label for _, label in rows]
    scores = metrics.score(task, [int(answer) for answer in predictions], labels)
    return scores, functools.reduce(operator.add, losses) / len(rows)  # `sum` depends on the Python


def score(
    plm: PreTrainedModel,
    encoder: prompts.Encoder,
    task: Task,
    examples: Sequence[Example],
    folder: str | os.PathLike[str],
    max_length: int,
    protocol: Protocol = OURS,
) -> tuple[dict[str, float], int]:
    """A tuned PET's metrics on examples that had no part in its selection.

    Args:
        plm: the masked LM it was tuned on; left as it was.
        encoder: of its tokenizer.
        task: the task it was tuned for, with the same label words.
        examples: the reported ones.
        folder: where the PET is, ``pet`` in a run folder.
        max_length, protocol: as it was tuned with.

    Returns:
        Metrics, see `pets.tasks.metrics.score`, and how many texts were cut to fit.

    Raises:
        BadInput: if the folder holds no PET for this model.
    """
    verbalizer = Verbalizer.of_words(
        encoder.tokenizer, task.verbalizer, bare=protocol.bare_words, warn=False
    )
    with untouched(plm):
        model = load_pet(plm, folder)
        classifier = None
        try:
            limit = room(model, max_length, mask_first=protocol.mask_first)
            rows, truncated = encode(encoder, examples, limit, protocol)
            check_tokens(rows, model)
            classifier = PromptClassifier(model, verbalizer, mask_first=protocol.mask_first)
            classifier.to(plm.device)
            pad_id = encoder.tokenizer.pad_token_id or 0
            return evaluate(classifier, rows, task, pad_id)[0], truncated
        finally:
            if classifier is not None:
                classifier.remove()
            unload(model)


def room(model: nn.Module, max_length: int, *, mask_first: bool = False) -> int:
    """Tokens a prompt may have: ``max_length``, or what a soft prompt leaves of the positions.

    Args:
        model: a masked LM, plain or with a PET.
        max_length: what is wished for.
        mask_first: [MASK] comes on top, as `pets.tasks.prompts.encode` has it then.

    Raises:
        BadInput: if a soft prompt leaves none.
    """
    config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    prefixed = isinstance(config, PrefixTuningConfig)
    soft = isinstance(config, PromptLearningConfig) and not prefixed
    tokens = (config.num_virtual_tokens if soft else 0) + mask_first
    positions = max_positions(pretrained_model(model).config)
    limit = min(max_length, positions - tokens if positions else max_length)
    if limit < 1:
        raise BadInput(
            f"a soft prompt of {tokens - mask_first} tokens leaves no room in {positions} positions: "
            "give the PET fewer num_virtual_tokens"
        )
    return limit


def encode(
    encoder: prompts.Encoder, examples: Sequence[Example], limit: int, protocol: Protocol = OURS
) -> tuple[Rows, int]:
    """Encoded prompts of at most ``limit`` tokens with their class indices, and how many were cut."""
    texts = [protocol.text(example) for example in examples]
    encoded = encoder.encode(texts, limit, mask_first=protocol.mask_first)
    labels = [example.label for example in examples]
    return list(zip(encoded.rows, labels, strict=True)), encoded.truncated


def check_tokens(rows: Rows, model: nn.Module) -> None:
    """Whether a model has all tokens of encoded prompts.

    Raises:
        BadInput: if it has fewer word embeddings than its tokenizer has tokens.
    """
    known = len(pretrained_model(model).get_input_embeddings().weight)
    most = max(max(row.input_ids) for row, _ in rows)
    if most >= known:
        raise BadInput(
            f"a text has token {most}, and the model knows 0 to {known - 1}: its tokenizer is another "
            "model's, or tokens were added to it without resize_token_embeddings(len(tokenizer))"
        )


def on_device(batch: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    device = next(module.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
