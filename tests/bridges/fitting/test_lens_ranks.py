"""A lens whose text several processes share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import run_ranks
from tiny import TEXTS, tiny_bert, tiny_tokenizer

from bridges import BadInput, RunningCost

SHORT = {"batch_size": 4, "held_out": 12, "max_length": 16, "progress": False}

_PROGRAM = """
import sys
from torch import distributed
from test_lens_ranks import fitted
distributed.init_process_group("gloo")
cost = fitted(distributed=True)
cost.save_pretrained(f"{sys.argv[1]}/{distributed.get_rank()}")
distributed.destroy_process_group()
"""


def fitted(**options: bool) -> RunningCost:
    model = tiny_bert()
    cost = RunningCost.for_model(model, "ou:learn=sigma", map="lens", latent_dim=8)
    cost.fit(model, tiny_tokenizer(), TEXTS, **SHORT, **options)
    return cost


@pytest.mark.slow
def test_two_processes_end_with_the_lens_of_one(tmp_path: Path) -> None:
    run_ranks(2, ["-c", _PROGRAM, tmp_path], cwd=Path(__file__).parent)
    one, other = (RunningCost.from_pretrained(tmp_path / str(rank)) for rank in range(2))
    assert one.digest() == other.digest()
    alone = fitted()
    assert one.fit_record is not None
    assert alone.fit_record is not None
    assert one.fit_record["steps"] == alone.fit_record["steps"]
    for name, tensor in alone.state_dict().items():
        if name != "latent_map.damped":  # axes of nearly the same spread may turn
            torch.testing.assert_close(one.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no process group: call init_process_group first"):
        fitted(distributed=True)
