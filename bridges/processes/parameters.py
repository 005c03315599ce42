"""Numbers of a bridge that may be learned: fixed as they are given, or kept in a range by their form.

A bridge names such a constructor argument in its class body, ``sigma = Scale(1e-3, 10)``, and assigns
it in its constructor. What is read back, ``self.sigma``, is the number itself while it is fixed, and a
float64 tensor with a gradient when it is among the bridge's ``learn``. A list, where one is allowed,
gives each latent dimension its own: a tensor [d], to which `GaussianBridge.per_dimension` fits times.

What learning does. The latent map and these parameters minimise one likelihood with its normaliser, so a
spread that is too wide costs as much as one that is too narrow: for given residuals r the best sigma has
``sigma^2 = mean(r^2 / s2)`` with s2 at sigma 1. The end points are fixed unit vectors, so a map that
shrinks to 0 leaves residuals of the size of v and gains nothing. A lens, whose latent is m(t) times a
guess of v, is there before: then it is the likelihood of the guesses, which m(t) does not shrink. The
likelihood is unbounded in one case alone: where the states give v away in every layer, residuals and
sigma can fall to 0 together. States of a masked word do not; a map that has memorised its text comes
close on that text, which shows as a rising held-out cost (`RunningCost.fit` stops on it), and the range
ends it in any case.

Each parameter of each process can be found by either likelihood, marginal or path, on trajectories that
the process made (tests/bridges/processes/test_recovery.py); the processes say where in its range it
cannot.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import LARGEST, BadInput, is_number, listed, shown
from bridges.processes.formulas import check_between

_AT_BOUND = 1e-3
_DIGITS = 6  # of a learned number when it is shown or written; the files of a cost hold it exactly


class Learnable(ABC):
    """A constructor argument that may be learned; a descriptor, see the module.

    The free tensor that an optimizer moves is the bridge's parameter ``free_<name>``.
    """

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, bridge: nn.Module | None, owner: type) -> Any:
        if bridge is None:
            return self
        free = bridge._parameters.get(f"free_{self.name}")
        if free is not None:
            return self.constrained(free.double())
        each = bridge._buffers.get(f"fixed_{self.name}")
        return self.fixed(bridge) if each is None else each.double()

    def __set__(self, bridge: nn.Module, value: Any) -> None:
        value = self.checked(value, learned=self.name in learned_names(bridge))
        bridge.__dict__[f"_{self.name}"] = value
        if self.name in learned_names(bridge):
            free = self.free(torch.tensor(value, dtype=torch.float64)).to(torch.get_default_dtype())
            bridge.register_parameter(f"free_{self.name}", nn.Parameter(free))

    def fixed(self, bridge: nn.Module) -> Any:
        """The value that was given.

        Raises:
            BadInput: if the constructor assigned none.
        """
        if f"_{self.name}" not in bridge.__dict__:
            raise BadInput(
                f"{type(bridge).__name__} declares {self.name} and does not assign it: "
                f"self.{self.name} = {self.name} in its constructor, after super().__init__(**options)"
            )
        return bridge.__dict__[f"_{self.name}"]

    def written(self, bridge: nn.Module) -> Any:
        """The present value as JSON can hold it: what the constructor takes."""
        if f"free_{self.name}" not in bridge._parameters:
            return self.fixed(bridge)
        value = self.__get__(bridge, type(bridge)).detach().tolist()
        return [_short(x) for x in value] if isinstance(value, list) else _short(value)

    def bound(self, bridge: nn.Module) -> float | None:
        """The end of its range that a learned value has come to, within a thousandth of it, if any."""
        return None

    @abstractmethod
    def checked(self, value: Any, *, learned: bool) -> Any:
        """The value in its plain form.

        Raises:
            BadInput: naming the value and the range.
        """

    @abstractmethod
    def free(self, value: Tensor) -> Tensor:
        """The free tensor of a value: the inverse of `constrained`."""

    @abstractmethod
    def constrained(self, free: Tensor) -> Tensor:
        """The value of a free tensor, whatever it is."""


class Positive(Learnable):
    """A number above 0, or a list of them, one a latent dimension; learned between two bounds.

    The logarithm is a logistic function of the free number, from log(low) to log(high).

    Args:
        low: of the range in which it is learned; a fixed one may be any number above 0, `most` at most.
        high: of that range.

    Raises:
        BadInput: for a range that is none, or that has numbers of 0 or less, as only `Between` may.
    """

    least, most = 0.0, LARGEST
    _above_0 = True

    def __init__(self, low: float, high: float) -> None:
        if not (is_number(low) and is_number(high) and low < high):
            raise BadInput(f"{type(self).__name__}({low!r}, {high!r}): expected two numbers, low < high")
        if low <= 0 and type(self)._above_0:
            raise BadInput(
                f"{type(self).__name__}({low!r}, {high!r}): expected numbers above 0; "
                "Between(low, high) takes a range with others"
            )
        self.low, self.high = low, high

    def __set__(self, bridge: nn.Module, value: Any) -> None:
        super().__set__(bridge, value)
        given = self.fixed(bridge)
        if not isinstance(given, list):
            return
        if bridge.__dict__.setdefault("_dims", len(given)) != len(given):
            raise BadInput(
                f"{self.name} has {len(given)} numbers, another parameter {bridge.__dict__['_dims']}: "
                "expected one for each latent dimension"
            )
        if self.name not in learned_names(bridge):
            each = torch.tensor(given, dtype=torch.float64)
            bridge.register_buffer(f"fixed_{self.name}", each, persistent=False)

    def checked(self, value: Any, *, learned: bool) -> Any:
        many = isinstance(value, (list, tuple)) and len(value) > 0
        for one in value if many else (value,):
            self.check(one, value, learned=learned)
        return list(value) if many else value

    def check(self, one: Any, value: Any, *, learned: bool) -> None:
        """Whether it is a number in the range.

        Args:
            one: the number, or one of several.
            value: what was given.
            learned: whether it is to be learned.

        Raises:
            BadInput: if not.
        """
        if not is_number(one) or one <= 0:
            raise BadInput(f"{self.name}={shown(value)}: expected a finite number above 0")
        if not self.least <= one <= self.most:
            limits = f"{self.least:g} to {self.most:g}"
            raise BadInput(f"{self.name}={shown(value)}: expected a number from {limits}")
        if learned and not self.low <= one <= self.high:
            raise BadInput(
                f"{self.name}={shown(value)}: expected a number from {self.low:g} to "
                f"{self.high:g}, the range in which it is learned"
            )

    def bound(self, bridge: nn.Module) -> float | None:
        free = bridge._parameters.get(f"free_{self.name}")
        if free is None:
            return None
        share = torch.sigmoid(free.detach().double())
        if (share < _AT_BOUND).any():
            return self.low
        return self.high if (share > 1 - _AT_BOUND).any() else None

    def free(self, value: Tensor) -> Tensor:
        # A bound itself is infinitely far; this is within 1e-5 of it.
        return torch.logit(self.share(value), eps=1e-6)

    def constrained(self, free: Tensor) -> Tensor:
        return self.of_share(torch.sigmoid(free))

    def share(self, value: Tensor) -> Tensor:
        """How far along its range a value is, from 0 to 1."""
        return (value / self.low).log() / math.log(self.high / self.low)

    def of_share(self, share: Tensor) -> Tensor:
        """The value there."""
        return self.low * torch.exp(math.log(self.high / self.low) * share)


class Scale(Positive):
    """A standard deviation, or a list of them: its square has to be a number too."""

    least = 1e-12


class Between(Positive):
    """A number, or a list of them, that keeps to its range whether it is learned or fixed.

    The range may begin at 0 or below: then it is not the logarithm that is a logistic function of the
    free number, but the number itself.
    """

    _above_0 = False

    def check(self, one: Any, value: Any, *, learned: bool) -> None:
        check_between(self.low, self.high, **{self.name: one})

    def share(self, value: Tensor) -> Tensor:
        return super().share(value) if self.low > 0 else (value - self.low) / (self.high - self.low)

    def of_share(self, share: Tensor) -> Tensor:
        if self.low > 0:
            return super().of_share(share)
        return self.low + (self.high - self.low) * share


def learnable(cls: type) -> dict[str, Learnable]:
    """What a class may learn, by name; a subclass comes before what it inherits."""
    named: dict[str, Learnable] = {}
    for base in cls.__mro__:
        named |= {k: v for k, v in vars(base).items() if isinstance(v, Learnable) and k not in named}
    return named


def at_bounds(bridge: nn.Module) -> dict[str, float]:
    """What a bridge, or one inside of it, has learned up to an end of its range, and which end."""
    found = {}
    for part in bridge.modules():
        for name, kind in learnable(type(part)).items():
            if (bound := kind.bound(part)) is not None:
                found[name] = bound
    return found


def learned_names(bridge: nn.Module) -> list[str]:
    """The names in the bridge's ``learn``."""
    return [name for name in getattr(bridge, "learn", "").split("+") if name]


def checked_names(cls: type, learn: str | Sequence[str]) -> str:
    """The names to learn in the form that is kept and written, ``"theta+sigma"``.

    Raises:
        BadInput: for a name that the class cannot learn.
    """
    names = learn.split("+") if isinstance(learn, str) else learn
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"learn={shown(learn)}: expected names joined by '+', as in 'theta+sigma'")
    names = [name.strip() for name in names if name.strip()]
    known = list(learnable(cls))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadInput(
            f"learn={shown(learn)}: {cls.__name__} cannot learn {listed(unknown)}; it can learn "
            f"{', '.join(known) or 'nothing'}, and several names are joined by '+'. A class declares "
            f"what it can learn in its body, {unknown[0]} = Positive(low, high) for example"
        )
    return "+".join(name for name in known if name in names)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
