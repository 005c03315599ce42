"""Putting adapters into a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from bridges.errors import BadInput
from pets.methods.adapter.config import AdapterConfig
from pets.methods.adapter.layer import NO_MERGE, AdapterLayer
from pets.methods.modules import ADAPTER_SITES, SITES, adapter_pattern, is_projection, projections
from pets.methods.tuner import Tuner


class AdapterModel(Tuner):
    """Bottleneck adapters on the linear layers an `AdapterConfig` names; see there for the formulas."""

    prefix = "bottleneck_"  # "adapter_" is part of parameter names in some base models
    tuner_layer_cls = AdapterLayer
    target_module_mapping = {name: adapter_pattern(name, SITES) for name in ADAPTER_SITES}  # noqa: RUF012

    def _prepare_adapter_config(
        self, peft_config: AdapterConfig, model_config: dict[str, Any]
    ) -> AdapterConfig:
        if peft_config.target_modules is None:
            model_type = str(model_config.get("model_type"))
            pattern = adapter_pattern(model_type, peft_config.sites or SITES)
            if pattern is None:
                raise BadInput(
                    f"no default adapter sites for {type(self.model).__name__} ({model_type}): pass "
                    "target_modules, the output projections of attention and feed-forward, out of: "
                    f"{projections(self.model)} (known architectures: {', '.join(ADAPTER_SITES)})"
                )
            peft_config.target_modules, peft_config.sites = pattern, None
        return peft_config

    def _prepare_model(self, peft_config: AdapterConfig, model: nn.Module) -> None:
        """Refuse modules that cannot carry an adapter before the first one is replaced."""
        for key, module in model.named_modules():
            if not key or not self._check_target_module_exists(peft_config, key):
                continue
            base = module.get_base_layer() if isinstance(module, AdapterLayer) else module
            if not is_projection(base):
                raise BadInput(
                    f"target module {key} is a {type(base).__name__}, and an adapter goes on a linear "
                    f"layer: choose target_modules out of: {projections(model)}"
                )

    def _create_and_replace(
        self,
        peft_config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, AdapterLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = AdapterLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter waits until it is made active
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise BadInput(NO_MERGE)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: the adapters' functions can be summed, their weights cannot.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            "weighted sums of adapters have no meaning, as they are not linear in their weights: "
            "activate several at once with base_model.set_adapter([...])"
        )
