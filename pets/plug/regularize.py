"""The plug: a running cost added to a model's loss, in anybody's training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from torch import nn
from torch._dynamo import OptimizedModule

from bridges import BadInput, RunningCost
from bridges.errors import is_number
from pets.plug.forward import Forward
from pets.plug.refusals import check_pluggable, warn_of_no_effect
from pets.tasks.verbalizer import Verbalizer


def regularize(
    model: nn.Module,
    cost: RunningCost,
    weight: float = 1.0,
    *,
    verbalizer: Verbalizer | None = None,
    in_eval: bool = False,
    into_loss: bool = True,
    same_weights: bool = True,
) -> Regularizer:
    """From now on ``model(**batch).loss`` includes ``weight * running cost``.

    ``model(**batch).running_cost`` reports the cost beside the loss, without the weight (in eval mode
    None). Works for a plain transformers model, a peft model and wrappers around either, whichever of
    them is called. Labels that are tokens are the targets, in masked and causal language models and in
    encoder-decoders; the classes of a classifier end at the words of a verbalizer. Documents packed into
    one row count as rows of their own. The cost's own parameters stay frozen and outside the model.

    The task's loss stays what it is, to the bit. Where it is divided by ``num_items_in_batch``, as the
    Trainer has it for gradient accumulation, so is the cost; elsewhere both are means over a batch's
    targets. A batch without targets has the cost 0; a run that begins with a hundred of them is stopped.

    The first backward pass is watched: the next step of an optimiser, or the next forward, stops with a
    `BadInput` that names the parameters of a PET which the model does not read, or says that the loss
    which was trained holds no running cost; other trainable parameters without a gradient are logged.

    A deep copy of the model has a cost of its own: ``copy.deepcopy((model, handle))`` gives both copies.

    Args:
        model: the module whose forward is called in training.
        cost: made for this model.
        weight: not negative; 0 only reports.
        verbalizer: words of the labels. A classifier needs one. With a language model every target is
            then a label's word, and its trajectory may end at any of that label's words.
        in_eval: also add the cost in eval mode; by default that costs nothing.
        into_loss: False leaves the loss alone. ``output.running_cost`` is then a term with gradient, to
            be weighed and added to a loss of your own.
        same_weights: False for a model that was trained further, on purpose, since the cost was made:
            only its architecture is compared with the cost's then.

    Returns:
        A handle: ``handle.remove()`` unplugs, or use it as a context manager.

    Raises:
        BadInput: if the cost does not fit the model, the weight is not a finite number of at least
            0, the verbalizer does not fit or is missing, or the model already has a running cost.
    """
    if isinstance(model, OptimizedModule):
        model = model._orig_mod
    check_pluggable(model, cost, same_weights=same_weights)
    warn_of_no_effect(cost, weight, into_loss=into_loss)
    forward = Forward(model, cost, verbalizer, in_eval=in_eval, into_loss=into_loss)
    return Regularizer(forward, weight)


class Regularizer:
    """Handle of a running cost that is plugged into a model; see `regularize`."""

    def __init__(self, forward: Forward, weight: float) -> None:
        self._forward = forward
        self.weight = weight
        forward.attach()

    @property
    def weight(self) -> float:
        """Factor of the running cost in the loss; may be changed between steps.

        Raises:
            BadInput: when it is set to anything but a finite number of at least 0.
        """
        return self._forward.weight

    @weight.setter
    def weight(self, value: float) -> None:
        if not is_number(value) or value < 0:
            raise BadInput(f"weight={value!r}: expected a finite number, 0 or more")
        self._forward.weight = value

    @contextmanager
    def replacing(self) -> Iterator[Callable[[RunningCost], None]]:
        """The model without the cost in this block, and in its place afterwards the one that is given.

        For a reader that is adapted again while a PET is tuned. Another of the same model and bridge,
        with the same end points: what the labels are to it is not asked again.
        """
        chosen = [self._forward.cost]
        self._forward.detach()
        try:
            yield chosen.append
            self._forward.cost = chosen[-1]
        finally:
            self._forward.attach()

    def remove(self) -> None:
        """Unplug the cost; the model is as it was before. A second call does nothing."""
        self._forward.detach()

    def __enter__(self) -> Regularizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()
