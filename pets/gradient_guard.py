"""A look at the first backward pass: which trainable parameters did it leave without a gradient?"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd import Variable
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.hooks import RemovableHandle

from bridges.errors import BadInput

logger = logging.getLogger(__name__)

_SHOWN = 3
_ADVICE = (
    "the model ignores this PET there, so training would not change it: use another PET, or leave "
    "these modules out of its target_modules"
)


class GradientGuard:
    """Watches the forwards of a model until a first backward pass of one of their losses has ended.

    Then it takes its hooks off and says which trainable parameters were left out: with an error where
    they belong to a PET, for a PET that the model does not read is a mistake, and with a logged
    warning elsewhere, for parts of a pretrained model are often unused. A layer of which a numbered
    sibling (another layer, another expert) was reached may have its turn later, so it is a warning too.

    A loop that trains a loss of its own and drops the model's is an error at the next forward.

    A pass that accumulates nothing (`torch.autograd.grad`) does not count. Nothing is watched in a model
    with parts wrapped by FSDP1, whose gradients arrive at flat parameters; FSDP2 is watched.
    """

    def __init__(self) -> None:
        self._done = self._begun = False
        self._reached: set[nn.Parameter] = set()
        self._watched: dict[nn.Parameter, RemovableHandle] = {}
        self._losses: list[RemovableHandle] = []

    def __reduce__(self) -> tuple[type[GradientGuard], tuple[()]]:
        """A copied model's parameters have no hooks yet, so its guard starts from the beginning."""
        return GradientGuard, ()

    def remove(self) -> None:
        """Take every hook off; from now on nothing is watched."""
        for hook in [*self._watched.values(), *self._losses]:
            hook.remove()
        self._done = True
        self._watched, self._losses, self._reached = {}, [], set()

    def watch(self, model: nn.Module, loss: Tensor) -> None:
        """Called at the end of a training forward of the model, with what it returns as its loss."""
        if self._done or not loss.requires_grad:
            return
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            return self.remove()
        names = {p: name for name, p in model.named_parameters() if p.requires_grad and p.is_leaf}
        pet = _pet_parameters(model)  # now: FSDP puts others in their place after the pass
        for parameter in names:
            if parameter not in self._watched:
                # A set adds nothing twice and returns None, as a hook has to.
                self._watched[parameter] = parameter.register_post_accumulate_grad_hook(
                    self._reached.add
                )
        self._losses = [hook for hook in self._losses if hook.hooks_dict_ref() is not None]  # lives yet
        if self._reached and not self._begun and not self._losses:
            raise BadInput(
                "the loop trained another loss than the model's .loss, which holds the running cost, so "
                "the cost had no effect: use output.loss (for TRL's SFTTrainer see examples/sft_trl.py)"
            )
        self._losses.append(loss.register_hook(partial(self._begin, names, pet)))

    def _begin(
        self, names: Mapping[nn.Parameter, str], pet: set[nn.Parameter], gradient: Tensor
    ) -> None:
        self._begun = True
        if not self._done:
            node = torch._C._current_autograd_node()  # that of the loss: it must not be kept any longer
            end = partial(self._end, names, pet, node)
            # Behind what others queued for the end of the pass: there FSDP hands out its last gradients.
            Variable._execution_engine.queue_callback(
                lambda: Variable._execution_engine.queue_callback(end)
            )

    def _end(self, names: Mapping[nn.Parameter, str], pet: set[nn.Parameter], node: Any) -> None:
        if self._done:
            return
        left_out = [p for p in names if p.requires_grad and p not in self._reached]
        if left_out:
            in_graph = _leaves(node)
            if not self._reached and not in_graph.isdisjoint(names):
                return  # torch.autograd.grad
            # backward(inputs=...) passes by what it could have reached.
            left_out = [p for p in left_out if p not in in_graph]
        self.remove()
        if left_out:
            _report(names, pet, left_out)


def _leaves(node: Any) -> set[Tensor]:
    """The leaf tensors that a node of an autograd graph leads to."""
    found, seen, waiting = set(), {node}, [node]
    while waiting:
        current = waiting.pop()
        if current is None:
            continue
        if hasattr(current, "variable"):
            found.add(current.variable)
        fresh = {following for following, _ in current.next_functions} - seen
        seen |= fresh
        waiting.extend(fresh)
    return found


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


def _pet_parameters(model: nn.Module) -> set[nn.Parameter]:
    found: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, PeftModel):
            parts = [getattr(module, "prompt_encoder", None)]
        elif isinstance(module, BaseTunerLayer):
            parts = [getattr(module, name, None) for name in module.adapter_layer_names]
        else:
            continue
        for part in parts:
            if isinstance(part, nn.Module):
                found.update(part.parameters())
            elif isinstance(part, nn.Parameter):
                found.add(part)
    return found


def _kind(name: str) -> str:
    """A parameter's path without the numbers of layers and experts."""
    return re.sub(r"\.\d+(?=\.)", "", name)


def _shorten(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
