"""A trained delta on one bias, as a parametrization of it.

torch computes a parametrized tensor whenever it is read. So b + d is used wherever a module, or code
beside it, reads its bias, in whatever formula: a linear layer, a layer norm, DeBERTa's q_bias. A model
with the deltas is the model with the merged biases, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bridges.errors import BadInput
from pets.methods.bitfit.config import BitFitConfig


class BiasDelta(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """The deltas of all adapters for one bias; what is read is bias + sum of the active deltas.

    Args:
        holder: the module with the bias.
        name: what it calls it.
    """

    adapter_layer_names = ("bitfit_delta",)
    # Of peft's mixin, which comes without types.
    active_adapters: list[str]
    merged_adapters: list[str]
    set_adapter: Callable[..., None]

    def __init__(self, holder: nn.Module, name: str) -> None:
        super().__init__()
        self.bitfit_delta = nn.ParameterDict()
        self.merged_adapters = []
        self._name = name
        self._holder = (holder,)  # in a tuple it is no submodule: this module is a part of it
        self._kept: Tensor | None = None  # the base bias while deltas are merged into it

    def get_base_layer(self) -> nn.Module:
        """The module with the bias."""
        return self._holder[0]

    @property
    def original(self) -> Tensor:
        """The bias as the base model holds it."""
        return cast(Tensor, _steps(self.get_base_layer(), self._name).original)

    def update_layer(self, adapter_name: str, config: BitFitConfig) -> None:
        """Add a delta, of the bias's shape, dtype and device."""
        delta = torch.zeros_like(self.original, requires_grad=False)
        if not config.init_weights:
            nn.init.normal_(delta, std=0.02)
        self.bitfit_delta[adapter_name] = nn.Parameter(delta)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, original: Tensor) -> Tensor:
        """The bias to use: same shape and dtype as the original."""
        if self.disable_adapters or self.merged:
            return original
        return self._sum(original, self.active_adapters)

    def _sum(self, bias: Tensor, adapters: list[str]) -> Tensor:
        total = bias
        for name in adapters:
            if name in self.bitfit_delta:
                total = total + self.bitfit_delta[name]
        return total.to(bias.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write bias + deltas into the base model's bias.

        Args:
            safe_merge: refuse a result that is not finite.
            adapter_names: whose deltas; the active ones by default.

        Raises:
            BadInput: with safe_merge, before anything is written.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.bitfit_delta]
        if not names:
            return
        kept = self.original.detach().clone() if self._kept is None else self._kept
        with torch.no_grad():
            total = self._sum(kept.to(self.original.device), [*self.merged_adapters, *names])
            if safe_merge and not total.isfinite().all():
                raise BadInput(f"{self._name} + deltas of {names} is not finite: that adapter is broken")
            self.original.copy_(total)
        self._kept = kept
        self.merged_adapters = [*self.merged_adapters, *names]

    def unmerge(self) -> None:
        """Give the base model its bias back, bit for bit."""
        if self._kept is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        with torch.no_grad():
            self.original.copy_(self._kept)
        self._kept, self.merged_adapters = None, []

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all deltas on or off; merged ones are taken out first, or off would have no effect."""
        if not enabled and self.merged:
            self.unmerge()
        super().enable_adapters(enabled)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        if adapter_name in self.bitfit_delta:
            delta = self.bitfit_delta[adapter_name]
            self.bitfit_delta[adapter_name] = delta.to(device or self.original.device)

    def __repr__(self) -> str:
        return f"bitfit.{type(self).__name__}({self._name}: {', '.join(self.bitfit_delta)})"


def own_biases(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and base values of the biases a module holds itself, with deltas on them or without.

    Raises:
        BadInput: if one of them is the result of somebody else's parametrization.
    """
    for name, parameter in module.named_parameters(recurse=False):
        if _is_bias(name) and parameter.is_floating_point():
            yield name, parameter
    ours = dict(deltas(module))
    for name, delta in ours.items():
        yield name, delta.original
    if parametrize.is_parametrized(module):
        for name in cast(nn.ModuleDict, module.parametrizations):
            if _is_bias(name) and name not in ours:
                raise BadInput(
                    f"{name} of a {type(module).__bases__[0].__name__} is computed by another "
                    "parametrization: remove that one, or leave the module out with exclude_modules"
                )


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith("_bias")


def deltas(module: nn.Module) -> Iterator[tuple[str, BiasDelta]]:
    """The deltas on a module's own biases, by the name of the bias."""
    if parametrize.is_parametrized(module):
        for name in cast(nn.ModuleDict, module.parametrizations):
            first = _steps(module, name)[0]
            if isinstance(first, BiasDelta):
                yield name, first


def _steps(module: nn.Module, name: str) -> Any:
    """The parametrizations of one of a module's tensors; index 0 is the first."""
    return cast(nn.ModuleDict, module.parametrizations)[name]


def attach(module: nn.Module, name: str) -> BiasDelta:
    """Put deltas on the bias ``name`` of a module, none so far."""
    delta, original = BiasDelta(module, name), getattr(module, name)
    # unsafe skips a trial run, which a delta on the meta device would not survive.
    parametrize.register_parametrization(module, name, delta, unsafe=True)
    # peft's low_cpu_mem_usage sends every parameter that is registered now to the meta device.
    _steps(module, name)._parameters["original"] = original
    return delta


def detach(module: nn.Module, name: str) -> None:
    """Take the deltas off; the bias is the parameter it was."""
    # torch deletes the bias from the class it made for this module, which a deepcopy shares.
    cls = type(module)
    own = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(cls.__name__, cls.__bases__, own)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
