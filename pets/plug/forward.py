"""A model's forward with a running cost: its states are kept and read, the cost is added to its loss."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig
from torch import nn
from torch.utils.hooks import RemovableHandle

from bridges import RunningCost
from bridges.model.forward import states_of
from bridges.model.probe import is_probing
from bridges.model.spec import encoder_of, pretrained_model
from pets.methods.prompts import check_not_checkpointed
from pets.plug import calls
from pets.plug.calls import Call, Told, random_kept
from pets.plug.entry import enter, leave
from pets.plug.guard import GradientGuard
from pets.plug.labels import behind_prompt, label_targets
from pets.plug.loss_scale import OF_LOSSES, LossScale
from pets.plug.outputs import declared, drop_states, note
from pets.plug.placed_cost import PlacedCost
from pets.plug.refusals import check_not_bypassed, check_states, loss_of
from pets.tasks.verbalizer import Verbalizer


class Forward:
    """What a forward of a model passes through while a running cost is plugged into it.

    Nothing of one forward is kept here: calls in other threads and of replicas do not meet.

    Args:
        model, cost, verbalizer, in_eval, into_loss: see `regularize`.

    Attributes:
        weight: factor of the running cost in the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        cost: RunningCost,
        verbalizer: Verbalizer | None,
        *,
        in_eval: bool,
        into_loss: bool,
    ) -> None:
        self.weight = 1.0
        self._model = model
        self._in_eval, self._into_loss = in_eval, into_loss
        self._encoder_decoder = cost.spec.encoder_decoder
        self._plm = pretrained_model(model)
        # Where the states come from; the language model itself where no module is all but its head.
        self._encoder = encoder_of(self._plm)
        self._placed = PlacedCost(cost, label_targets(model, self._plm, cost, verbalizer))
        self._peft = [module for module in model.modules() if isinstance(module, PeftModel)]
        self._guard = GradientGuard(into_loss)
        self._scale = LossScale(self)
        self._names = list(inspect.signature(self._encoder.forward).parameters)
        self._hooks: list[RemovableHandle] = []
        self._entered: list[nn.Module] = []

    @property
    def cost(self) -> RunningCost:
        """The running cost; see `PlacedCost.cost`."""
        return self._placed.cost

    @cost.setter
    def cost(self, cost: RunningCost) -> None:
        self._placed.cost = cost

    def attach(self) -> None:
        """From now on the model's forwards pass through here."""
        if self._encoder is not self._plm:
            self._hooks = [
                self._encoder.register_forward_pre_hook(self._before_encoder, with_kwargs=True),
                self._encoder.register_forward_hook(self._after_encoder, with_kwargs=True),
            ]
        self._entered = list(dict.fromkeys((self._model, self._plm)))
        for module in self._entered:
            enter(module, self)

    def detach(self) -> None:
        """The model is as it was before."""
        for hook in self._hooks:
            hook.remove()
        for module in self._entered:
            leave(module)
        self._hooks, self._entered = [], []
        self._guard.remove()

    def run(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """A forward of a module that was entered; the outermost one adds the cost.

        Args:
            module: the model, or a replica of it, or the language model inside.
            forward: its own.
            args, kwargs: as it was called.
        """
        if not torch.compiler.is_compiling() and is_probing():
            return forward(*args, **kwargs)
        if type(module) is type(self._plm):
            kwargs = self._lengthened(kwargs)
        around = Call.of(self)
        if around is not None:
            around.inner = Told(module, args, kwargs)
            return self._own(module, forward, args, kwargs)
        if not (module.training or self._in_eval):
            return note(forward(*args, **kwargs), None)
        if module.training and (self._peft or not self._guard.done):
            self._before_training(module)
        asked = kwargs.get("output_hidden_states") or self._plm.config.output_hidden_states
        call = Call(self, keeps_states=bool(asked))
        above = calls.enter(call)
        try:
            output = self._own(module, forward, args, kwargs)
        finally:
            calls.leave(above)
        return self._add(module, forward, call, args, kwargs, output)

    def _own(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """The module's own forward; where it has to, it is the encoder."""
        if self._encoder is not self._plm or type(module) is not type(self._plm):
            return forward(*args, **kwargs)
        args, kwargs = self._before_encoder(module, args, kwargs)
        output = forward(*args, **kwargs)
        self._after_encoder(module, args, kwargs, output)
        return output

    def _lengthened(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """peft puts a soft prompt before the input but leaves a masked LM's labels as they were."""
        embeds, labels = kwargs.get("inputs_embeds"), kwargs.get("labels")
        if embeds is None or labels is None or labels.dim() != 2:  # in eval mode too: it computes a loss
            return kwargs
        if self._encoder_decoder:  # the prompt is the encoder's, the labels the decoder's
            return kwargs
        return {**kwargs, "labels": behind_prompt(labels, embeds.shape[1])}

    def _before_encoder(self, encoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if Call.of(self) is not None:
            if len(args) > 1:  # by name, so that none of them is given twice
                named = dict(zip(self._names, args, strict=False))
                args, kwargs = (), {**named, **kwargs}
            return args, {**kwargs, "output_hidden_states": True, "return_dict": True}
        if encoder.training and torch.is_grad_enabled():
            check_not_bypassed(self._plm)
        return None

    def _after_encoder(self, encoder: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call = Call.of(self)
        if call is None:
            return
        call.times += 1
        call.of_decoder = getattr(output, "decoder_hidden_states", None) is not None
        call.hidden = states_of(output)
        call.last = getattr(output, "last_hidden_state", None)
        call.told = Told(encoder, args, kwargs)
        if not call.keeps_states:
            # Taken out here, they are neither returned nor copied to fp32 by Accelerate.
            drop_states(output)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_training(self, module: nn.Module) -> None:
        self._guard.look()
        if any(
            isinstance(model.peft_config.get(model.active_adapter), PrefixTuningConfig)
            for model in self._peft
        ):
            check_not_checkpointed(module)  # the Trainer turns it on after everything was made

    # Outside a compiler's graph, which the cost would break into a dozen pieces.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _add(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        call: Call,
        args: Any,
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        # The language model's labels are those that its loss was made of, and it alone knows positions
        # that a PET has moved; what a module around it was called with counts where it was not called.
        outer = Told(module, args, kwargs).by_name()
        inner = call.inner.by_name() or outer
        of_outer = {name: outer[name] for name in OF_LOSSES if name in outer}
        given = inner if "labels" in inner else {**inner, **of_outer}
        if "labels" not in given and not (module.training and torch.is_grad_enabled()):
            return note(output, None)  # nothing is trained: generation, a reference, a prediction
        loss = loss_of(output, module, self._encoder, given, call)
        assert call.hidden is not None
        counts = bool(self.weight) or not self._into_loss
        if counts and module.training and torch.is_grad_enabled():
            check_states(call.hidden)
        # With weight 0 nothing in training may change, not even the random numbers.
        with contextlib.nullcontext() if counts else random_kept(call.hidden[0].device):
            costs = self._placed.costs(call, given, getattr(output, "logits", None))
        self._scale.note(has_target=len(costs) > 0, training=module.training)
        value = term = costs.mean() if len(costs) else costs.sum()
        if counts:
            term = self._scale(costs, forward, args, kwargs)
        if not self._into_loss:
            value = term.to(loss.device)
        elif self.weight and len(costs):
            # Weighed as it is: in fp16 the cost alone may be out of range.
            output["loss"] = loss + (self.weight * term).to(loss.device, loss.dtype)
        if self._into_loss or not module.training:
            value = value.detach()
        if not module.training:
            return note(output, value)
        if len(costs) and counts:
            self._guard.watch(self._model, output["loss"], term)
        output["running_cost"] = value
        return declared(output)
