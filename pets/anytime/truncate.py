"""Where to cut a model, and the cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from bridges import BadInput, RunningCost
from bridges.errors import check_flags, is_number, shown
from pets.anytime.classifier import AnytimeClassifier, checked_layers
from pets.anytime.cutting import cut
from pets.anytime.truncated import Size, TruncatedClassifier
from pets.plug.refusals import check_free
from pets.tasks.verbalizer import Verbalizer


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
        cost: as `AnytimeClassifier`, for a model that is none.
        verbalizer: as `AnytimeClassifier`, for a model that is none.
        layer: k, of 1 .. L - 1.
        max_loss: instead of it, how much lower than the full model's the accuracy on ``batches`` may
            be, in [0, 1): the first layer is taken that holds it.
        batches: as `AnytimeClassifier.fit`, of examples that exits were not fitted on. They calibrate
            the exits of a model that is no `AnytimeClassifier`. With ``max_loss`` they are needed, and
            labelled.
        same_weights: as `AnytimeClassifier`, for a model that is none.
        merge: put a PET's change into the weights, of which the cut model then has its own where they
            change. Without, the PET goes along.

    Raises:
        BadInput: as `AnytimeClassifier`; for both or none of layer and max_loss, one out of range, no
            layer that holds it, or a model that cannot be cut or merged, see `pets.anytime.cutting.cut`.

    Examples:
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
    anytime.warn_if_not_calibrated()
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
