"""What a fit is given, whatever reads the states: texts, costs that go together, dtypes, strengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer
from torch import nn

import bridges
from bridges import BadInput, LensSettings, RunningCost

TOKENIZER = tiny_tokenizer()
SHORT: dict[str, Any] = {"batch_size": 8, "held_out": 12, "max_length": 16, "progress": False}
BY_STEPS: dict[str, Any] = {**SHORT, "max_steps": 3}
OPTIONS = {"mlp": BY_STEPS, "lens": SHORT}


def new_cost(model: nn.Module, map_name: str, **options: Any) -> RunningCost:
    return RunningCost.for_model(model, map=map_name, latent_dim=8, **options)


@pytest.mark.parametrize("map_name", OPTIONS)
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text whose letters are none", "expected several texts"),
        (None, "texts=None: expected several texts"),
        (5, "texts=5: expected several texts"),
        ([*TEXTS, None], "item 60 of texts is None: expected a text"),
        ([b"bytes"], "item 0 of texts is b'bytes': expected a text"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(map_name: str, texts: Any, message: str) -> None:
    model = tiny_bert()
    with pytest.raises(BadInput, match=message):
        new_cost(model, map_name).fit(model, TOKENIZER, texts, **OPTIONS[map_name])


@pytest.mark.parametrize("map_name", OPTIONS)
def test_costs_that_read_other_states_are_not_fitted_together(map_name: str) -> None:
    """One batch has one kind of targets: the other cost would see its answers."""
    model = tiny_llama()
    costs = [new_cost(model, map_name, reads=reads) for reads in ("next", "same")]
    with pytest.raises(BadInput, match="read 'next' and 'same' cannot be fitted together"):
        bridges.fit_together(costs, model, TOKENIZER, TEXTS, **OPTIONS[map_name])


@pytest.mark.parametrize("map_name", OPTIONS)
def test_a_state_is_of_one_way_of_reading(map_name: str, tmp_path: Path) -> None:
    model = tiny_bert()
    same, after = (new_cost(model, map_name, reads=reads) for reads in ("same", "next"))
    same.fit(model, TOKENIZER, TEXTS, folder=tmp_path, **OPTIONS[map_name])
    with pytest.raises(BadInput, match="reads 'same' there, 'next' here"):
        after.fit(model, TOKENIZER, TEXTS, folder=tmp_path, **OPTIONS[map_name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cost_of_any_dtype_asks_the_head(dtype: torch.dtype) -> None:
    model = tiny_bert()
    usual, other = new_cost(model, "lens"), new_cost(model, "lens").to(dtype)
    for cost in (usual, other):
        cost.fit(model, TOKENIZER, TEXTS, targets="head", ridge=0.01, **SHORT)
    weight, expected = other.latent_map.weight, usual.latent_map.weight
    assert isinstance(weight, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert weight.dtype == dtype
    torch.testing.assert_close(weight.float(), expected.detach(), rtol=0.02, atol=0.02)


def test_a_strength_that_leaves_rounding_over_nothing_is_refused() -> None:
    """A text of few tokens has no spread along most of H: 1e-300 made the weights infinite."""
    with pytest.raises(BadInput, match="ridge=1e-300: expected a number from 1e-12"):
        LensSettings(ridge=1e-300)
    model = tiny_bert()
    result = new_cost(model, "lens").fit(model, TOKENIZER, TEXTS, ridge=1e-12, max_tokens=10, **SHORT)
    assert torch.tensor(result.held_out).isfinite().all()


def test_the_smallest_share_of_targets_is_a_number() -> None:
    """It bounds how much text is read, and their quotient is beyond the floats."""
    settings = LensSettings(mask_share=1e-300, max_tokens=2**31 - 1)
    assert settings.most_tokens >= 2**53


def test_a_fit_of_an_adapted_lens_leaves_no_word_of_the_adaptation() -> None:
    model = tiny_bert()
    once, again = new_cost(model, "lens"), new_cost(model, "lens")
    once.fit(model, TOKENIZER, TEXTS, **SHORT)
    again.options["adapted"] = "12 examples"
    again.fit(model, TOKENIZER, TEXTS, **SHORT)
    assert again.config() == once.config()
