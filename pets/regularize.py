"""The plug: a running cost added to a model's loss, in anybody's training loop."""

from __future__ import annotations

import inspect
import math
from types import TracebackType
from typing import Any, NamedTuple

import torch
from peft import PeftModel, PrefixTuningConfig
from torch import Tensor, nn

from bridges import BadInput, RunningCost
from bridges.model_spec import pretrained_model
from pets.gradient_guard import GradientGuard
from pets.label_targets import behind_prompt, label_targets
from pets.outputs import declared, drop_states
from pets.targets import check_not_checkpointed
from pets.verbalizer import Verbalizer

_MARK = "_bridge_pets_regularizer"
_TRAINER_FLAG = "accepts_loss_kwargs"


class _Kept(NamedTuple):
    """What a forward of the encoder leaves for the cost."""

    hidden: tuple[Tensor, ...]
    mask: Tensor | None
    input_ids: Tensor | None


class Regularizer:
    """Handle of a running cost that is plugged into a model; see `regularize`.

    Attributes:
        weight: factor of the running cost in the loss; may be changed between steps.
    """

    def __init__(
        self,
        model: nn.Module,
        cost: RunningCost,
        weight: float,
        in_eval: bool,
        verbalizer: Verbalizer | None,
    ) -> None:
        self.weight = weight
        self._cost, self._in_eval = cost, in_eval
        self._plm = pretrained_model(model)
        # Where the states come from. T5 has no module for all but its head, and is its own base model,
        # whose forward peft may call past its hooks.
        alone = self._plm.base_model is self._plm and cost.spec.encoder_decoder
        self._encoder = self._plm.get_decoder() if alone else self._plm.base_model
        self._targets = label_targets(model, self._plm, cost, verbalizer)
        self._signature = inspect.signature(self._encoder.forward)
        self._active = self._wants_states = False
        self._prefixed = any(
            isinstance(module, PeftModel)
            and isinstance(module.peft_config.get(module.active_adapter), PrefixTuningConfig)
            for module in model.modules()
        )
        self._kept: _Kept | None = None
        self._guard = GradientGuard()
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._plm.register_forward_pre_hook(self._before_plm, with_kwargs=True),
            self._encoder.register_forward_pre_hook(self._before_encoder, with_kwargs=True),
            self._encoder.register_forward_hook(self._after_encoder, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]
        # Without this the Trainer believes the loss is already divided by the number of tokens of
        # all accumulated batches, and scales the gradients by the number of accumulation steps.
        self._flags = [(m, m.__dict__.get(_TRAINER_FLAG)) for m in {model, self._plm}]
        for module, _ in self._flags:
            setattr(module, _TRAINER_FLAG, False)
        setattr(self._plm, _MARK, self)

    def remove(self) -> None:
        """Unplug the cost; the model is as it was before. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        for module, before in self._flags:
            if before is None:
                module.__dict__.pop(_TRAINER_FLAG, None)
            else:
                setattr(module, _TRAINER_FLAG, before)
        self._hooks, self._flags = [], []
        self._guard.remove()
        self._plm.__dict__.pop(_MARK, None)

    def __enter__(self) -> Regularizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _before(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._kept = None
        self._active = model.training or self._in_eval
        if not self._active:
            return
        if kwargs.get("labels") is None:
            raise BadInput(
                "a running cost needs labels: call model(..., labels=labels), or model.eval() first "
                "(the Trainer's label_smoothing_factor takes the labels away: leave it at 0)"
            )
        if kwargs.get("num_items_in_batch") is not None:
            raise BadInput(
                "num_items_in_batch was passed: the Trainer was built before pets.regularize; "
                "call pets.regularize(model, ...) first, then build the Trainer"
            )
        if model.training and self._prefixed:
            check_not_checkpointed(model)  # the Trainer turns it on after everything was made
        self._wants_states = bool(
            kwargs.get("output_hidden_states") or self._plm.config.output_hidden_states
        )

    def _before_plm(self, plm: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """peft puts a soft prompt before the input but leaves a masked LM's labels as they were."""
        embeds, labels = kwargs.get("inputs_embeds"), kwargs.get("labels")
        if embeds is None or labels is None or labels.dim() != 2:  # in eval mode too: it computes a loss
            return None
        if self._cost.spec.encoder_decoder:  # the prompt is the encoder's, the labels the decoder's
            return None
        return args, {**kwargs, "labels": behind_prompt(labels, embeds.shape[1])}

    def _before_encoder(self, encoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self._active:
            return None
        return args, {**kwargs, "output_hidden_states": True, "return_dict": True}

    def _after_encoder(self, encoder: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not self._active:
            return
        # The mask the encoder really used, however the caller passed it.
        bound = self._signature.bind_partial(*args, **kwargs).arguments
        bound = {**bound.get("kwargs", {}), **bound}
        both = getattr(output, "decoder_hidden_states", None) is not None
        mask = bound.get(
            "decoder_attention_mask" if both and not self._targets.in_place else "attention_mask"
        )
        hidden = tuple(output.decoder_hidden_states if both else output.hidden_states)
        if mask is not None:
            mask = mask[..., -hidden[0].shape[1] :]  # with a prefix it begins with the prefix
        self._kept = _Kept(hidden, mask, bound.get("input_ids"))
        if not self._wants_states:
            # Taken out here, they are neither returned nor copied to fp32 by Accelerate.
            drop_states(output)

    # Outside a compiler's graph, which the cost would break into a dozen pieces.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if not self._active:
            return None
        self._active = False
        kept, self._kept = self._kept, None
        if kept is None:
            raise BadInput(
                f"{type(model).__name__} did not call its encoder {type(self._encoder).__name__}: "
                "no hidden states to regularise (if it was compiled and ran before pets.regularize, "
                "call torch.compiler.reset() after it: the compiled code knows of no cost)"
            )
        loss = None if isinstance(output, tuple) else getattr(output, "loss", None)
        if loss is None:
            raise BadInput(
                f"{type(model).__name__} returned no .loss to add the running cost to: use a model "
                "with a head that computes the loss, and return_dict=True"
            )
        hidden, device = kept.hidden, kept.hidden[0].device
        self._check_gradient(model, hidden)
        if self._cost.end_points.vectors.device != device:
            self._cost.to(device)
        made, ends = self._targets, self._targets.ends
        labels = kwargs["labels"].to(device)
        targets = made(labels, hidden[0].shape[1], kept.input_ids, kept.mask)
        made.check_head(targets, getattr(output, "logits", None), hidden[-1])
        value = self._cost(
            hidden,
            targets,
            kept.mask,
            labels=None if ends is None else ends.to(device),
            in_place=made.in_place,
        )
        output["loss"] = loss + self.weight * value.to(loss.device, loss.dtype)
        output["running_cost"] = value.detach()
        if model.training:
            self._guard.watch(model, output["loss"])
        return declared(output)

    def _check_gradient(self, model: nn.Module, hidden: tuple[Tensor, ...]) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        carries = [h.requires_grad for h in hidden]
        # A state without gradient above one with: a reentrant checkpoint hides the layers between.
        if not any(carries) or carries != sorted(carries):
            raise BadInput(
                "hidden states carry no gradient, so the running cost would train nothing there: "
                "either no parameter below the last layer is trainable, or gradient checkpointing "
                "cuts the graph (use gradient_checkpointing_kwargs={'use_reentrant': False})"
            )


def regularize(
    model: nn.Module,
    cost: RunningCost,
    weight: float = 1.0,
    *,
    verbalizer: Verbalizer | None = None,
    in_eval: bool = False,
) -> Regularizer:
    """From now on ``model(**batch).loss`` includes ``weight * running cost``.

    ``model(**batch).running_cost`` reports the cost beside the loss, without the weight. Works for a
    plain transformers model, a peft model and wrappers around either. Labels that are tokens are the
    targets, in masked and causal language models and in encoder-decoders; the classes of a classifier
    end at the words of a verbalizer. Call it before a Trainer is built. The cost's own parameters stay
    frozen and outside the model.

    The first backward pass is watched: it stops with a `BadInput` that names the parameters of a PET
    which the model does not read, and logs a warning for other trainable ones without a gradient.

    A deep copy of the model has a cost of its own: ``copy.deepcopy((model, handle))`` gives both copies.

    Args:
        model: the module whose forward is called in training.
        cost: made for this model.
        weight: not negative; 0 only reports.
        verbalizer: words of the labels. A classifier needs one. With a language model every target is
            then a label's word, and its trajectory may end at any of that label's words.
        in_eval: also add the cost in eval mode; by default that costs nothing.

    Returns:
        A handle: ``handle.remove()`` unplugs, or use it as a context manager.

    Raises:
        BadInput: if the cost does not fit the model, the weight is not a finite number of at least
            0, the verbalizer does not fit or is missing, or the model already has a running cost.
    """
    if not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise BadInput(f"weight={weight!r}: expected a finite number, 0 or more")
    cost.check_model(model)
    if hasattr(pretrained_model(model), _MARK):
        raise BadInput("this model already has a running cost: call remove() on its handle first")
    return Regularizer(model, cost, weight, in_eval, verbalizer)
