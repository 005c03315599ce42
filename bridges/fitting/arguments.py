"""What ``help`` shows of a fit: its settings by name, though they are handed on as they come."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from bridges.fitting.settings import FitSettings, LensSettings

_Call = TypeVar("_Call", bound=Callable[..., Any])


def takes_settings(call: _Call) -> _Call:
    """The function, whose ``**settings`` are shown as the arguments that they may be.

    The defaults shown are those of `FitSettings`, whose documentation is added with that of
    `LensSettings`.
    """
    signature = inspect.signature(call)
    fields = {
        field.name: field for kind in (LensSettings, FitSettings) for field in dataclasses.fields(kind)
    }
    steps = fields["max_steps"]
    shown = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for name, field in ({"steps": steps} | fields).items()
        if field is not steps or name == "steps"
    ]
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    call.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
    documented = [f"{kind.__name__}: {inspect.getdoc(kind)}" for kind in (FitSettings, LensSettings)]
    call.__doc__ = "\n\n".join([inspect.cleandoc(call.__doc__ or ""), *documented])
    return call
