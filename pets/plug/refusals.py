"""What is refused where a running cost would do nothing, or the wrong thing, at once or in a forward."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bridges import BadInput, Cost, RunningCost
from bridges.errors import shown
from bridges.model.spec import pretrained_model
from pets.plug.calls import Call
from pets.plug.entry import entered, is_replaced

logger = logging.getLogger(__name__)

_SFT = "for TRL's SFTTrainer see examples/sft_trl.py"


def check_cost(cost: object) -> None:
    """Whether it is one, and no name or folder of one.

    Raises:
        BadInput: if not.
    """
    if isinstance(cost, Cost) or (isinstance(cost, type) and issubclass(cost, Cost)):
        raise is_a_bridge(f"cost={shown(cost)}", "bridge")
    if not isinstance(cost, RunningCost):
        raise BadInput(
            f"cost={shown(cost)}: expected a bridges.RunningCost, as for_model or from_pretrained "
            "gives, or a regularizer or its name"
        )


def is_a_bridge(what: str, name: str) -> BadInput:
    """The error for a bridge in the place of a cost: what was given, and what stands for it in code."""
    return BadInput(
        f"{what} is a bridge, which is a cost once it reads a model's states: "
        f"cost = bridges.RunningCost.for_model(model, {name}), then cost.fit(...)"
    )


def check_free(model: nn.Module) -> None:
    """Whether nothing is plugged into a model.

    Raises:
        BadInput: if something is.
    """
    if entered(pretrained_model(model)) is not None:
        raise BadInput(
            "this model already has a running cost: call remove() on its handle first, or "
            "pets.unplug(model), or give several at once, pets.regularize(model, [one, other])"
        )


def check_pluggable(model: nn.Module, cost: RunningCost, *, same_weights: bool) -> None:
    """Whether a cost can be plugged into a model.

    Raises:
        BadInput: if it was made for another one, or reads states in a way of its own.
    """
    cost.check_model(model, same_weights=same_weights)
    if type(cost).forward is not RunningCost.forward:
        raise BadInput(
            f"{type(cost).__name__} has a forward of its own, which the plug would pass by: override "
            "RunningCost.costs, the cost of each target, instead"
        )


def warn_of_no_fit(cost: RunningCost) -> None:
    """Log what can be meant so, but hardly is."""
    if cost.bridge.fits and cost.options["fit"] and cost.fit_record is None:
        logger.warning(
            "this cost's latent map is not fitted: it is as random as it was made. Call "
            "cost.fit(model, tokenizer, texts) first, or say that it is meant so: "
            "RunningCost.for_model(..., fit=False)"
        )


def check_not_bypassed(plm: nn.Module) -> None:
    """Is the encoder called in a forward that passes through the plug?

    Raises:
        BadInput: if another forward has been put in its place.
    """
    if is_replaced(plm):
        raise BadInput(
            f"another forward was put into {type(plm).__name__} after pets.regularize, and it "
            f"passes the running cost by: plug the cost into the model that the loop calls ({_SFT})"
        )


def checked_batches(batches: Any) -> Iterator[Mapping[str, Any]]:
    """One batch after another, each what a model is called with.

    Raises:
        BadInput: for one batch in the place of several, or a batch that is none.
    """
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise BadInput(
            f"batches are a {type(batches).__name__}: expected several, such as a list of them"
        )
    for number, batch in enumerate(batches):
        if not isinstance(batch, Mapping):
            raise BadInput(
                f"batch {number} is {shown(batch)}: expected what the model is called with, by name"
            )
        yield batch


def check_states(hidden: Sequence[Tensor]) -> None:
    """Do the hidden states of a training forward carry a gradient?

    Raises:
        BadInput: if not, or not all that should.
    """
    carries = [h.requires_grad for h in hidden]
    # A state without gradient above one with: a reentrant checkpoint hides the layers between.
    if not any(carries) or carries != sorted(carries):
        raise BadInput(
            "hidden states carry no gradient, so the running cost would train nothing there: "
            "either no parameter below the last layer is trainable, or gradient checkpointing "
            "cuts the graph (use gradient_checkpointing_kwargs={'use_reentrant': False})"
        )


def loss_of(
    output: Any,
    module: nn.Module,
    encoder: nn.Module,
    given: Mapping[str, Any],
    call: Call,
    *,
    states: bool = True,
) -> Tensor:
    """The loss that a model returned.

    Args:
        output: of the model.
        module: the model.
        encoder: of it, where the states come from.
        given: what the model was called with, by name.
        call: the forward, with what it has left.
        states: whether they are asked for.

    Raises:
        BadInput: where there is none, or no labels, or no states.
    """
    if given.get("labels") is None:
        raise BadInput(
            "a running cost needs labels: call model(..., labels=labels), or model.eval() first "
            "(the Trainer's label_smoothing_factor and compute_loss_func take the labels away)"
        )
    if states and call.times > 1:
        raise BadInput(
            f"{type(module).__name__} ran its encoder {type(encoder).__name__} {call.times} "
            "times in one forward, and a running cost reads one: plug it into the model inside"
        )
    if states and call.hidden is None:
        raise BadInput(
            f"{type(module).__name__} did not call its encoder {type(encoder).__name__}: "
            "no hidden states to regularise (if it was compiled and ran before pets.regularize, "
            "call torch.compiler.reset() after it: the compiled code knows of no cost)"
        )
    loss = None if isinstance(output, tuple) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise BadInput(
            f"{type(module).__name__} returned no .loss to add the running cost to: use a model "
            "with a head that computes the loss, and return_dict=True"
        )
    return loss
