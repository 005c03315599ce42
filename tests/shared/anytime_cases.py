"""What the tests of early answers share: tiny models with PETs, their costs, batches."""

from __future__ import annotations

from functools import cache
from typing import Any

import peft
import torch
from peft import get_peft_model
from tiny import TEXTS, tiny_model, tiny_tokenizer
from torch import Tensor, nn

import pets
from bridges import RunningCost
from pets import Verbalizer

TOKENIZER = tiny_tokenizer()
WORDS = Verbalizer.of_words(TOKENIZER, {"negative": "bad", "positive": ["good", "fine"]})
MASK = TOKENIZER.mask_token_id
LAYERS = 4
CLASSIFIER = "ForSequenceClassification"


def plm_of(name: str, head: str | None = None, **changes: Any) -> Any:
    depth = {"gpt2": "n_layer"}.get(name, "num_hidden_layers")
    return tiny_model(name, head=head, **{depth: LAYERS, **changes})


def with_pet(plm: Any, pet: str) -> nn.Module:
    if pet == "none":
        return plm
    task = "SEQ_CLS" if "Classification" in type(plm).__name__ else None
    if task is None:
        task = (
            "CAUSAL_LM" if "CausalLM" in type(plm).__name__ or "LMHead" in type(plm).__name__ else None
        )
    if pet == "ia3":
        config: Any = peft.IA3Config(task_type=task)
    elif pet == "p-tuning":
        config = peft.PromptEncoderConfig(
            task_type=task or "FEATURE_EXTRACTION", num_virtual_tokens=3, encoder_hidden_size=16
        )
    else:
        config = pets.get(pet, model=plm)
    model = get_peft_model(plm, config).eval()
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if p.requires_grad and "modules_to_save" not in name:
            p.data = p.data + 0.2 * torch.randn_like(p)
    return model


@cache
def cost_of(name: str, head: str | None = None, bridge: str = "ou") -> RunningCost:
    """Made for the plain model, fitted on little text."""
    plm = plm_of(name, head)
    cost = RunningCost.for_model(plm, bridge, map="lens", latent_dim=8)
    if head is None:
        cost.fit(plm, TOKENIZER, TEXTS, progress=False, max_length=16, batch_size=16, held_out=12)
    return cost


def batch(
    rows: int, *, masked: bool, side: str = "right", seed: int = 0, length: int = 8
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, length), generator=rng)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        pad = int(torch.randint(0, 4, (1,), generator=rng))
        where = slice(length - pad, None) if side == "right" else slice(0, pad)
        mask[row, where], ids[row, where] = 0, 0
    if masked:
        place = int(torch.randint(4, length - 4, (1,), generator=rng)) if length > 8 else 3
        ids[:, place], mask[:, place] = MASK, 1
    return {"input_ids": ids, "attention_mask": mask}


def labelled(count: int, *, masked: bool, rows: int = 6, side: str = "right") -> list[dict[str, Tensor]]:
    """Batches whose label a token tells, early in the row."""
    made = []
    for seed in range(count):
        given = batch(rows, masked=masked, seed=seed, side=side)
        labels = torch.arange(rows) % 2
        given["input_ids"][:, -1 if side == "left" else 0] = 7 + labels
        made.append({**given, "labels": labels})
    return made
