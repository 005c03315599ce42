"""A look at the first backward pass: did it reach the running cost, and every trainable parameter?"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.hooks import RemovableHandle

from bridges.errors import BadInput
from pets.plug.around_steps import before_steps

logger = logging.getLogger(__name__)

_SHOWN = 3
_ADVICE = (
    "the model ignores this PET there, so training would not change it: use another PET, or leave "
    "these modules out of its target_modules"
)
_DROPPED = (
    "the loop trained another loss than the model's .loss, which holds the running cost, so the cost "
    "had no effect: use output.loss (for TRL's SFTTrainer see examples/sft_trl.py), or plug it in with "
    "pets.regularize(..., into_loss=False) and add weight * output.running_cost to your own"
)
_DROPPED_TERM = (
    "the loop trained a loss without output.running_cost, so the cost had no effect: add "
    "weight * output.running_cost to it, or leave into_loss=False out of pets.regularize"
)
_CUT_OFF = (
    "the first backward pass reached the loss and no trainable parameter: no gradient comes through the "
    "model (a kernel for inference hands none on, such as bitsandbytes' of 4 bits on some CPUs once "
    "the model ran in eval mode: load it anew and train it first, or leave quantisation out there)"
)


class GradientGuard:
    """Watches the forwards of a model until a first backward pass through them has ended.

    The end shows at the next step of an optimiser that holds a parameter, or at the next forward. Then
    the guard takes its hooks off and says which trainable parameters were left out: with an error where
    they belong to a PET, for a PET that the model does not read is a mistake, and with a logged
    warning elsewhere, for parts of a pretrained model are often unused. A layer of which a numbered
    sibling (another layer, another expert) was reached may have its turn later, so it is a warning too.

    A pass that did not reach the running cost is an error: the loop trains a loss without it. So is one
    that reached it and no parameter.

    A pass that accumulates nothing (`torch.autograd.grad`) does not count, nor does an adapter that is
    not active. Nothing is watched in a model with parts wrapped by FSDP1, whose gradients arrive at
    flat parameters; FSDP2 is watched.

    Args:
        into_loss: whether the cost is part of the model's loss.
    """

    def __init__(self, into_loss: bool = True) -> None:
        self._into_loss = into_loss
        self._done = False
        self._names: dict[nn.Parameter, str] = {}
        self._pet: set[nn.Parameter] = set()
        self._connected: set[Tensor] = set()
        self._reached: set[nn.Parameter] = set()
        self._term_reached = False
        self._hooks: list[RemovableHandle] = []

    def __reduce__(self) -> tuple[type[GradientGuard], tuple[bool]]:
        """A copied model's parameters have no hooks yet, so its guard starts from the beginning."""
        return GradientGuard, (self._into_loss,)

    def remove(self) -> None:
        """Take every hook off; from now on nothing is watched."""
        for hook in self._hooks:
            hook.remove()
        self._done = True
        self._hooks = []
        self._names, self._pet, self._connected, self._reached = {}, set(), set(), set()

    @property
    def done(self) -> bool:
        """Whether there is nothing left to watch."""
        return self._done

    def watch(self, model: nn.Module, loss: Tensor, term: Tensor) -> None:
        """Called at the end of a training forward of the model.

        Args:
            loss: what it returns as such.
            term: the running cost that was added to it, or is to be.
        """
        if self._done or not term.requires_grad:
            return
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            return self.remove()
        active, inactive = _pet_parameters(model)
        self._pet |= active
        if not self._hooks:
            self._hooks.append(before_steps(self._before_step))
        for name, parameter in model.named_parameters():
            watched = parameter.requires_grad and parameter.is_leaf and parameter not in inactive
            if watched and parameter not in self._names:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._reach))
            if watched:
                self._names[parameter] = name
        # backward(inputs=...) passes by what it could have reached.
        self._connected |= _leaves(loss.grad_fn) | _leaves(term.grad_fn)
        self._hooks.append(term.register_hook(self._reach_term))

    def look(self) -> None:
        """Has a backward pass ended? Called before every training forward.

        Raises:
            BadInput: for a pass that left out the cost, or parameters of a PET.
        """
        if self._done or not self._has_ended():
            return
        if not self._term_reached:
            self._reached.clear()
            raise BadInput(_DROPPED if self._into_loss else _DROPPED_TERM)
        names, pet = self._names, self._pet
        reached = self._reached | self._connected
        left_out = [p for p in names if p.requires_grad and p not in reached]
        self.remove()
        if left_out:
            _report(names, pet, left_out)

    def _has_ended(self) -> bool:
        """Whether a pass has accumulated gradients, or could not have for want of parameters."""
        cut_off = self._term_reached and self._connected.isdisjoint(self._names)
        return bool(self._reached) or cut_off

    def _reach(self, parameter: Any) -> None:
        # torch calls this too where no gradient came.
        if parameter.grad is not None:
            self._reached.add(parameter)

    def _reach_term(self, gradient: Tensor) -> None:
        self._term_reached = True

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        held = [p for group in optimizer.param_groups for p in group["params"] if p in self._names]
        if not held:
            return
        # Gradients that the loop took and put there itself have passed by the hooks.
        nothing_came = all(p.grad is None for p in held)
        if self._term_reached and not self._has_ended() and nothing_came:
            self.remove()
            raise BadInput(_CUT_OFF)
        self.look()


def _leaves(node: Any) -> set[Tensor]:
    """The leaf tensors that a node of an autograd graph leads to."""
    leaves, seen, waiting = set(), {node}, [node]
    while waiting:
        current = waiting.pop()
        if current is None:
            continue
        if hasattr(current, "variable"):
            leaves.add(current.variable)
        fresh = {following for following, _ in current.next_functions} - seen
        seen |= fresh
        waiting.extend(fresh)
    return leaves


def _report(
    names: Mapping[nn.Parameter, str], pet: set[nn.Parameter], left_out: Collection[nn.Parameter]
) -> None:
    missing = set(left_out)
    trained_kinds = {_kind(name) for p, name in names.items() if p not in missing}
    ignored = [names[p] for p in left_out if p in pet and _kind(names[p]) not in trained_kinds]
    others = [names[p] for p in left_out if names[p] not in ignored]
    if ignored:
        count = sum(p in pet for p in names)
        raise BadInput(
            f"{len(ignored)} of the PET's {count} trainable tensors got no gradient in the first "
            f"backward pass ({_shorten(ignored)}): {_ADVICE}"
        )
    logger.warning(
        "%d of %d trainable parameters got no gradient in the first backward pass: %s",
        len(others),
        len(names),
        _shorten(others),
    )


def _pet_parameters(model: nn.Module) -> tuple[set[nn.Parameter], set[nn.Parameter]]:
    """The parameters of the PET's active adapters, and those of the others."""
    active: set[nn.Parameter] = set()
    every: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, PeftModel):
            names, parts = module.active_adapters, [getattr(module, "prompt_encoder", None)]
        elif isinstance(module, BaseTunerLayer):
            names = [] if module.disable_adapters else module.active_adapters
            parts = [getattr(module, name, None) for name in module.adapter_layer_names]
        else:
            continue
        for part in parts:
            every.update(_parameters(part))
            if isinstance(part, (nn.ModuleDict, nn.ParameterDict)):
                for name in set(names) & set(part.keys()):
                    active.update(_parameters(part[name]))
            else:
                active.update(_parameters(part))
    return active, every - active


def _parameters(part: Any) -> list[nn.Parameter]:
    if isinstance(part, nn.Parameter):
        return [part]
    return list(part.parameters()) if isinstance(part, nn.Module) else []


def _kind(name: str) -> str:
    """A parameter's path without the numbers of layers and experts."""
    return re.sub(r"\.\d+(?=\.)", "", name)


def _shorten(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
