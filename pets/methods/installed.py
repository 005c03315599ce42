"""Methods of the installed peft that are not named here, and configs that were saved with an adapter."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, ClassVar, cast

from peft import PeftConfig, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from bridges.errors import BadInput, shown
from pets.methods.base import PET
from pets.methods.prompts import prompt_shape

CONFIG_FILE = "adapter_config.json"
_OURS = {"prefix_tuning": "prefix", "prompt_tuning": "prompt"}
"""peft's names of methods that have others here."""
_NOT_OF_THE_METHOD = {
    *(field.name for field in dataclasses.fields(PeftConfig)),
    *("task_type", "peft_type", "inference_mode", "peft_version", "auto_mapping"),
}


_NEEDED = {"adaption_prompt": "adapter_layers", "trainable_tokens": "token_indices"}
_OF_SEVERAL_TASKS = ("multitask_prompt_tuning", "poly")


class _Installed(PET):
    """A method as peft has it, with peft's defaults."""

    prompt_tokens: ClassVar[int] = 20

    def on(self, model: nn.Module) -> dict[str, Any]:
        if self.name in _OF_SEVERAL_TASKS:
            raise BadInput(
                f"PET {self.name!r} learns several tasks at once and is told which one by task_ids: "
                "there is one task here, take another method"
            )
        needed = _NEEDED.get(self.name)
        if needed and not self.options.get(needed):
            raise BadInput(f"PET {self.name!r} needs {needed}, for which peft has no default: give it")
        learns_prompt = issubclass(self.config_class, PromptLearningConfig)
        return {**(prompt_shape(model) if learns_prompt else {}), **super().on(model)}

    def filled(self, options: dict[str, Any]) -> dict[str, Any]:
        learns_prompt = issubclass(self.config_class, PromptLearningConfig)
        tokens = {"num_virtual_tokens": self.prompt_tokens} if learns_prompt else {}
        return {**super().filled(options), **tokens, **options}


def names() -> dict[str, type[PeftConfig]]:
    """What the installed peft calls its methods, in lower case, and their configs."""
    return {str(kind.value).lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


@functools.cache
def installed(name: str) -> type[PET] | None:
    """The method of the installed peft that is called so; None where there is none.

    Args:
        name: as peft has it, in letters of either case, with dashes or underscores: "ia3", "ln-tuning".
    """
    config_class = names().get(_key(name))
    if config_class is None:
        return None
    description = f"{config_class.__name__} of peft, with its defaults."
    facts = {"config_class": config_class, "__doc__": description}
    method: Any = type(config_class.__name__.removesuffix("Config"), (_Installed,), facts)
    method.name = _key(name)
    return cast("type[PET]", method)


def own_name(name: str) -> str:
    """Of a method that has another name here that one."""
    return _OURS.get(_key(name), name)


def saved_config(text: str) -> Path | None:
    """The file of a saved adapter's config, which a text says itself or by its folder; else None."""
    path = Path(text)
    inside = path / CONFIG_FILE
    if inside.is_file():
        return inside
    return path if path.suffix == ".json" else None


def read_config(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of a saved adapter's method, its options, and those that are peft's defaults.

    Raises:
        BadInput: if it cannot be read, or is of no method of the installed peft.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"PET {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    kind = content.get("peft_type") if isinstance(content, dict) else None
    config_class = names().get(_key(kind)) if isinstance(kind, str) else None
    if config_class is None:
        raise BadInput(
            f"PET {str(path)!r} says peft_type {shown(kind)}: expected the {CONFIG_FILE} of an adapter, "
            f"of a method of the installed peft ({', '.join(sorted(names()))})"
        )
    known = {f.name: f for f in dataclasses.fields(config_class) if f.init}
    said = {k: v for k, v in content.items() if k in known and k not in _NOT_OF_THE_METHOD}
    default = {key: value for key, value in said.items() if value == _default(known[key])}
    options = {key: value for key, value in said.items() if key not in default}
    return own_name(str(kind).lower()), options, default


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _key(name: str) -> str:
    return name.lower().replace("-", "_")
