"""The dtype in which products are fast on this machine."""

from __future__ import annotations

import torch


def fast_dtype() -> str:
    """ "bfloat16" where its products are fast, on a GPU that has them or a CPU with AMX, else "float32".

    Without AMX a CPU takes several times as long for bfloat16 as for float32. It is the machine that is
    asked, not the checkpoint, unlike transformers' ``dtype="auto"``.
    """
    if torch.cuda.is_available():
        # Of an older GPU torch would say yes where it only emulates them.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, so it may go
        fast = asked is not None and bool(asked())
    return "bfloat16" if fast else "float32"
