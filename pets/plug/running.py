"""One forward of a plugged model: what every term comes to, and what the loss becomes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from peft import PeftModel, PromptLearningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.model.undisturbed import undisturbed
from pets.plug.calls import Call, Told, random_kept
from pets.plug.loss_scale import OF_LOSSES
from pets.plug.meter import Layers
from pets.plug.refusals import check_states
from pets.plug.terms import Term
from pets.plug.weights import gradient_norms
from pets.regularizers.passes import Pass, Read

if TYPE_CHECKING:
    from pets.plug.loss_scale import LossScale
    from pets.plug.steps import Steps
    from pets.plug.view import View


class Owner(Protocol):
    """What a forward passed through; see `pets.plug.forward.Forward`."""

    into_loss: bool
    scale: LossScale
    steps: Steps
    view: View | None

    def weight_of(self, term: Term) -> float: ...

    def again(
        self, call: Call, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any: ...

    def own(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any: ...


@dataclass(frozen=True)
class Value:
    """What a term comes to.

    Attributes:
        number: a scalar, on the scale of the loss; None where it adds nothing.
        shown: its mean over targets, as it is reported with the output.
        count: of targets; of a regularizer's term 1.
        counts: whether its gradient is wanted.
        layers: what tells its layers.
    """

    term: Term
    number: Tensor | None
    shown: Tensor | None
    count: int
    counts: bool
    layers: Layers | None = None


class Running:
    """A forward that has run, and what can be run again of it.

    Args:
        owner: what it passed through.
        module, forward, args, kwargs: what was called, and how.
        call: with its states.
        given: what its loss was made of, by name.
        output: what it returned.
    """

    def __init__(
        self,
        owner: Owner,
        module: nn.Module,
        forward: Callable[..., Any],
        call: Call,
        args: Any,
        kwargs: dict[str, Any],
        given: dict[str, Any],
        output: Any,
    ) -> None:
        self._owner, self._module, self._forward = owner, module, forward
        self._call, self._args, self._kwargs = call, args, kwargs
        self._given, self._output = given, output

    @cached_property
    def divided(self) -> bool:
        """Whether the loss is part of a sum; see `LossScale`."""
        device = self._output["loss"].device
        return self._owner.scale.divides(device, self._forward, self._args, self._kwargs)

    def value(self, term: Term, *, trains: bool) -> Value | None:
        """What a term comes to; None for one that takes no part in this forward."""
        return self._cost(term, trains) if term.is_cost else self._regularizer(term, trains)

    def task(self, values: Sequence[Value]) -> Tensor:
        """The task's loss, as the regularizers make it."""
        loss: Tensor = self._output["loss"]
        for value in values:
            if not value.term.is_cost and value.counts:
                loss = loss + (value.term.objective.loss(self._seen) - self._seen.loss)
        return loss

    def weighed(
        self, values: Sequence[Value], task: Tensor, parameters: Callable[[], list[nn.Parameter]]
    ) -> list[tuple[float, Tensor]]:
        """Weights and terms of the loss; a ratio's gradients are measured where it is their step.

        Raises:
            BadInput: for a ratio of a gradient that is none.
        """
        parts = []
        for value in values:
            if value.number is None or not value.counts or not value.count:
                continue
            policy = value.term.policy
            if self._module.training and policy.measures(self._owner.steps.count):
                norms = gradient_norms([task, value.number], parameters())
                policy.note(self._owner.steps.count, *norms)
                if policy.gives_up(self._owner.steps.count):
                    raise BadInput(
                        f"weight={policy} of {value.term.name!r}: the gradients of the task's loss and "
                        f"of the term are {norms[0]:g} and {norms[1]:g} long at the trained parameters, "
                        "so no weight makes a ratio of the two; give a number instead"
                    )
            if weight := self._owner.weight_of(value.term):
                parts.append((weight, value.number))
        return parts

    def _cost(self, term: Term, trains: bool) -> Value:
        weight = self._owner.weight_of(term)
        counts = bool(weight) or term.policy.is_ratio or not self._owner.into_loss
        hidden = self._call.hidden
        assert hidden is not None
        if counts and trains:
            check_states(hidden)
        # With weight 0 nothing in training may change, not even the random numbers.
        with contextlib.nullcontext() if counts else random_kept(hidden[0].device):
            logits = getattr(self._output, "logits", None)
            costs, layers = term.placed.costs(self._call, self._given, logits)
        number = shown = self._mean(costs)
        if self.divided:
            shown = costs.mean() if len(costs) else costs.sum()
        return Value(term, number, shown, len(costs), counts, layers)

    def _regularizer(self, term: Term, trains: bool) -> Value | None:
        if not trains:
            return None
        objective = term.objective
        counts = bool(self._owner.weight_of(term)) or term.policy.is_ratio
        if not term.has_term or (objective.twice and not counts):
            return Value(term, None, None, 0, counts)
        if objective.twice and self._kwargs.get("past_key_values") is not None:
            raise BadInput(
                f"{term.name} runs the model a second time, which would make the cache that it was "
                "given longer: train without past_key_values"
            )
        if counts and "states" in objective.reads and self._call.hidden is not None:
            check_states(self._call.hidden)
        with self._aside(counts):
            number = objective.term(self._seen)
        term.check(number, counts=counts and self._output["loss"].requires_grad)
        return Value(term, number, number, 1, counts)

    @contextmanager
    def _aside(self, counts: bool) -> Iterator[None]:
        if counts:
            yield
            return
        with random_kept(self._output["loss"].device), torch.no_grad():
            yield

    def _mean(self, costs: Tensor) -> Tensor:
        return self._owner.scale.scaled(costs, self._kwargs, divided=self.divided)

    @cached_property
    def _seen(self) -> Pass:
        return self._pass(self._call, self._output)

    def _pass(self, call: Call, output: Any) -> Pass:
        view = self._owner.view
        if view is None:
            return Pass(output["loss"], _unread, mean=self._mean, again=self._again)
        return Pass(
            output["loss"],
            lambda: view.scores(output, self._given),
            mean=self._mean,
            again=self._again,
            read=lambda: view.read(call, self._given, output),
            head=lambda states: self._head(view, states),
            frozen=lambda: self._frozen(view),
        )

    def _again(self) -> Pass:
        call = Call(self._owner, ahead=self._call.ahead)
        output = self._owner.again(call, self._module, self._forward, self._args, self._kwargs)
        return self._pass(call, output)

    def _head(self, view: View, states: Tensor) -> Tensor:
        # No cost is added to what is asked of the head.
        with Call(self._owner, keeps_states=True).entered():
            return view.head(states)

    def _frozen(self, view: View) -> Read:
        call, module = Call(self._owner, ahead=self._call.ahead), self._module
        pets = [part for part in module.modules() if isinstance(part, PeftModel)]
        layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
        if not pets and not layers:
            raise BadInput(
                f"{type(module).__name__} has no PET that could be switched off, so nothing says where "
                "the states of the frozen model are: take another regularizer"
            )
        device = self._output["loss"].device
        with (
            torch.no_grad(),
            random_kept(device),
            undisturbed(module),
            _switched_off(pets, layers),
            call.entered(),
        ):
            if isinstance(module, PeftModel) and _prompts(module):  # what it calls without its prompt
                output = module.base_model(*self._args, **self._kwargs)
            else:
                output = self._owner.own(module, self._forward, self._args, self._kwargs)
        read = view.read(call, given_of(call, Told(module, self._args, self._kwargs)), output)
        if len(read.answers) != len(self._seen.read.answers):
            raise BadInput(
                "behind its soft prompt the model predicts the first token of a row, and the frozen "
                "model cannot: set the first label of each row to -100"
            )
        return read


def _unread() -> Tensor:
    raise BadInput("this regularizer does not say that it reads scores: reads = frozenset({'scores'})")


def given_of(call: Call, outer: Told) -> dict[str, Any]:
    """What the loss of a forward was made of, by name.

    The language model's labels are those, and it alone knows positions that a PET has moved; what a
    module around it was called with counts where it was not called.
    """
    around = outer.by_name()
    inner = call.inner.by_name() or around
    of_outer = {name: around[name] for name in OF_LOSSES if name in around}
    return inner if "labels" in inner else {**inner, **of_outer}


def _prompts(pet: PeftModel) -> bool:
    return isinstance(pet.active_peft_config, PromptLearningConfig)


@contextmanager
def _switched_off(pets: Sequence[PeftModel], layers: Sequence[BaseTunerLayer]) -> Iterator[None]:
    """The model as it was before any PET."""
    with contextlib.ExitStack() as stack:
        for pet in pets:
            if _prompts(pet):  # peft's own way asks for generation, which masked LMs have none of
                pet.__dict__["forward"] = pet.base_model.forward
                stack.callback(pet.__dict__.pop, "forward", None)
            else:
                stack.enter_context(pet.disable_adapter())
        on = [layer for layer in layers if not layer.disable_adapters]
        for layer in on:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in on:
                layer.enable_adapters(True)
