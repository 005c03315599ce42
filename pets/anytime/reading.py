"""A model read at its label, whole or on the way: inputs in, states and the head's own answer out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridges import BadInput
from bridges.model.forward import accepted_parameters
from bridges.model.head import has_head
from bridges.model.spec import pretrained_model
from pets.anytime.places import Places
from pets.anytime.stack import AllLeft, Stack, first_states, yielded_states
from pets.plug.refusals import checked_batches

_one = threading.RLock()
"""Modes and hooks of a model are for everybody, so predictions of several threads go one by one."""

_CACHED = ("past_key_values", "cache_position")
_OURS = ("labels", "logits_to_keep")  # the head is asked at the label's place alone


@dataclass(frozen=True)
class Reading:
    """Of N examples, on the CPU.

    Attributes:
        states: [L+1, N, H], where the label is told.
        scores: float32 [N, C], the labels' log-probabilities by the model's own head.
        answers: int64 [N]; None where the examples had no labels.
    """

    states: Tensor
    scores: Tensor
    answers: Tensor | None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradient, one thread at a time; every module's own mode is put back."""
    with _one:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def called_with(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the model itself is called with: no labels, all places, no cache but what a PET makes.

    Raises:
        BadInput: for inputs with a cache, which is of generation.
    """
    if given := [name for name in _CACHED if inputs.get(name) is not None]:
        raise BadInput(
            f"{given[0]} was given: an early answer is of whole prompts; caches and generation are not "
            "for it"
        )
    inputs = {name: value for name, value in inputs.items() if name not in _OURS}
    if "use_cache" in accepted_parameters(pretrained_model(model)):
        inputs["use_cache"] = False
    return inputs | {"return_dict": True}


def own_scores(model: nn.Module, places: Places, inputs: Mapping[str, Any], rows: Any = None) -> Any:
    """Call a model: its output and, of the rows that ``rows`` tells once it ran, its answer [n, C].

    The head of a language model is evaluated at those places alone.
    """
    plm: Any = pretrained_model(model)
    columns, mine = places.of(inputs), threading.get_ident()

    def wanted(states: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.arange(len(states)) if rows is None else rows()
        chosen = chosen.to(states.device)
        return chosen, columns(states.shape[1]).to(states.device)[chosen]

    def narrow(module: nn.Module, args: Any) -> Any:
        if threading.get_ident() != mine:
            return None
        at = wanted(args[0])
        return (args[0][at][None], *args[1:])

    with ExitStack() as stack:
        if not places.reads_head:
            if not has_head(plm):
                raise BadInput(f"{type(plm).__name__} has no head that says words")
            stack.callback(plm.get_output_embeddings().register_forward_pre_hook(narrow).remove)
        output = model(**called_with(model, inputs))
    logits = output.logits
    if places.reads_head:
        chosen = torch.arange(len(logits)) if rows is None else rows()
        scores = logits[chosen.to(logits.device)].float().log_softmax(-1)
    else:
        logits = logits[0] if logits.shape[0] == 1 and logits.dim() == 3 else logits[wanted(logits)]
        scores = places.verbalizer.score(logits.float()).log_softmax(-1)
    return output, scores


def read(model: nn.Module, places: Places, batches: Iterable[Mapping[str, Any]]) -> Reading:
    """Every layer's state of the examples in some batches, and the model's own answers.

    Args:
        model: left as it was.
        places: where labels are told.
        batches: what the model is called with, with labels in all or in none.

    Raises:
        BadInput: for batches that are none, or labels in some of them.
    """
    states, scores, answers = [], [], []
    with evaluating(model):
        for batch in checked_batches(batches):
            output, own = own_scores(model, places, {**batch, "output_hidden_states": True})
            hidden = output.hidden_states
            at = places.of(batch)(hidden[0].shape[1]).to(hidden[0].device)
            rows = torch.arange(len(at), device=at.device)
            states.append(torch.stack([layer[rows, at].float().cpu() for layer in hidden]))
            scores.append(own.cpu())
            answers.append(places.answers(batch))
    if not states:
        raise BadInput("there are no batches: expected one or more")
    told = [x.cpu() for x in answers if x is not None]
    if told and len(told) < len(answers):
        raise BadInput("some batches have labels and some have none: give labels in all, or in none")
    return Reading(torch.cat(states, 1), torch.cat(scores), torch.cat(told) if told else None)


@contextmanager
def keeping(plm: nn.Module, stack: Stack) -> Iterator[dict[int, Tensor]]:
    """In this block a forward keeps its states by layer, and ends behind the last one of the stack.

    Raises:
        AllLeft: out of the forward, there.
    """
    states: dict[int, Tensor] = {}
    last, mine = len(stack), threading.get_ident()

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if 0 not in states and threading.get_ident() == mine:
            states[0] = first_states(stack.start, (args, kwargs))

    with _one, ExitStack() as hooks:
        first = plm.get_submodule(stack.blocks[0][0])
        hooks.callback(first.register_forward_pre_hook(before, with_kwargs=True).remove)
        for path in dict.fromkeys(path for path, _ in stack.blocks):
            layers = iter([k for k, (where, _) in enumerate(stack.blocks, 1) if where == path])

            def after(module: nn.Module, args: Any, output: Any, layers: Iterator[int] = layers) -> None:
                if threading.get_ident() != mine:
                    return
                layer = next(layers)
                states[layer] = yielded_states(output)
                if layer == last:
                    raise AllLeft

            hooks.callback(plm.get_submodule(path).register_forward_hook(after).remove)
        yield states


def states_up_to(model: nn.Module, stack: Stack, inputs: dict[str, Any]) -> dict[int, Tensor]:
    """By layer the states [B, S, H] of one forward that ends behind the last one of the stack."""
    with keeping(pretrained_model(model), stack) as states:
        try:
            model(**called_with(model, inputs))
        except AllLeft:
            return states
    raise BadInput(f"{type(model).__name__} did not run the layers that it was cut to")
