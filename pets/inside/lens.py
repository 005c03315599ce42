"""The logit lens: a masked LM's own head, read at every layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.model.spec import pretrained_model
from pets.tasks.verbalizer import Verbalizer

_ROWS = 128  # states the head is evaluated at together: its output is as wide as the vocabulary


def lens(model: nn.Module, states: Tensor, verbalizer: Verbalizer, token_id: int) -> Tensor:
    """Log-probabilities of the C labels' words, had the model stopped at each layer: [L+1, N, C].

    The head is the whole of what the model puts behind its encoder (transform, norm, tied embedding and
    bias), with the PET in it where it has one. Where the encoder ends in a norm of all layers' sum
    (Megatron-BERT, ModernBERT), a layer's states pass that norm first: the head knows no others.

    Args:
        model: a masked LM, plain or with a PET.
        states: [L+1, N, H], as `transformers` returns them, at N positions.
        verbalizer: words of the labels.
        token_id: any token, for a forward pass that looks at how the encoder ends.

    Raises:
        BadInput: if it is not plain how the encoder ends, or the model has no head behind it.
    """
    plm = pretrained_model(model)
    mode = plm.training
    plm.eval()
    try:
        with torch.no_grad():
            norm, last_is_normed = _ending(plm, token_id)
            found = []
            for i, layer in enumerate(states):
                raw = norm is not None and not (last_is_normed and i == len(states) - 1)
                parts = []
                for part in layer.split(_ROWS):
                    hidden = part.to(plm.device, plm.dtype)
                    hidden = norm(hidden) if norm is not None and raw else hidden
                    parts.append(verbalizer.score(_head(plm, hidden, token_id).float()).cpu())
                found.append(torch.cat(parts))
    finally:
        plm.train(mode)
    return torch.stack(found)


def _head(plm: Any, hidden: Tensor, token_id: int) -> Tensor:
    """Logits [N, V] of states [N, H]: the model's forward, with these for its encoder's result."""

    def replace(encoder: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = hidden[None]
        return output

    with _hooked(plm.base_model.register_forward_hook(replace)):
        logits: Tensor = plm(input_ids=_one_token(plm, token_id), return_dict=True).logits
    if logits.shape[:2] != (1, len(hidden)):
        raise BadInput(f"{type(plm).__name__} has no head that reads its encoder's last states")
    return logits[0]


def _ending(plm: Any, token_id: int) -> tuple[nn.Module | None, bool]:
    """The norm at the encoder's end, or None; and whether the last of its hidden states is behind it.

    What made the encoder's result is found by looking: one of its layers did (BERT), or a module
    behind all layers (a final norm).
    """
    encoder = plm.base_model
    # Exactly this class: a list of parametrizations (BitFit's) is one of its subclasses.
    stacks = [module for module in encoder.modules() if type(module) is nn.ModuleList]
    inside = {module for stack in stacks for module in stack.modules()}
    made: list[tuple[nn.Module, Any, Any]] = []  # alive, so that no two results share their memory

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        made.append((module, args, output[0] if isinstance(output, tuple) else output))

    # What holds the layers returns their result too, and is neither a layer nor a norm.
    holders = {
        module for module in encoder.modules() if not inside.isdisjoint(module.modules())
    } - inside
    modules = [module for module in encoder.modules() if module not in holders]
    with _hooked(*(module.register_forward_hook(keep) for module in modules)):
        output = encoder(
            input_ids=_one_token(plm, token_id), output_hidden_states=True, return_dict=True
        )
    last = output.last_hidden_state
    makers = [
        (module, args)
        for module, args, result in made
        if isinstance(result, Tensor)
        and result.data_ptr() == last.data_ptr()
        and result.shape == last.shape
    ]
    norms = [
        module
        for module, args in makers
        if module not in inside and len(args) == 1 and next(module.parameters(), None) is not None
    ]
    if not norms and not any(module in inside for module, _ in makers):
        raise BadInput(
            f"the encoder of {type(plm).__name__} ends in what is neither a layer nor a norm: its head "
            "cannot be read at other layers"
        )
    # Of a norm in a wrapper the wrapper is what counts; it is done last.
    return (norms[-1] if norms else None), torch.equal(output.hidden_states[-1], last)


def _one_token(plm: Any, token_id: int) -> Tensor:
    return torch.tensor([[token_id]], device=plm.device)


@contextmanager
def _hooked(*hooks: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
