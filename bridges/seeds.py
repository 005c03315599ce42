"""Random numbers that depend on seeds alone."""

from __future__ import annotations

import torch


def generator(*seeds: int) -> torch.Generator:
    """A generator that depends on all the numbers, whichever order they are consumed in."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 0x9E3779B9) % 2**63
    return torch.Generator().manual_seed(mixed)
