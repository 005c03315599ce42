"""LoRA, with default targets for the architectures that peft has none for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from peft import LoraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_LORA_TARGETS
from torch import nn

from bridges.errors import LARGEST, BadInput, is_number
from bridges.model.spec import pretrained_model
from pets.methods.base import PET
from pets.methods.modules import projections

# Query and value where peft has no default. ModernBERT computes query, key and value in one projection,
# which a LoRA changes as a whole, like peft's defaults for GPT-2 and DeBERTa.
LORA_TARGETS = {
    "albert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "megatron-bert": ["query", "value"],
    "modernbert": ["Wqkv"],
}


class Lora(PET, name="lora"):
    """Low-rank updates, here of query and value at scale 1: Hu et al., ICLR 2022, arXiv 2106.09685.

    r is 8, and lora_alpha follows r, so that the scale stays 1. peft knows the query and value
    projections of most architectures.
    """

    config_class = LoraConfig
    settings: ClassVar[Mapping[str, Any]] = {"r": 8}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        alpha, dropout = options.get("lora_alpha", 1), options.get("lora_dropout", 0)
        if not is_number(alpha) or not 0 < alpha <= LARGEST:
            raise self.refused("lora_alpha", "a number above 0")
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise self.refused("lora_dropout", "a number in [0, 1)")

    def on(self, model: nn.Module) -> dict[str, Any]:
        if self.options.get("target_modules") is None:
            check_lora(model)
        return super().on(model)

    def filled(self, options: dict[str, Any]) -> dict[str, Any]:
        filled = super().filled(options)
        return {"lora_alpha": filled["r"], **filled}


def add_lora_targets() -> None:
    """Give peft's table of LoRA defaults the architectures it lacks; its own entries stay.

    A `LoraConfig` then finds its modules in `get_peft_model` as for any other architecture and writes
    them into its file, which loads without this package.
    """
    for model_type, names in LORA_TARGETS.items():
        PEFT_LORA_TARGETS.setdefault(model_type, names)


def check_lora(model: nn.Module) -> None:
    """Refuse a LoRA without targets where peft knows none.

    Raises:
        BadInput: naming the linear layers there are.
    """
    plm = pretrained_model(model)
    model_type = plm.config.model_type
    if model_type not in PEFT_LORA_TARGETS:
        raise BadInput(
            f"no default LoRA targets for {type(plm).__name__} ({model_type}): pass target_modules, the "
            f"query and value projections, out of: {projections(plm)}"
        )


add_lora_targets()
