"""Which biases BitFit trains, and putting its deltas on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from bridges.errors import BadInput
from pets.methods.bitfit.config import BitFitConfig
from pets.methods.bitfit.layer import BiasDelta, attach, deltas, detach, own_biases
from pets.methods.tuner import Tuner


def find_biases(model: nn.Module, config: BitFitConfig) -> dict[str, list[str]]:
    """The biases that a config selects: by the path of the module that holds them, their names there.

    Raises:
        BadInput: if there is none, or an entry of target_modules has none.
    """
    transformer = model.base_model if isinstance(model, PreTrainedModel) else model
    inside = {id(module) for module in transformer.modules()}
    everywhere = config.head_transform or config.target_modules is not None
    vocabulary = _vocabulary_sizes(model)
    biases = {}
    for key, module in model.named_modules():
        if not key or ".parametrizations" in key or not (everywhere or id(module) in inside):
            continue
        if not _chosen(config, key):
            continue
        outside = transformer is model or id(module) not in inside
        names = [
            name
            for name, bias in own_biases(module)
            if not (outside and bias.dim() == 1 and len(bias) in vocabulary)
        ]
        if names:
            biases[key] = names
    wanted = config.target_modules if isinstance(config.target_modules, (set, list)) else ()
    idle = [t for t in wanted if not any(key == t or key.endswith(f".{t}") for key in biases)]
    if idle or (config.target_modules is not None and not biases):
        raise BadInput(
            f"target_modules {sorted(idle) or config.target_modules!r}: no bias there outside the "
            "vocabulary head; leave target_modules out to train every bias of the transformer"
        )
    if not biases:
        raise BadInput(
            f"{type(model).__name__} has no bias outside its vocabulary head, so BitFit has nothing to "
            "train: use pets.get('lora') or pets.get('adapter')"
        )
    return biases


def _chosen(config: BitFitConfig, key: str) -> Any:
    """peft on a path: without target_modules, all but the excluded and those saved whole."""
    rule = dataclasses.replace(config, target_modules=config.target_modules or ".*")
    return check_target_module_exists(rule, key)


def _vocabulary_sizes(model: nn.Module) -> set[int]:
    """Lengths that a bias of the vocabulary head can have; none where there is no such head."""
    head: Any = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if head is None:
        return set()
    # The head's bias may sit beside its weight, and DeBERTa's newer head calls the [H, H] dense layer
    # below its output embeddings: so a bias is known by its length.
    words = cast(PreTrainedModel, model).get_input_embeddings()
    rows, columns = head.weight.shape
    return {len(cast(torch.Tensor, words.weight)), *([rows] if rows != columns else [])}


class BitFitModel(Tuner):
    """Trained deltas on the biases a `BitFitConfig` selects."""

    prefix = "bitfit_"
    tuner_layer_cls = BiasDelta
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - found in the model, not in a table

    def _prepare_adapter_config(
        self, peft_config: BitFitConfig, model_config: dict[str, Any]
    ) -> BitFitConfig:
        return peft_config

    def _prepare_model(self, peft_config: BitFitConfig, model: nn.Module) -> None:
        self._biases = find_biases(model, peft_config)

    def _check_target_module_exists(self, peft_config: BitFitConfig, key: str) -> Any:
        return _chosen(peft_config, key) and key in self._biases

    def _create_and_replace(
        self,
        peft_config: BitFitConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        there = dict(deltas(target))
        for name in self._biases[current_key]:
            delta = there.get(name) or attach(target, name)
            if name not in there:
                delta.set_adapter(self.active_adapters)
            delta.update_layer(adapter_name, peft_config)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        pairs = [(module, dict(deltas(module))) for module in self.model.modules()]
        if merge:
            for _, there in pairs:
                for delta in there.values():
                    delta.merge(safe_merge, adapter_names)
        for module, there in pairs:
            for name in there:
                detach(module, name)
        # The base class does the rest: modules saved whole, and its own records on the model.
        base: nn.Module = super()._unload_and_optionally_merge(
            merge, progressbar, safe_merge, adapter_names
        )
        return base

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str
    ) -> None:
        """A new adapter, not active, whose deltas are the weighted sums of others' deltas.

        Args:
            adapters: names of adapters on this model.
            weights: one for each.
            adapter_name: what the new one is called.

        Raises:
            BadInput: if a name is unknown or taken, the numbers of names and weights differ, or the
                adapters are on different biases.
        """
        missing = [name for name in adapters if name not in self.peft_config]
        if missing or not adapters or len(adapters) != len(weights):
            raise BadInput(
                f"adapters={list(adapters)}, weights={list(weights)}: expected a weight for each, and "
                f"names out of {sorted(self.peft_config)}"
            )
        if adapter_name in self.peft_config:
            raise BadInput(f"there is already an adapter {adapter_name!r}: choose another name")
        layers = [m for m in self.model.modules() if isinstance(m, BiasDelta)]
        if any(len({name in layer.bitfit_delta for name in adapters}) > 1 for layer in layers):
            raise BadInput(
                f"the adapters {list(adapters)} are on different biases: their sum has no config"
            )
        self.peft_config[adapter_name] = dataclasses.replace(self.peft_config[adapters[0]])
        self.inject_adapter(self.model, adapter_name)
        self._cast_adapter_dtype(adapter_name)
        with torch.no_grad():
            for layer in layers:
                if adapter_name in layer.bitfit_delta:
                    there = layer.bitfit_delta
                    total = sum(w * there[n].float() for n, w in zip(adapters, weights, strict=True))
                    there[adapter_name].copy_(total)
