"""Presets of a comparison: the published protocol, and smaller ones for smaller machines."""

from __future__ import annotations

from typing import Any

_BRIDGES = ("brownian", "ou", "sde", "sde:target=ou")
_PUBLISHED: dict[str, Any] = {
    "tasks": ("mnli", "qqp", "qnli", "rte", "mrpc", "sst2", "cola"),
    "pets": ("prompt", "lora", "bitfit", "adapter"),
    "arms": _BRIDGES,
    # The paper reports no grid of weights.
    "weights": (0.1, 1.0, 10.0),
    "max_length": 128,
    "fit_steps": 100_000,
    "fit_batch_size": 128,
    "fit_length": 512,
}

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2305.17670: the few-shot protocol.
    "paper-fewshot": {
        **_PUBLISHED,
        "shots": (4, 8, 16, 32),
        "seeds": (42, 43, 44, 45, 46),
        "steps": 1000,
        "batch_size": 2,
        "eval_every": 50,
    },
    # The same with the full train sets, as Megatron-BERT-large was tuned.
    "paper-full": {
        **_PUBLISHED,
        "shots": (0,),
        "seeds": (42, 43, 44),
        "steps": 50_000,
        "batch_size": 32,
        "eval_every": 1000,
    },
    # An hour or two of two cores for a six-layer model; larger steps make up for fewer of them.
    "small": {
        "tasks": ("sst2",),
        "shots": (16,),
        "pets": ("lora",),
        "arms": ("brownian", "ou", "sde", "regression", "brownian@random-map", "brownian@shuffled-ends"),
        "seeds": (42, 43, 44, 45, 46),
        "weights": (0.5, 2.0, 8.0),
        "steps": 48,
        "batch_size": 4,
        "lr": 2e-3,
        "eval_every": 16,
        "max_length": 48,
        "fit_steps": 500,
        "fit_batch_size": 32,
        "fit_length": 64,
    },
    # A handful of labelled examples: a cost about the label through a lens, and what it has to beat.
    "few": {
        "tasks": ("sst2",),
        "shots": (4,),
        "pets": ("lora",),
        "arms": ("posterior@lens", "regression@lens", "posterior@lens@random-map", "early-exit"),
        "seeds": (42, 43, 44, 45, 46, 47, 48, 49),
        "weights": (1.0,),
        "ratios": (0.1, 0.5, 2.0),
        "loss": "labels",
        "steps": 60,
        "batch_size": 4,
        "lr": 1e-3,
        "eval_every": 20,
        "max_length": 64,
        "fit_steps": 500,
        "fit_batch_size": 32,
        "fit_length": 64,
    },
    # Minutes: does everything run?
    "quick": {
        "tasks": ("sst2",),
        "shots": (16,),
        "pets": ("lora",),
        "arms": ("brownian", "regression"),
        "seeds": (42, 43),
        "weights": (1.0,),
        "steps": 20,
        "batch_size": 8,
        "lr": 1e-3,
        "eval_every": 10,
        "max_length": 48,
        "fit_steps": 50,
        "fit_batch_size": 32,
        "fit_length": 64,
    },
}
"""Each names every option of ``bridge-pets compare`` that it sets; a missing "lr" is that of the PET.

"ratios", where there are any, are taken in the place of "weights"."""
