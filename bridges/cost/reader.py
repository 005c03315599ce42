"""The readers that a running cost may have: which there are, their sizes, how one is made."""

from __future__ import annotations

from collections.abc import Sequence

from bridges.errors import BadInput, check_flags, check_name
from bridges.latent.end_points import ENDS
from bridges.latent.latent_map import Layers, Reader, default_widths
from bridges.latent.lens import Lens
from bridges.model.spec import ModelSpec
from bridges.processes.base import Cost

MAPS = ("mlp", "lens")
"""The published latent map, and the lens."""

_LENS_DIM = 128
"""Of a lens d is H/4, at most this: the contrasts between words need more than g has room for."""
_ENDS_OF = {"mlp": "pca", "lens": "white"}


def chosen_ends(map_name: str, ends: str | None) -> str:
    """The end points' name: the one given, else the map's own.

    Raises:
        BadInput: for an unknown map or unknown end points.
    """
    check_name("map", map_name, MAPS)
    ends = _ENDS_OF[map_name] if ends is None else ends
    check_name("ends", ends, ENDS)
    return ends


def chosen_widths(
    map_name: str, spec: ModelSpec, latent_dim: int | None, widths: Sequence[int] | None
) -> tuple[int, ...]:
    """The widths of the reader's layers; the last is d.

    Raises:
        BadInput: for widths that are none, or that do not go with the map or the latent dimension.
    """
    if widths is not None and map_name != "mlp":
        raise BadInput(f"map={map_name!r} has no layers of its own to give widths for: give latent_dim")
    if widths is None and map_name == "lens" and latent_dim is None:
        return (min(_LENS_DIM, max(16, spec.hidden_size // 4), spec.hidden_size),)
    if widths is None:
        by_rule = default_widths(spec.hidden_size, latent_dim)
        return by_rule if map_name == "mlp" else by_rule[-1:]
    if not isinstance(widths, Sequence) or not widths:
        raise BadInput("widths is empty: expected the widths of g's layers, the last one d")
    if latent_dim is not None and latent_dim != widths[-1]:
        raise BadInput(f"latent_dim={latent_dim} but widths end in {widths[-1]}: give one of them")
    return tuple(widths)


def chosen_normalise(map_name: str, normalise: bool | None) -> bool:
    """Whether states are normalised: as given, else as the map does it by itself.

    Raises:
        BadInput: for a lens without, or anything but a flag.
    """
    if normalise is None:
        return map_name == "lens"
    check_flags(normalise=normalise)
    if map_name == "lens" and not normalise:
        raise BadInput("normalise=False: a lens always reads normalised states; use map='mlp'")
    return normalise


def make_reader(
    map_name: str, bridge: Cost, spec: ModelSpec, widths: Sequence[int], *, normalise: bool = False
) -> Reader:
    """The reader, its weights drawn by torch's global generator.

    Raises:
        BadInput: for sizes out of range, or a lens for a bridge that reads the states itself.
    """
    if map_name == "lens":
        (dim,) = widths
        _check_takes_lens(type(bridge))
        return bridge.make_lens(spec.num_layers + 1, spec.hidden_size, dim)
    made = bridge.make_map(spec.hidden_size, widths)
    made.normalises = normalise
    return made


def _check_takes_lens(kind: type[Cost]) -> None:
    """Whether what last said which map a cost reads with has said so of a lens."""
    defined = [
        next(base for base in kind.__mro__ if name in vars(base)) for name in ("make_map", "make_lens")
    ]
    if defined[0] is not defined[1] and issubclass(*defined):
        raise BadInput(
            f"{kind.__name__} reads the states with a map of its own, and says nothing of a lens: take "
            "map='mlp', or define make_lens beside make_map"
        )


def widths_of(reader: Reader) -> list[int]:
    """As `chosen_widths` gave them."""
    return [len(bias) for bias in reader.biases] if isinstance(reader, Layers) else [reader.dim]


def map_of(reader: Reader) -> str:
    """One of `MAPS`."""
    return "lens" if isinstance(reader, Lens) else "mlp"
