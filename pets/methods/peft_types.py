"""Our methods among peft's: the names in its enum, and the registration of their classes.

peft knows methods by members of `PeftType` and offers no way to add one, so the enum is extended here
and nowhere else. Everything in this module may run any number of times, in any order.
"""

from __future__ import annotations

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method


def extend(name: str) -> Any:
    """The member of `PeftType` called ``name``, added where there is none."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member.__objclass__ = PeftType
    # The enum's own __setattr__ guards its members; a new one goes past it, then into the three tables
    # that lookup by name, lookup by value and iteration use.
    type.__setattr__(PeftType, name, member)
    PeftType._value2member_map_[name] = member
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    return member


ADAPTER = extend("ADAPTER")
BITFIT = extend("BITFIT")
OURS = (ADAPTER, BITFIT)
"""Those that peft knows once this is imported."""


def register(name: str, config_cls: type, model_cls: Any) -> None:
    """Make a method known to peft: ``get_peft_model``, ``from_pretrained`` and the rest then find it.

    Registering the same classes again, also after a reload, replaces them.

    Raises:
        RuntimeError: if peft or another package has a different method of that name.
    """
    kind = extend(name.upper())
    taken = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    if taken is None:
        register_peft_method(
            name=name, config_cls=config_cls, model_cls=model_cls, prefix=model_cls.prefix
        )
    elif _path(taken) == _path(config_cls):
        PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config_cls
        PEFT_TYPE_TO_TUNER_MAPPING[kind] = model_cls
    else:
        raise RuntimeError(
            f"peft already has a method {name!r}, {_path(taken)}, so {_path(config_cls)} cannot take "
            "that name: use a peft release without it, or do not import the package that brings it"
        )


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
