"""The plug: running costs and regularizers added to a model's loss, in anybody's training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule

from bridges import BadInput, RunningCost
from bridges.errors import check_flags, shown
from bridges.model.spec import pretrained_model
from pets.plug.entry import entered
from pets.plug.forward import Forward
from pets.plug.refusals import check_free, check_pluggable, warn_of_no_fit
from pets.plug.terms import Term, attach, terms_of
from pets.plug.weights import Ratio
from pets.regularizers import Objective
from pets.tasks.verbalizer import Verbalizer

logger = logging.getLogger(__name__)

What = RunningCost | Objective | str
Weighed = float | str | Ratio | Callable[[int], float] | None


def regularize(
    model: nn.Module,
    cost: What | tuple[What, Weighed] | Sequence[Any],
    weight: Weighed = None,
    *,
    schedule: str | None = None,
    verbalizer: Verbalizer | None = None,
    in_eval: bool = False,
    into_loss: bool = True,
    same_weights: bool = True,
) -> Regularizer:
    """From now on ``model(**batch).loss`` includes ``weight`` times each running cost and regularizer.

    ``model(**batch).running_cost`` reports a cost beside the loss, without the weight (in eval mode
    None; of several their weighed sum), and ``handle.last`` every term. Works for a plain transformers
    model, a peft model and wrappers around either, whichever of them is called. Labels that are tokens
    are the targets, in masked and causal language models and in encoder-decoders; the classes of a
    classifier end at the words of a verbalizer. Documents packed into one row count as rows of their
    own. A cost's own parameters stay frozen and outside the model.

    The task's loss stays what it is, to the bit, unless a regularizer is another loss. Where it is
    divided by ``num_items_in_batch``, as the Trainer has it for gradient accumulation, so is every term;
    elsewhere they are means over a batch's targets. A batch without targets has the cost 0; a run that
    begins with a hundred of them is stopped. What has weight 0 only reports; what would need a second
    forward for that does not.

    The first backward pass is watched: the next step of an optimiser, or the next forward, stops with a
    `BadInput` that names the parameters of a PET which the model does not read, or says that the loss
    which was trained holds no running cost; other trainable parameters without a gradient are logged.

    Under a transformers Trainer its logs hold "task_loss", "running_cost/NAME", "weight/NAME" and
    "layers/NAME/K" by themselves, and its checkpoints what schedules and ratios need.

    A deep copy of the model has a cost of its own: ``copy.deepcopy((model, handle))`` gives both copies.

    Args:
        model: the module whose forward is called in training.
        cost: made for this model; or a regularizer, or its text, ``"r-drop:weight=1"``; or a list of
            such, each by itself or with its weight, ``[(cost, 0.5), "r-drop:weight=1"]``.
        weight: of all that have none of their own: a number, not negative; "auto" or a `Ratio` of
            gradients; a schedule, "cosine" or "warmup:100"; a function of the optimiser's step. By
            default 1 of a cost, and of a regularizer the middle of what its paper tries.
        schedule: how the weights change over the steps, see `pets.plug.schedule.Schedule`.
        verbalizer: words of the labels. A cost on a classifier needs one. With a language model every
            target is then a label's word, and its trajectory may end at any of that label's words.
        in_eval: also add costs in eval mode; by default that costs nothing.
        into_loss: False leaves the loss alone. ``output.running_cost`` is then a term with gradient, to
            be weighed and added to a loss of your own; of several the weighed sum.
        same_weights: False for a model that was trained further, on purpose, since a cost was made:
            only its architecture is compared with the cost's then.

    Returns:
        A handle: ``handle.remove()`` unplugs, or use it as a context manager.

    Raises:
        BadInput: if a cost does not fit the model, a weight is none or out of range, a regularizer is
            unknown or has no hold on the model, the verbalizer does not fit or is missing, a flag is no
            bool, or something is plugged into the model already.
    """
    check_flags(in_eval=in_eval, into_loss=into_loss, same_weights=same_weights)
    if isinstance(model, OptimizedModule):
        model = model._orig_mod
    terms = terms_of(cost, weight, schedule)
    check_free(model)
    for term in terms:
        if isinstance(term.what, RunningCost):
            check_pluggable(model, term.what, same_weights=same_weights)
            warn_of_no_fit(term.what)
        elif not into_loss and not term.what.is_additive:
            raise BadInput(
                f"into_loss=False: {term.name} does more than adding a term, so it cannot be left out "
                "of the loss; leave into_loss=False away, or the regularizer"
            )
    if not into_loss and len(terms) == 1 and weight not in (None, 1):
        logger.warning(
            "weight=%r plays no part with into_loss=False: weigh output.running_cost yourself", weight
        )
    attach(terms, model)
    forward = Forward(model, terms, verbalizer, in_eval=in_eval, into_loss=into_loss)
    return Regularizer(forward)


def unplug(model: nn.Module) -> None:
    """Take out what `regularize` has plugged in, whose handle nobody has any more.

    Args:
        model: as for `regularize`; one into which nothing is plugged in is left alone.

    Raises:
        BadInput: for what is no model.
    """
    around = entered(pretrained_model(model))
    if isinstance(around, Forward):
        around.remove()


class Regularizer:
    """Handle of what is plugged into a model; see `regularize`."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        forward.attach()

    def __repr__(self) -> str:
        terms = ", ".join(map(repr, self._forward.terms))
        plugged = "" if self._forward.is_attached else ", removed"
        return (
            f"<Regularizer of {self._forward.who}: {terms}; step {self._forward.steps.count}{plugged}>"
        )

    @property
    def names(self) -> list[str]:
        """Of the terms, in their order."""
        return [term.name for term in self._forward.terms]

    @property
    def weight(self) -> float:
        """The one term's weight at this step; set it to a number, "auto", a `Ratio` or a function of the
        step.

        Raises:
            BadInput: where there are several terms, or when it is set to something out of range.
        """
        return self._forward.weight_of(self._only())

    @weight.setter
    def weight(self, value: Weighed) -> None:
        self._only().policy.set(value)

    @property
    def weights(self) -> dict[str, float]:
        """Every term's weight at this step, by name."""
        return {term.name: self._forward.weight_of(term) for term in self._forward.terms}

    def set_weight(self, name: str, value: Weighed) -> None:
        """Another weight of a term, as `weight` takes it, under the same schedule.

        Raises:
            BadInput: for an unknown name, or a weight out of range.
        """
        found = [term for term in self._forward.terms if term.name == name]
        if not found:
            raise BadInput(f"no term {shown(name)}: there are {', '.join(self.names)}")
        found[0].policy.set(value)

    @property
    def last(self) -> dict[str, Any]:
        """The last step: "task", each term by its name, "weight/NAME" and "layers/NAME".

        On the scale of the loss, so that the loss is "task" plus each weight times its term, over the
        batches that an optimiser's step accumulates; of this process. Layers are those of the last
        batch's first 64 targets.
        """
        return self._forward.meter.last

    def logs(self) -> dict[str, float]:
        """Means over the steps since the last call and over all processes, each of which calls it.

        For a logger: ``accelerator.log(handle.logs(), step=step)``. A Trainer's logs have it by
        themselves.

        Returns:
            "task_loss", "running_cost/NAME", "weight/NAME", and of this process "layers/NAME/K".
        """
        return self._forward.meter.logs()

    def state_dict(self) -> dict[str, Any]:
        """The step, and what ratios measured, as `accelerator.register_for_checkpointing` keeps it."""
        return self._forward.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            BadInput: for a state of other terms.
        """
        self._forward.load_state_dict(state)

    @contextmanager
    def replacing(self) -> Iterator[Callable[[RunningCost], None]]:
        """The model without the cost in this block, and in its place afterwards the one that is given.

        For a reader that is adapted again while a PET is tuned. Another of the same model and bridge,
        with the same end points: what the labels are to it is not asked again.

        Raises:
            BadInput: where there are several terms, or one that is no running cost.
        """
        term = self._only()
        if not term.is_cost:
            raise BadInput(f"{term.name} is no running cost, so there is none to replace")
        chosen = [term.placed.cost]
        self._forward.detach()
        try:
            yield chosen.append
            term.placed.cost = chosen[-1]
        finally:
            self._forward.attach()

    def remove(self) -> None:
        """Unplug everything; the model is as it was before. A second call does nothing."""
        self._forward.remove()

    def _only(self) -> Term:
        terms = self._forward.terms
        if len(terms) > 1:
            raise BadInput(
                f"there are several terms, {', '.join(self.names)}: see handle.weights, and set one by "
                "handle.set_weight(name, value)"
            )
        return terms[0]

    def __enter__(self) -> Regularizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()
