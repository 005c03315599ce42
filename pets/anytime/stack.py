"""A model's layers one by one: its states on their way up, and rows that leave the batch there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from bridges.errors import BadInput
from bridges.model.probe import probing
from bridges.model.undisturbed import undisturbed
from pets.anytime.leaves import Path, leaves, replaced
from pets.anytime.looking import FEW, MORE, Blocks, Kind, blocks_of, is_same, kind_of, tensors_of

Visit = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called with a layer k from 0 to L - 1, its states [n, S, H] and the rows [n] of the batch that they
are of. Returns which of the n stay, as indices in their order; None for all, as at 0."""


class AllLeft(Exception):
    """No row is left: the rest of the forward has nothing to do."""


@dataclass(frozen=True)
class Stack:
    """The L layers of a transformers model, as they were seen at work.

    Attributes:
        blocks: the module that yields state k, k = 1 .. L, and which of its calls in a forward that is:
            ALBERT calls one again and again.
        kinds: of each block's call the arguments, and parts of the result, that are tensors, see `Kind`.
        start: of the first block's call, the argument that is state 0.
    """

    blocks: Blocks
    kinds: tuple[Mapping[Path, Kind], ...]
    start: Path

    def __len__(self) -> int:
        return len(self.blocks)

    @classmethod
    def of(cls, plm: PreTrainedModel) -> Stack:
        """Run a model twice and see; nothing of it stays.

        Raises:
            BadInput: for a model that does not run on token ids alone, or whose layers are not called
                one after another, each with the states of the one before.
        """
        name = type(plm).__name__
        if getattr(plm.config, "is_encoder_decoder", False):
            raise BadInput(
                f"{name} has an encoder and a decoder: rows leave one stack of layers, that of a masked "
                "or causal language model or of a classifier on one"
            )
        try:
            with probing(), undisturbed(plm), torch.no_grad():
                blocks, first = blocks_of(plm, name)
                few, more = (tensors_of(plm, blocks, rows) for rows in (FEW, MORE))
        except BadInput:
            raise
        except Exception as error:  # whatever a model stops with that wants other inputs
            message = " ".join(str(error).split())[:200]
            raise BadInput(
                f"the layers of {name} cannot be told apart: it does not run on token ids alone "
                f"({type(error).__name__}: {message})"
            ) from error
        start = next((path for path, x in few[0].items() if is_same(x, first)), None)
        if start is None:
            raise BadInput(
                f"the first layer of {name} does not take its state 0: they cannot be told apart"
            )
        pairs = zip(few, more, strict=True)
        kinds = tuple(
            {path: kind_of(x, other.get(path)) for path, x in one.items()} for one, other in pairs
        )
        return cls(blocks, kinds, start)

    @contextmanager
    def visited(self, plm: nn.Module, visit: Visit) -> Iterator[None]:
        """In this block every forward of the model calls ``visit`` between its layers.

        Rows that do not stay are taken out of the batch, of states, masks, positions and caches. Behind
        the last layer the batch has all its rows again, of which those that left are zero, so that
        whatever comes then finds what it knows of. Forwards of other threads are none of its business.

        Raises:
            AllLeft: out of the forward, once no row stays.
        """
        with ExitStack() as stack:
            walk = _Walk(self, visit)
            for path in dict.fromkeys(path for path, _ in self.blocks):
                block = plm.get_submodule(path)
                numbers = [k for k, (where, _) in enumerate(self.blocks) if where == path]
                before, after = walk.hooks(numbers)
                stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(block.register_forward_hook(after, with_kwargs=True).remove)
            yield


class _Walk:
    """One forward after another on their way through the layers."""

    def __init__(self, stack: Stack, visit: Visit) -> None:
        self._stack, self._visit = stack, visit
        self._rows: dict[int, Tensor] = {}  # which rows of the batch there were, by their number
        self._count = self._full = 0
        self._caches: dict[int, int] = {}  # rows that a cache has, by its id

    def hooks(self, numbers: list[int]) -> tuple[Any, Any]:
        """Of a module that is these blocks, one after another."""
        turn, mine = 0, threading.get_ident()

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != mine:
                return None
            k = numbers[turn % len(numbers)]
            if k == 0:
                self._begin((args, kwargs))
            if self._count == self._full:
                return None
            return self._narrowed((args, kwargs), self._stack.kinds[k])

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            nonlocal turn
            if threading.get_ident() != mine:
                return None
            k = numbers[turn % len(numbers)]
            turn += 1
            try:
                return self._behind(k, output, self._stack.kinds[k])
            except BaseException:
                turn = 0  # of the next forward
                raise

        return before, after

    def _begin(self, given: Any) -> None:
        states = first_states(self._stack.start, given)
        self._count = self._full = len(states)
        self._rows, self._caches = {self._full: torch.arange(self._full, device=states.device)}, {}
        self._visit(0, states, self._rows[self._full])

    def _behind(self, k: int, output: Any, kinds: Mapping[Path, Kind]) -> Any:
        """What comes out of block k."""
        states = yielded_states(output)
        last = k + 1 == len(self._stack)
        if not last:
            rows = self._rows[self._count].to(states.device)
            stay = self._visit(k + 1, states, rows)
            if stay is None or len(stay) == self._count:
                return None
            if not len(stay):
                raise AllLeft
            self._count = len(stay)
            self._rows = {n: r.to(states.device) for n, r in self._rows.items()}
            self._rows[self._count] = rows[stay]
            return self._narrowed(("output", output), kinds)[1]
        if self._count == self._full:
            return None
        return replaced(("output", output), self._widened(kinds))[1]

    def _narrowed(self, given: Any, kinds: Mapping[Path, Kind]) -> Any:
        """With the rows that are left, of whatever had more."""

        def narrow(path: Path, value: Any) -> Any:
            if isinstance(value, Cache):
                had = self._caches.get(id(value), self._full)
                if had != self._count:
                    value.batch_select_indices(self._places(had, path))
                    self._caches[id(value)] = self._count
                return value
            kind = kinds.get(path, "other")
            if not isinstance(value, Tensor) or not value.dim() or kind == "same" or len(value) == 1:
                return value
            if kind == "other":
                raise self._unknown(len(value), path)
            if len(value) == self._count:
                return value
            return value[self._places(len(value), path).to(value.device)]

        return replaced(given, narrow)

    def _places(self, had: int, path: Path) -> Tensor:
        """Of the rows that are left, among those that there were when they were so many."""
        if had not in self._rows:
            raise self._unknown(had, path)
        return torch.searchsorted(self._rows[had], self._rows[self._count])

    def _unknown(self, had: int, path: Path) -> BadInput:
        named = f", {path[-1]!r}," if isinstance(path[-1], str) else ""
        return BadInput(
            f"a batch of {self._full} rows has a tensor of {had}{named} on its way through the layers "
            "whose rows are not known: rows cannot leave it one by one; take together=True, or leave "
            "out what is no input of the model"
        )

    def _widened(self, kinds: Mapping[Path, Kind]) -> Callable[[Path, Any], Any]:
        def widen(path: Path, value: Any) -> Any:
            if kinds.get(path) != "rows" or not isinstance(value, Tensor):
                return value
            whole = value.new_zeros(self._full, *value.shape[1:])
            whole[self._rows[self._count].to(value.device)] = value
            return whole

        return widen


def first_states(start: Path, given: Any) -> Tensor:
    """State 0, in what the first block was called with: positional arguments and those by name.

    Raises:
        BadInput: if it is not where it was when the model was looked at.
    """
    states = next((x for path, x in leaves(given) if path == start), None)
    if not isinstance(states, Tensor):
        raise BadInput("the first layer was called in another way than when it was looked at")
    return states


def yielded_states(output: Any) -> Tensor:
    """The states that a block yields."""
    states = output[0] if isinstance(output, tuple) else output
    assert isinstance(states, Tensor)
    return states
