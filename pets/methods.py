"""PET methods by name, with the published settings as defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft import LoraConfig, PeftConfig

from bridges.errors import BadInput, unknown

# peft has no masked-LM task type, and without any a tuner's own forward is bypassed.
_TASK_TYPE = "FEATURE_EXTRACTION"


def _lora(r: int = 8, **options: Any) -> LoraConfig:
    """Scale 1 on the query and value projections, which peft knows for each architecture."""
    return LoraConfig(**{"r": r, "lora_alpha": r, "task_type": _TASK_TYPE, **options})


_METHODS: dict[str, Callable[..., PeftConfig]] = {"lora": _lora}


def available() -> list[str]:
    """Names `get` takes, sorted."""
    return sorted(_METHODS)


def get(name: str, **options: Any) -> PeftConfig:
    """The peft config of a method: ``get_peft_model(plm, pets.get("lora", r=8))``.

    Args:
        name: "lora": r 8, scale 1 (lora_alpha follows r), on query and value.
        **options: fields of peft's config class; they replace the defaults.

    Raises:
        BadInput: for an unknown name or an option the method does not have.
    """
    if name not in _METHODS:
        raise unknown("PET", name, _METHODS)
    try:
        return _METHODS[name](**options)
    except (TypeError, ValueError) as error:
        raise BadInput(f"PET {name!r} with {options}: {error}") from error
