"""A model cut at a layer, with the exit there as its head."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bridges import BadInput, ModelSpec, RunningCost
from bridges.errors import check_flags, is_number, shown
from bridges.model.probe import probing
from bridges.model.spec import pretrained_model
from bridges.model.undisturbed import undisturbed
from pets.anytime import truncated_files
from pets.anytime.classifier import AnytimeClassifier, AnytimeOutput, checked_layers
from pets.anytime.cutting import cut, states_up_to
from pets.anytime.exits import Exit
from pets.anytime.places import Places
from pets.anytime.stack import Stack, some_inputs
from pets.plug.refusals import check_free
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


def truncate(
    model: nn.Module,
    cost: RunningCost | None = None,
    verbalizer: Verbalizer | None = None,
    *,
    layer: int | None = None,
    max_loss: float | None = None,
    batches: Iterable[Mapping[str, Any]] | None = None,
    same_weights: bool = True,
    merge: bool = False,
) -> TruncatedClassifier:
    """A model cut at a layer, with the exit there in the place of all that came behind.

    The model stays as it was; the cut one has modules of its own on the same weights in memory, so
    training either in place changes both.

    Args:
        model: an `AnytimeClassifier`, whose exits are taken as they are; or a model as it takes one.
        cost, verbalizer, same_weights: as `AnytimeClassifier`, for a model that is none.
        layer: k, of 1 .. L - 1.
        max_loss: instead of it, how much lower than the full model's the accuracy on ``batches`` may
            be, in [0, 1): the first layer is taken that holds it.
        batches: as `AnytimeClassifier.fit`, of examples that exits were not fitted on. They calibrate
            the exits of a model that is no `AnytimeClassifier`. With ``max_loss`` they are needed, and
            labelled.
        merge: put a PET's change into the weights, of which the cut model then has its own where they
            change. Without, the PET goes along.

    Raises:
        BadInput: as `AnytimeClassifier`; for both or none of layer and max_loss, one out of range, no
            layer that holds it, or a model that cannot be cut or merged, see `pets.anytime.cutting.cut`.

    Example:
        >>> small = pets.truncate(anytime, max_loss=0.01, batches=dev)  # doctest: +SKIP
        >>> small.save_pretrained("small", tokenizer)  # doctest: +SKIP
    """
    check_flags(merge=merge, same_weights=same_weights)
    if (layer is None) == (max_loss is None):
        raise BadInput(
            f"layer={shown(layer)}, max_loss={shown(max_loss)}: expected one of them, where to cut or "
            "what that may cost"
        )
    if max_loss is not None and (not is_number(max_loss) or not 0 <= max_loss < 1):
        raise BadInput(f"max_loss={shown(max_loss)}: expected a loss of accuracy in [0, 1), as 0.01")
    if max_loss is not None and batches is None:
        raise BadInput("max_loss needs batches=, labelled examples on which the layers are compared")
    given = isinstance(model, AnytimeClassifier)
    if given and (cost is not None or verbalizer is not None):
        raise BadInput("an AnytimeClassifier has its cost and its verbalizer: leave both out")
    if given and layer is not None and batches is not None:
        raise BadInput("an AnytimeClassifier is calibrated already: leave batches= out with layer=")
    anytime = model
    if not isinstance(anytime, AnytimeClassifier):
        layers = None if layer is None else [layer]
        anytime = AnytimeClassifier(model, cost, verbalizer, layers=layers, same_weights=same_weights)  # type: ignore[arg-type]
    check_free(anytime.model)
    if layer is not None:
        checked_layers([layer], anytime.num_layers)
        if layer not in anytime.layers:
            told = ", ".join(map(str, anytime.layers))
            raise BadInput(f"layer {layer} has no exit: there are some at {told}")
    if batches is not None:
        if isinstance(batches, Iterable) and not isinstance(batches, Mapping):
            batches = list(batches)  # they are read twice
        if not given:
            anytime.calibrate(batches)
    if layer is None:
        assert max_loss is not None
        assert batches is not None
        layer = _first_layer(anytime.accuracies(batches), anytime.num_layers, max_loss)
    made, stack = cut(anytime.model, anytime._stack, layer, merge=merge)
    full_size = Size.of(anytime.model, anytime.num_layers)
    exits = anytime._exits
    return TruncatedClassifier(made, stack, exits[layer], exits.cost.spec, anytime.verbalizer, full_size)


def _first_layer(accuracies: Mapping[int, float], count: int, max_loss: float) -> int:
    """The first layer that holds the loss.

    Raises:
        BadInput: where none does.
    """
    full = accuracies[count]
    exits = {k: accuracy for k, accuracy in accuracies.items() if k < count}
    for layer, accuracy in sorted(exits.items()):
        if accuracy >= full - max_loss - 1e-9:
            return layer
    best = max(exits, key=exits.__getitem__)
    raise BadInput(
        f"max_loss={max_loss:g}: no layer comes so near to the full model's accuracy of {full:.4g}; the "
        f"best, {best}, has {exits[best]:.4g}: fit the exits (AnytimeClassifier.fit) or allow for more"
    )


def _short(number: int) -> str:
    """As in 134.5 M."""
    sizes = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    size, letter = next((pair for pair in sizes if number >= pair[0]), (1.0, ""))
    return f"{number / size:.4g} {letter}"
