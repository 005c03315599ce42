"""A linear layer with bottleneck adapters on it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bridges.errors import BadInput
from pets.methods.adapter.config import AdapterConfig

NO_MERGE = (
    "an adapter computes y + up(activation(down(.))), which no weight of the base model can hold, so it "
    "cannot be merged: keep it on the model, or unload() to have the base model back"
)


class AdapterLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """Wraps a linear layer [..., in] -> [..., out]; every active adapter adds its own term.

    With several active ones, all read the base layer's input or output and their terms are summed: the
    order does not matter, and none sees another.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_activation", "bottleneck_dropout", "placement", "scaling")
    # Of peft's mixin, which comes without types.
    active_adapters: list[str]
    get_base_layer: Callable[[], Any]
    set_adapter: Callable[..., None]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_activation = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.placement: dict[str, str] = {}
        self.scaling: dict[str, float] = {}
        inner = self.get_base_layer()
        if isinstance(inner, nn.Linear):
            self.in_features, self.out_features = inner.in_features, inner.out_features
        else:  # Conv1D keeps its weight as [in, out]
            self.in_features, self.out_features = inner.weight.shape
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: AdapterConfig) -> None:
        """Add an adapter, on the device and in the dtype of the base layer."""
        width = self.in_features if config.placement == "parallel" else self.out_features
        dtype = self.get_base_layer().weight.dtype
        dtype = dtype if dtype.is_floating_point else None  # quantised: torch's default
        self.bottleneck_down[adapter_name] = nn.Linear(width, config.r, dtype=dtype)
        self.bottleneck_up[adapter_name] = nn.Linear(config.r, self.out_features, dtype=dtype)
        self.bottleneck_activation[adapter_name] = ACT2FN[config.activation]
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.placement[adapter_name] = config.placement
        self.scaling[adapter_name] = config.scaling
        self.reset_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset_parameters(self, adapter_name: str, identity: bool) -> None:
        """Random down; up zero, so that the layer computes what its base layer does."""
        down, up = self._pair(adapter_name)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.bias)
        if identity:
            nn.init.zeros_(up.weight)
        else:
            nn.init.kaiming_uniform_(up.weight, a=math.sqrt(5))

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        # The base class would cast to the base layer's dtype too, also what was loaded in float32.
        for module in self._pair(adapter_name) if adapter_name in self.bottleneck_down else ():
            if not module.weight.is_meta:
                module.to(device or self.get_base_layer().weight.device)

    def _pair(self, adapter_name: str) -> tuple[nn.Linear, nn.Linear]:
        down, up = self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name]
        return cast(nn.Linear, down), cast(nn.Linear, up)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Not possible.

        Raises:
            BadInput: always.
        """
        raise BadInput(NO_MERGE)

    def unmerge(self) -> None:
        """Nothing to do, as nothing can be merged."""
        warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] -> [..., out]."""
        base: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return base
        result = base
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down, up = self._pair(name)
            read = x if self.placement[name] == "parallel" else base
            hidden = self.bottleneck_activation[name](
                down(self._cast_input_dtype(read, down.weight.dtype))
            )
            term = up(self.bottleneck_dropout[name](hidden))
            result = torch.add(result, term.to(base.dtype), alpha=self.scaling[name])
        return result

    def __repr__(self) -> str:
        return "adapter." + super().__repr__()
