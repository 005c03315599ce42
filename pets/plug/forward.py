"""A model's forward with a running cost: its states are kept and read, the cost is added to its loss."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bridges import BadInput, RunningCost
from bridges.model.forward import states_of
from bridges.model.probe import is_probing
from bridges.model.spec import encoder_of, pretrained_model
from pets.methods.prompts import check_not_checkpointed
from pets.plug import calls
from pets.plug.calls import Call, Told
from pets.plug.entry import enter, leave
from pets.plug.guard import GradientGuard
from pets.plug.labels import behind_prompt, label_targets
from pets.plug.loss_scale import LABELS, LossScale
from pets.plug.meter import TASK, Meter, weight_name
from pets.plug.outputs import declared, drop_states, note
from pets.plug.placed_cost import PlacedCost, says_where
from pets.plug.refusals import check_not_bypassed, loss_of
from pets.plug.running import Running, Value, given_of
from pets.plug.steps import Steps
from pets.plug.terms import Term, weighed
from pets.plug.trainer import UnderTrainer
from pets.plug.view import view_of
from pets.tasks.verbalizer import Verbalizer


class Forward:
    """What a forward of a model passes through while regularizers are plugged into it.

    Nothing of one forward is kept here: calls in other threads and of replicas do not meet.

    Args:
        model, verbalizer, in_eval, into_loss: see `regularize`.
        terms: what is added to its loss.

    Attributes:
        meter: what the steps came to.
        steps: of the optimiser.
        scale: of the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Sequence[Term],
        verbalizer: Verbalizer | None,
        *,
        in_eval: bool,
        into_loss: bool,
    ) -> None:
        self.terms = tuple(terms)
        self.meter, self.steps, self.trainer = Meter(), Steps(), UnderTrainer()
        self._model = model
        self._in_eval, self.into_loss = in_eval, into_loss
        self._plm = pretrained_model(model)
        self._encoder_decoder = bool(self._plm.config.is_encoder_decoder)
        # Where the states come from; the language model itself where no module is all but its head.
        self._encoder = encoder_of(self._plm)
        self._reads_states = any(term.reads_states for term in self.terms)
        self._needs_loss = any(term.needs_loss for term in self.terms)
        for term in self.terms:
            if isinstance(term.what, RunningCost):
                targets = label_targets(model, self._plm, term.what.spec, verbalizer, term.what)
                term.placed = PlacedCost(term.what, targets)
        self.view = view_of(model, self._plm, self.terms, verbalizer)
        self._reads_ids = any(term.placed.reads_ids for term in self.terms if term.is_cost) or (
            self.view is not None and self.view.reads_ids
        )
        self._peft = [module for module in model.modules() if isinstance(module, PeftModel)]
        self._guard = GradientGuard(into_loss)
        self.scale = LossScale(self)
        self._names = list(inspect.signature(self._encoder.forward).parameters)
        self._hooks: list[RemovableHandle] = []
        self._entered: list[nn.Module] = []

    @property
    def who(self) -> str:
        """The model's class, and that of the language model inside."""
        kinds = dict.fromkeys(type(module).__name__ for module in (self._model, self._plm))
        return " around ".join(kinds)

    @property
    def is_attached(self) -> bool:
        """Whether forwards pass through here."""
        return bool(self._entered)

    def state_dict(self) -> dict[str, Any]:
        """How far the weights have come: the step, and of ratios what was measured."""
        return {
            "step": self.steps.count,
            "weights": {term.name: term.policy.state_dict() for term in self.terms},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            BadInput: for a state of other terms.
        """
        names = [term.name for term in self.terms]
        if sorted(state["weights"]) != sorted(names):
            raise BadInput(
                f"the state is of {', '.join(state['weights'])}, and the model has {', '.join(names)}"
            )
        self.steps.count = int(state["step"])
        for term in self.terms:
            term.policy.load_state_dict(state["weights"][term.name])

    def attach(self) -> None:
        """From now on the model's forwards pass through here."""
        if self._reads_states and self._encoder is not self._plm:
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
        self.steps.remove()
        self.trainer.leave()

    def remove(self) -> None:
        """Unplug the terms too."""
        self.detach()
        for term in self.terms:
            if not term.is_cost:
                term.objective.detach()

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
            self._send(around, around.inner)
            return self.own(module, forward, args, kwargs)
        if not (module.training or self._in_eval):
            return note(forward(*args, **kwargs), None)
        asked = kwargs.get("output_hidden_states") or self._plm.config.output_hidden_states
        call = Call(self, keeps_states=bool(asked))
        told = Told(module, args, kwargs)
        if module.training:
            self._before_training(module, call, told)
        else:
            self._send(call, told)
        if module.training and any(not term.is_cost for term in self.terms):
            output = self.again(call, module, forward, args, kwargs)
        else:
            above = calls.enter(call)
            try:
                output = self.own(module, forward, args, kwargs)
            finally:
                calls.leave(above)
        return self._add(module, forward, call, args, kwargs, output)

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def again(
        self, call: Call, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """A training forward, with what regularizers do around one."""
        inputs = Told(module, args, kwargs).by_name()
        with contextlib.ExitStack() as stack:
            for term in self.terms:
                if not term.is_cost and term.objective.weight:
                    stack.enter_context(term.objective.around(inputs))
            stack.enter_context(call.entered())
            return self.own(module, forward, args, kwargs)

    def own(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """The module's own forward; where it has to, it is the encoder."""
        if (
            not self._reads_states
            or self._encoder is not self._plm
            or type(module) is not type(self._plm)
        ):
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
    def _before_training(self, module: nn.Module, call: Call, told: Told) -> None:
        self._send(call, told)
        self.trainer.look(self)
        self.steps.watch(self._model, self.before_step)
        if not self._guard.done:
            self._guard.look()
        if any(map(_has_prefix, self._peft)):
            check_not_checkpointed(module)  # the Trainer turns it on after everything was made
        for term in self.terms:
            if not term.is_cost and not term.policy.is_ratio:
                term.objective.weight = self.weight_of(term)

    def _send(self, call: Call, told: Told) -> None:
        """Begin to copy what says where targets are: later the host would wait for the forward's end."""
        if torch.compiler.is_compiling() or not self._reads_states:
            return
        near = says_where(told.by_name(), of_decoder=self._encoder_decoder, ids=self._reads_ids)
        if not near.keys().isdisjoint(LABELS):  # else it generates, or nobody asks for a loss
            call.ahead.send(near.values())

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called before each step of an optimiser that holds trained parameters."""
        for term in self.terms:
            if not term.is_cost:
                term.objective.before_step(optimizer)

    def weight_of(self, term: Term) -> float:
        """The weight of a term at this step."""
        return term.policy.at(self.steps.count, self.steps.total)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._model.parameters() if p.requires_grad]

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
        given = given_of(call, Told(module, args, kwargs))
        trains = module.training and torch.is_grad_enabled()
        if "labels" not in given and not trains:
            return note(output, None)  # nothing is trained: generation, a reference, a prediction
        if not self._needs_loss and not isinstance(getattr(output, "loss", None), Tensor):
            return output  # whoever called makes one of its own
        loss = loss_of(output, module, self._encoder, given, call, states=self._reads_states)
        running = Running(self, module, forward, call, args, kwargs, given, output)
        found = [running.value(term, trains=trains) for term in self.terms]
        values = [value for value in found if value is not None]
        if any(value.term.is_cost for value in values):
            some = any(value.count for value in values if value.term.is_cost)
            self.scale.note(has_target=some, training=module.training)
        task = running.task(values) if trains else loss
        parts = running.weighed(values, task, self._trained)
        added = weighed(parts, loss) if parts else None
        self._record(values, task, training=module.training, divided=running.divided)
        value = self._told(values, added, loss)
        if self.into_loss and (added is not None or task is not loss):
            output["loss"] = task if added is None else task + added
        if self.into_loss or not module.training:
            value = value.detach()
        if not module.training:
            return note(output, value)
        if parts or not self.into_loss:
            watched = added if self.into_loss and added is not None else value
            self._guard.watch(self._model, output["loss"], watched)
        output["running_cost"] = value
        return declared(output)

    def _told(self, values: Sequence[Value], added: Tensor | None, loss: Tensor) -> Tensor:
        """What the output holds as its running cost: of one term itself, of several the weighed sum."""
        if len(self.terms) == 1 and values and values[0].number is not None:
            value = values[0].shown if self.into_loss else values[0].number
            assert value is not None
            return value if self.into_loss else value.to(loss.device)
        return loss.new_zeros(()) if added is None else added

    def _record(self, values: Sequence[Value], task: Tensor, *, training: bool, divided: bool) -> None:
        told: dict[str, Tensor | float] = {TASK: task}
        for value in values:
            if value.number is not None:
                told[value.term.name] = value.number
            told[weight_name(value.term.name)] = self.weight_of(value.term)
        layers = {value.term.name: value.layers for value in values if value.layers is not None}
        self.meter.record(self.steps.count, told, layers, training=training, divided=divided)


def _has_prefix(model: PeftModel) -> bool:
    """Whether the active adapter is a prefix; of a model whose adapters are layers none is."""
    if not getattr(model, "_is_prompt_learning", True):
        return False
    return isinstance(model.peft_config.get(model.active_adapter), PrefixTuningConfig)
