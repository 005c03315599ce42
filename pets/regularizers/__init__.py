"""What people use instead of a running cost: regularizers of the literature, one a file, by name.

Importing this room registers all of them. A new file is added here, and nowhere else.
"""

from __future__ import annotations

from bridges.errors import BadInput, is_number, shown
from bridges.written import pairs
from pets.regularizers.anchor import Anchor
from pets.regularizers.base import Objective, catalogue, symmetric_kl
from pets.regularizers.contrast import Contrast
from pets.regularizers.dropout import Dropout
from pets.regularizers.early_exit import EarlyExit
from pets.regularizers.jump import Jump
from pets.regularizers.label_smoothing import LabelSmoothing
from pets.regularizers.names import available, get, info, parse
from pets.regularizers.neftune import NEFTune
from pets.regularizers.r3f import R3F
from pets.regularizers.r_drop import RDrop
from pets.regularizers.weight_decay import WeightDecay

split = catalogue.split

__all__ = [
    "R3F",
    "Anchor",
    "Contrast",
    "Dropout",
    "EarlyExit",
    "Jump",
    "LabelSmoothing",
    "NEFTune",
    "Objective",
    "RDrop",
    "WeightDecay",
    "available",
    "catalogue",
    "get",
    "info",
    "parse",
    "split",
    "strengths",
    "symmetric_kl",
    "weighed",
]


def weighed(text: str) -> tuple[str, float | None]:
    """A text without its weight, and that: ``"r-drop:weight=1"`` is ``("r-drop", 1.0)``.

    Raises:
        BadInput: for an unknown name, and for a text that is not ``name:key=value,...``.
    """
    name, parameters = split(text)
    others = [item for key, _, item in pairs(text.partition(":")[2]) if key != "weight"]
    weight = parameters.get("weight")
    if weight is not None and not is_number(weight):
        raise BadInput(f"regularizer {shown(text)}: expected weight=number, as in {catalogue.example}")
    return f"{name}:{','.join(others)}" if others else name, weight if weight is None else float(weight)


def strengths(name: str, count: int) -> list[float]:
    """So many strengths of a regularizer to choose from; see `Objective.strengths`.

    Raises:
        BadInput: for an unknown name or a count below 1.
    """
    return info(name).cls.strengths(count)
