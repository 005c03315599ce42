"""A model's base weights, wherever they lie: under a PET, sharded, partitioned, offloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from bridges.errors import BadInput

# What a wrapper calls the module that it stands for: peft, FSDP1, torch.compile, checkpointing.
_WRAPPED = ("base_layer", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")


def pretrained_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside ``model``: itself, or what a wrapper (peft, DDP) holds.

    Raises:
        BadInput: if there is none.
    """
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, PreTrainedModel):
            return module
    raise BadInput(
        f"{type(model).__name__} holds no transformers model: expected a PreTrainedModel or a module "
        "that wraps one"
    )


def device_of(model: nn.Module) -> torch.device:
    """Where inputs go: to the parameters. Offloaded ones are on no device: the model sends inputs on."""
    places = (p.device for p in model.parameters() if not p.is_meta)
    return next(places, torch.device("cpu"))


class Weight(NamedTuple):
    """A parameter or a persistent buffer.

    Attributes:
        name: the one it has without PETs and wrappers.
        value: whole, detached.
        is_parameter: whether it is one.
        adapted: whether a PET's layer stands in its place.
    """

    name: str
    value: Tensor
    is_parameter: bool
    adapted: bool


def base_weights(
    module: nn.Module, *, trained: bool = False, without: nn.Module | None = None
) -> Iterator[Weight]:
    """All base weights under a module, tied ones once; each is whole until the next one is asked for.

    Sharded and partitioned ones are gathered, so every process has to ask; see also `unsharded`.

    Args:
        module: a transformers model, or part of one.
        trained: copies that a PET trains and saves (`modules_to_save`) stand for what they replace.
        without: a part of it that is left out, such as its head.

    Raises:
        BadInput: for weights that are not there: on the meta device, or left empty by ZeRO-3.
    """
    return _Walk(trained, without).through(module, "", adapted=False)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """For the time of the block parameters that FSDP1 has flattened are themselves again."""
    if any(isinstance(part, FullyShardedDataParallel) for part in model.modules()):
        # Nothing is written back, so the shards keep their bits.
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            yield
    else:
        yield


def whole_weight(module: nn.Module) -> Tensor:
    """The ``weight`` of a module, as `base_weights` has it, in the memory of the caller.

    Raises:
        BadInput: as there.
    """
    with _there(module):
        value: Any = module.weight
        whole = _whole(value, type(module).__name__)
        # What is gathered or loaded for a moment is gone after it.
        return whole.clone() if isinstance(value, DTensor) or _is_away(module) else whole


class _Walk:
    """Through a tree of modules, with the names that they have without PETs and wrappers."""

    def __init__(self, trained: bool, without: nn.Module | None) -> None:
        self._trained, self._without = trained, without
        self._seen: set[int] = set()

    def through(self, module: nn.Module, path: str, *, adapted: bool) -> Iterator[Weight]:
        if module is self._without:
            return
        children = dict(module.named_children())
        inner = _wrapped(module, children)
        if inner is not None:
            yield from self.through(inner, path, adapted=adapted or inner is children.get("base_layer"))
        elif "original_module" in children:
            inner = _in_use(module) if self._trained else children["original_module"]
            yield from self.through(inner, path, adapted=adapted)
        else:
            yield from self._own(module, path, adapted)
            computed = children.pop("parametrizations", None)  # parameters made from their originals
            for name, part in computed.named_children() if computed is not None else ():
                for weight in self._own(part, "", True):
                    end = weight.name.removeprefix("original")
                    yield weight._replace(name=f"{path}{name}{end and f'.{end}'}")
            for name, child in children.items():
                yield from self.through(child, f"{path}{name}.", adapted=adapted)

    def _own(self, module: nn.Module, path: str, adapted: bool) -> Iterator[Weight]:
        """The module's own weights, not those of its children."""
        buffers = dict(module.named_buffers(recurse=False))
        if buffers:  # those that are not stored are made from the config
            stored = module.state_dict().keys()
            buffers = {name: buffer for name, buffer in buffers.items() if name in stored}
        own = {**dict(module.named_parameters(recurse=False)), **buffers}
        fresh = [name for name, tensor in own.items() if id(tensor) not in self._seen]
        if not fresh:
            return
        self._seen.update(id(own[name]) for name in fresh)
        with _there(module):
            for name in fresh:
                value = _whole(getattr(module, name), path + name)
                yield Weight(path + name, value, name not in buffers, adapted)


def _wrapped(module: nn.Module, children: dict[str, nn.Module]) -> nn.Module | None:
    """The module that this one is put around, if it is a wrapper."""
    if hasattr(module, "adaption_prompt"):  # peft's wrapper of an attention has a name of its own for it
        return children.get("model")
    return next((children[name] for name in _WRAPPED if name in children), None)


def _in_use(wrapper: Any) -> nn.Module:
    """What runs in the place of a module: the copy that the active PET trains, else the module."""
    copies = dict(wrapper.named_children()).get("modules_to_save")
    if isinstance(copies, nn.ModuleDict) and not getattr(wrapper, "disable_adapters", False):
        for name in getattr(wrapper, "active_adapters", ()):
            if name in copies:
                return copies[name]
    original: nn.Module = wrapper.original_module
    return original


def _whole(tensor: Tensor, name: str) -> Tensor:
    whole = tensor.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor()
    if whole.is_meta:
        raise BadInput(
            f"{name} is on the meta device, and nothing says where its numbers are: load the weights "
            "first"
        )
    if whole.shape == (0,) and isinstance(tensor, nn.Parameter):
        raise BadInput(
            f"{name} is empty, as DeepSpeed ZeRO-3 leaves what it partitions, and cannot be gathered "
            "here: make the cost, and call pets.regularize, inside "
            "deepspeed.zero.GatheredParameters(list(model.parameters()))"
        )
    return whole


def _is_away(module: nn.Module) -> bool:
    """Whether some of its own weights lie elsewhere: offloaded by Accelerate, or partitioned."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(t.is_meta or (hasattr(t, "ds_id") and not t.numel()) for t in own)


@contextmanager
def _there(module: nn.Module) -> Iterator[None]:
    """For the time of the block the module's own weights are loaded or gathered, where that is known."""
    if not _is_away(module):
        yield
        return
    partitioned = [p for p in module.parameters(recurse=False) if hasattr(p, "ds_id")]
    if partitioned:
        try:
            deepspeed = import_module("deepspeed")
        except ImportError:
            yield
            return
        with deepspeed.zero.GatheredParameters(partitioned):
            yield
        return
    from accelerate.utils import align_module_device  # slow to import, and seldom needed

    with align_module_device(module):
        yield
