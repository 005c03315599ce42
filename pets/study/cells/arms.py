"""Arms of a comparison: a PET alone, with a running cost, with a control of one, with a regularizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bridges
from bridges.cost.reader import MAPS
from bridges.errors import BadInput
from bridges.processes import catalogue
from pets import regularizers

VANILLA = "vanilla"
CONTROLS = ("random-map", "shuffled-ends")
"""Of a cost: a latent map that is not fitted, words with each other's end points."""
BRIDGE, CONTROL, REGULARIZER = "bridges", "controls", "other regularizers"
ADAPTED, NORMALISED = "adapted", "norm"
READERS = (*MAPS, NORMALISED, ADAPTED)
KINDS = (VANILLA, BRIDGE, CONTROL, REGULARIZER)


@dataclass(frozen=True)
class Arm:
    """What a PET is tuned with.

    Attributes:
        text: how it is written: "vanilla", a bridge "ou:theta=2", a bridge with a reader "ou@lens", with
            a control "brownian@random-map", "brownian@lens@random-map", or a regularizer
            "label-smoothing", "early-exit:first=0.3". The reader "mlp", the published one, goes without
            saying; "norm" is the same on normalised states.
        bridge: the bridge's text, where the arm has a running cost.
        control: one of `CONTROLS`, where that is not the bridge's proper cost.
        regularizer: from `pets.regularizers`, with its options and without a weight.
        reader: of `bridges.RunningCost.for_model`, its ``map``, "norm" for ``normalise=True``, or
            "adapted", a lens that learns from the training examples too, see `pets.adapt`.
    """

    text: str
    bridge: str | None = None
    control: str | None = None
    regularizer: str | None = None
    reader: str = MAPS[0]

    @classmethod
    def parse(cls, text: str | Arm) -> Arm:
        """The arm that is written so; an arm is itself.

        Raises:
            BadInput: for an unknown name, reader or control, or wrong parameters of a bridge or
                regularizer.
        """
        if isinstance(text, Arm):
            return text
        if text == VANILLA:
            return cls(text)
        if text.partition(":")[0] in regularizers.available():
            return cls(text, regularizer=_checked(text))
        bridge, *more = text.split("@")
        reader = more.pop(0) if more and more[0] in READERS else MAPS[0]
        control = more.pop(0) if more and more[0] in CONTROLS else None
        if more:
            raise BadInput(
                f"arm {text!r}: {more[0]!r} is no reader or control, or not in its place; expected a "
                f"bridge, then {_either(READERS)} or nothing, then {_either(CONTROLS)} or nothing"
            )
        name = bridge.partition(":")[0]
        if name not in bridges.available():
            known = [VANILLA, *regularizers.available(), *bridges.available()]
            where = "" if name == text else f"arm {text!r}: "
            raise BadInput(f"{where}{catalogue.unknown('arm', name, known)}")
        bridges.parse(bridge)  # its parameters
        whole = "@".join(filter(None, [bridge, reader if reader != MAPS[0] else None, control]))
        return cls(whole, bridge=bridge, control=control, reader=reader)

    def __str__(self) -> str:
        return self.text

    @property
    def map(self) -> str:
        """Of `bridges.RunningCost.for_model`."""
        return {ADAPTED: "lens", NORMALISED: "mlp"}.get(self.reader, self.reader)

    def controls(self, arm: Arm) -> bool:
        """Whether this control, compared with that arm, tells the two apart.

        ``kinetic`` is the path likelihood of the Brownian bridge plus a constant, so it trains the same.
        What controls that one is ``regression``, or itself with ``shuffled-ends``.
        """
        name = (arm.bridge or "").partition(":")[0]
        if (self.bridge, name, arm.control) != ("kinetic", "brownian", None):
            return True
        bridge: Any = bridges.parse(str(arm.bridge))
        return bool(bridge.likelihood != "path" or bridge.learn or bridge.dims is not None)

    @property
    def fits(self) -> bool:
        """Whether it has a cost with a map to fit."""
        if self.bridge is None or self.control == "random-map":
            return False
        return bridges.parse(self.bridge).fits

    @property
    def kind(self) -> str:
        """One of `KINDS`.

        A control, which a claim about bridges has to beat, is a bridge's cost without its fitted map or
        proper end points, or a `bridges.Control`. A cost about the label, which is of a bridge, counts
        as one; so does a bridge that is not registered here.
        """
        if self.bridge is None:
            return VANILLA if self.text == VANILLA else REGULARIZER
        name = self.bridge.partition(":")[0]
        plain = name in bridges.available() and issubclass(bridges.info(name).cls, bridges.Control)
        return CONTROL if self.control or plain else BRIDGE

    def strengths(self, weights: Sequence[float]) -> list[float | None]:
        """What its tries are tuned with, as many as there are weights: every arm has the same budget."""
        if self.bridge is not None:
            return list(weights)
        if self.regularizer is not None:
            return list(regularizers.strengths(self.regularizer.partition(":")[0], len(weights)))
        return [None] * len(weights)


def _checked(text: str) -> str:
    """The text of a regularizer, whose options it takes and whose weight is chosen elsewhere."""
    if regularizers.weighed(text)[1] is not None:
        raise BadInput(
            f"arm {text!r}: its weight is selected among several, so it is no part of it: leave it out"
        )
    name, options = regularizers.split(text)
    regularizers.get(name, weight=regularizers.strengths(name, 1)[0], **options)
    return text


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"@{name}" for name in names)
