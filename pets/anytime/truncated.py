"""A model cut at a layer, with the exit there as its head."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bridges import BadInput, ModelSpec
from bridges.model.probe import probing
from bridges.model.spec import pretrained_model
from bridges.model.undisturbed import undisturbed
from pets.anytime import truncated_files
from pets.anytime.exits import Exit
from pets.anytime.leaving import AnytimeOutput
from pets.anytime.looking import some_inputs
from pets.anytime.places import Places
from pets.anytime.reading import states_up_to
from pets.anytime.stack import Stack
from pets.tasks.verbalizer import Verbalizer

_ROWS = 2
_ROUNDING, _OF_HALF = 1e-3, 0.1
"""Relative, of states on another device."""


@dataclass(frozen=True)
class Size:
    """What a model is made of, its PET included.

    Attributes:
        layers: how many.
        parameters: how many numbers; those of a head that is not run count, since the files have them.
        bytes: that they take in memory.
    """

    layers: int
    parameters: int
    bytes: int

    @classmethod
    def of(cls, model: nn.Module, layers: int) -> Size:
        """Of a model with so many layers."""
        each = list(model.parameters())
        return cls(layers, sum(p.numel() for p in each), sum(p.numel() * p.element_size() for p in each))


class TruncatedClassifier(nn.Module):
    """The first k layers of a model, and the exit behind them that tells the label.

    Made by `pets.truncate`, or from a folder by `from_pretrained`. Nothing behind layer k is run, not
    the last norm and not the model's own head. For predictions: without gradient, always in eval mode.
    Generation and caches are not for it. Multiplications by a token's weights fall as the layers do,
    where all are alike; how long a forward takes is measured in benchmarks/.

    Attributes:
        model: the cut model, plain or a PeftModel: of the class it was of, with k layers.
        size: of it.
        full_size: of the model that it was cut from.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: Stack,
        exit_: Exit,
        spec: ModelSpec,
        verbalizer: Verbalizer,
        full_size: Size,
    ) -> None:
        super().__init__()
        self.model, self.full_size, self.spec = model, full_size, spec
        self.size = Size.of(model, len(stack))
        self._stack, self._exit = stack, exit_
        self._places = Places(model, spec, verbalizer)
        self.eval()

    def __repr__(self) -> str:
        own, full = self.size, self.full_size
        parameters = f"{_short(own.parameters)} of {_short(full.parameters)} parameters"
        share = round(100 * own.parameters / full.parameters)
        return (
            f"<TruncatedClassifier of {type(pretrained_model(self.model)).__name__}: "
            f"layer {own.layers} of {full.layers}, {parameters} ({share} %), "
            f"{_short(own.bytes)}B of {_short(full.bytes)}B; {', '.join(self.verbalizer.labels)}>"
        )

    @property
    def layer(self) -> int:
        """k."""
        return len(self._stack)

    @property
    def verbalizer(self) -> Verbalizer:
        """Words of the labels."""
        return self._places.verbalizer

    def train(self, mode: bool = True) -> TruncatedClassifier:
        """In eval mode whatever is asked for: it is for predictions."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, **inputs: Any) -> AnytimeOutput:
        """Answer a batch: what the model is called with; labels are taken no notice of.

        Returns:
            As an `AnytimeClassifier`; every row left at layer k.

        Raises:
            BadInput: for inputs with a cache, or that do not say where the label is told.
        """
        columns = self._places.of(inputs)
        states = states_up_to(self.model, self._stack, inputs)
        last = states[self.layer]
        rows = torch.arange(len(last), device=last.device)
        at = columns(last.shape[1]).to(last.device)
        self._exit = self._exit.to(last.device)
        found = self._exit({k: states[k][rows, at] for k in self._exit.reads}).exp()
        layers = torch.full_like(rows, self.layer)
        return AnytimeOutput(labels=found.argmax(1), probabilities=found, layers=layers)

    def save_pretrained(self, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
        """Write a folder that transformers loads as a model of k layers, with the exit beside it.

        ``config.json`` and the weights are the cut model's, ``pet/`` holds its PET as peft writes it,
        ``exit.json`` and ``exit.safetensors`` the exit. Before it takes its place the folder is loaded
        and asked a few tokens, for which there has to be memory; so it is whole, or not there. What it
        answers then is the same to the bit, up to what files do not hold, such as another implementation
        of attention, or rotary frequencies that ``model.to(torch.bfloat16)`` has rounded.

        Args:
            folder: new, or one that this method wrote, which is replaced.
            tokenizer: its files go along.

        Raises:
            BadInput: for a folder that holds something else, or a model that does not come back as it
                is.
            CannotWrite: if it cannot be written.
        """
        with truncated_files.new_model_folder(folder) as new:
            truncated_files.write(new, self._parts(), tokenizer)
            self._check_comes_back(new)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> TruncatedClassifier:
        """What `save_pretrained` wrote, on the CPU and in the dtype it was saved in; no code is run.

        Raises:
            BadInput: for a folder that holds no such model, or files that are broken or do not belong
                together.
        """
        parts = truncated_files.load(folder)
        with truncated_files.refusing_misfit(folder):
            full = Size(**parts.full_size)
            return cls(parts.model, parts.stack, parts.exit, parts.spec, parts.verbalizer, full)

    def _parts(self) -> truncated_files.Parts:
        full = vars(self.full_size)
        return truncated_files.Parts(
            self.model, self._stack, self._exit, self.spec, self.verbalizer, full
        )

    def _check_comes_back(self, folder: Path) -> None:
        """Whether what is loaded from a folder has the same states on a few tokens.

        Raises:
            BadInput: if not.
        """
        try:
            mine, theirs = self._states(), TruncatedClassifier.from_pretrained(folder)._states()
            error = float((mine - theirs).norm() / mine.norm())
            wrong = "" if mine.dtype == theirs.dtype else f"its states are {theirs.dtype}"
            if not error <= (_ROUNDING if mine.dtype == torch.float32 else _OF_HALF):
                wrong = f"its states differ by {error:.2g}"
        except BadInput as refused:
            wrong = str(refused)
        if wrong:
            raise BadInput(
                f"{type(pretrained_model(self.model)).__name__} does not come back from its files as it "
                f"is: {wrong}. If that is for its PET, truncate with merge=True"
            )

    def _states(self) -> torch.Tensor:
        with probing(), undisturbed(self), torch.no_grad():
            inputs = some_inputs(pretrained_model(self.model), _ROWS)
            return states_up_to(self.model, self._stack, inputs)[self.layer].cpu()


def _short(number: int) -> str:
    """As in 134.5 M."""
    sizes = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    size, letter = next((pair for pair in sizes if number >= pair[0]), (1.0, ""))
    return f"{number / size:.4g} {letter}"
