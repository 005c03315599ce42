"""A PET, a method of parameter-efficient tuning: a peft config of its published settings, by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from peft import PeftConfig
from torch import nn

from bridges.errors import BadInput, check_counts, is_number, listed, shown
from bridges.registry import Registry
from pets.methods.task_type import NO_HEAD, learn_from_model, task_type

_COUNTS = ("r", "num_virtual_tokens")


class PET:
    """What `pets.get` makes a config of: a class of peft's, published settings, what it asks of a model.

    A subclass that names itself, ``class IA3(PET, name="ia3")``, is registered.

    Args:
        **options: fields of peft's config class; they replace the settings here.

    Attributes:
        config_class: peft's, of its configs.
        settings: published ones, where they are not peft's defaults.
        learning_rate: published for the few-shot protocol, constant, of AdamW.

    Raises:
        BadInput: for a number that peft would take as it is, to fail or to train on NaN later.
    """

    name: ClassVar[str] = ""
    config_class: ClassVar[type[PeftConfig]]
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    learning_rate: ClassVar[float] = 1e-4

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        if name is not None:
            catalogue.register(name, cls)

    def __init__(self, **options: Any) -> None:
        self.options = options
        check_counts(**{k: v for k, v in options.items() if k in _COUNTS})
        for option, value in options.items():
            numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
            if numeric and not is_number(value):
                raise self.refused(option, "a finite number")

    def on(self, model: nn.Module) -> dict[str, Any]:
        """Options that follow from the model it is meant for.

        Raises:
            BadInput: for a model that it does not work on.
        """
        kind = task_type(model)
        return {"task_type": kind} if kind else {}

    def filled(self, options: dict[str, Any]) -> dict[str, Any]:
        """All fields of the config that are not peft's defaults."""
        return {"task_type": NO_HEAD, **self.settings, **options}

    def config(self, model: nn.Module | None = None) -> PeftConfig:
        """The config, for a model or for any; its task type is then that of the one it is put on.

        Raises:
            BadInput: for an option the method does not have, or a model it does not work on.
        """
        options = {**(self.on(model) if model is not None else {}), **self.options}
        filled = self.filled(options)
        taken = {field.name for field in dataclasses.fields(self.config_class) if field.init}
        if unknown := [option for option in filled if option not in taken]:
            raise BadInput(
                f"PET {self.name!r} has no option {', '.join(map(shown, unknown))}; it takes "
                f"{listed(_fields(type(self)), 60)}"
            )
        try:
            config = self.config_class(**filled)
        except (TypeError, ValueError) as error:
            raise BadInput(f"PET {self.name!r} with {shown(options)}: {error}") from error
        if model is None and "task_type" not in options:
            learn_from_model(config)
        return config

    def refused(self, option: str, expected: str) -> BadInput:
        """The error for an option's value."""
        value = shown(self.options[option])
        return BadInput(f"PET {self.name!r} with {option}={value}: expected {expected}")


def _fields(cls: type[PET]) -> dict[str, Any]:
    """What a config has to say, but for what all of them have, and what it says by default."""
    of_all = {field.name for field in dataclasses.fields(PeftConfig)}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls.config_class):
        if field.init and field.name not in of_all:
            fields[field.name] = inspect.Parameter.empty
            if field.default is not dataclasses.MISSING:
                fields[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                fields[field.name] = field.default_factory()
    return {**fields, **cls.settings}


catalogue: Registry[PET] = Registry(
    "PET",
    group="pets",
    home="pets.methods",
    example="lora:r=16,target_modules=all-linear",
    defaults=_fields,
    by_default=False,
)
"""Every PET that is known by a name: `pets.get` and its like."""
