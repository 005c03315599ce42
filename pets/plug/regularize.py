"""The plug: a running cost added to a model's loss, in anybody's training loop."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from bridges import BadInput, RunningCost
from bridges.errors import is_number
from bridges.model.probe import is_probing, states_of
from bridges.model.spec import encoder_of, pretrained_model
from pets.methods.prompts import check_not_checkpointed
from pets.plug import calls
from pets.plug.calls import Call, Told, random_kept
from pets.plug.entry import enter, is_replaced, leave, regularizer_of
from pets.plug.guard import GradientGuard, check_states
from pets.plug.labels import label_targets
from pets.plug.loss_scale import OF_LOSSES, LossScale
from pets.plug.outputs import declared, drop_states, note
from pets.plug.placed_cost import PlacedCost
from pets.tasks.verbalizer import Verbalizer

logger = logging.getLogger(__name__)

_SFT = "for TRL's SFTTrainer see examples/sft_trl.py"


class Regularizer:
    """Handle of a running cost that is plugged into a model; see `regularize`.

    Nothing of a forward is kept here: calls in other threads and of replicas do not meet.
    """

    def __init__(
        self,
        model: nn.Module,
        cost: RunningCost,
        weight: float,
        in_eval: bool,
        into_loss: bool,
        verbalizer: Verbalizer | None,
    ) -> None:
        self.weight = weight
        self._in_eval, self._into_loss = in_eval, into_loss
        self._encoder_decoder = cost.spec.encoder_decoder
        self._plm = pretrained_model(model)
        # Where the states come from; the language model itself where no module is all but its head.
        self._encoder = encoder_of(self._plm)
        self._placed = PlacedCost(cost, label_targets(model, self._plm, cost, verbalizer))
        self._peft = [module for module in model.modules() if isinstance(module, PeftModel)]
        self._model = model
        self._guard = GradientGuard(into_loss)
        self._scale = LossScale(self)
        self._names = list(inspect.signature(self._encoder.forward).parameters)
        self._hooks = []
        if self._encoder is not self._plm:
            self._hooks = [
                self._encoder.register_forward_pre_hook(self._before_encoder, with_kwargs=True),
                self._encoder.register_forward_hook(self._after_encoder, with_kwargs=True),
            ]
        self._entered = list(dict.fromkeys((model, self._plm)))
        for module in self._entered:
            enter(module, self)

    @property
    def weight(self) -> float:
        """Factor of the running cost in the loss; may be changed between steps.

        Raises:
            BadInput: when it is set to anything but a finite number of at least 0.
        """
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if not is_number(value) or value < 0:
            raise BadInput(f"weight={value!r}: expected a finite number, 0 or more")
        self._weight = value

    def remove(self) -> None:
        """Unplug the cost; the model is as it was before. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        for module in self._entered:
            leave(module)
        self._hooks, self._entered = [], []
        self._guard.remove()

    def __enter__(self) -> Regularizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

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
            return self._forward(module, forward, args, kwargs)
        if not (module.training or self._in_eval):
            return note(forward(*args, **kwargs), None)
        if module.training and (self._peft or not self._guard.done):
            self._before_training(module)
        asked = kwargs.get("output_hidden_states") or self._plm.config.output_hidden_states
        call = Call(self, keeps_states=bool(asked))
        above = calls.enter(call)
        try:
            output = self._forward(module, forward, args, kwargs)
        finally:
            calls.leave(above)
        return self._add(module, forward, call, args, kwargs, output)

    def _forward(
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
        return {**kwargs, "labels": calls.behind_prompt(labels, embeds.shape[1])}

    def _before_encoder(self, encoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if Call.of(self) is not None:
            if len(args) > 1:  # by name, so that none of them is given twice
                named = dict(zip(self._names, args, strict=False))
                args, kwargs = (), {**named, **kwargs}
            return args, {**kwargs, "output_hidden_states": True, "return_dict": True}
        if encoder.training and is_replaced(self._plm) and torch.is_grad_enabled():
            raise BadInput(
                f"another forward was put into {type(self._plm).__name__} after pets.regularize, and it "
                f"passes the running cost by: plug the cost into the model that the loop calls ({_SFT})"
            )
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
        loss = self._loss_of(module, given, call, output)
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

    def _loss_of(self, module: nn.Module, given: dict[str, Any], call: Call, output: Any) -> Tensor:
        """The loss that the model returned.

        Raises:
            BadInput: where there is none, or no labels, or no states.
        """
        if given.get("labels") is None:
            raise BadInput(
                "a running cost needs labels: call model(..., labels=labels), or model.eval() first "
                "(the Trainer's label_smoothing_factor and compute_loss_func take the labels away)"
            )
        if call.times > 1:
            raise BadInput(
                f"{type(module).__name__} ran its encoder {type(self._encoder).__name__} {call.times} "
                "times in one forward, and a running cost reads one: plug it into the model inside"
            )
        if call.hidden is None:
            raise BadInput(
                f"{type(module).__name__} did not call its encoder {type(self._encoder).__name__}: "
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
    cost.check_model(model, same_weights=same_weights)
    if regularizer_of(pretrained_model(model)) is not None:
        raise BadInput("this model already has a running cost: call remove() on its handle first")
    if type(cost).forward is not RunningCost.forward:
        raise BadInput(
            f"{type(cost).__name__} has a forward of its own, which the plug would pass by: override "
            "RunningCost.costs, the cost of each target, instead"
        )
    if cost.bridge.fits and cost.options["fit"] and cost.fit_record is None:
        logger.warning(
            "this cost's latent map is not fitted: it is as random as it was made. Call "
            "cost.fit(model, tokenizer, texts) first, or say that it is meant so: "
            "RunningCost.for_model(..., fit=False)"
        )
    if not into_loss and weight != 1:
        logger.warning(
            "weight=%r plays no part with into_loss=False: weigh output.running_cost yourself", weight
        )
    return Regularizer(model, cost, weight, in_eval, into_loss, verbalizer)
