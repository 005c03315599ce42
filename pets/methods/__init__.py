"""The PETs: one method a file, or a folder where it is ours, as peft configs with published settings.

Importing this room registers all of them, here and, where they are ours, with peft. A new file is added
here, and nowhere else. A method of the installed peft needs no name here to be used.
"""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from torch import nn

from bridges.errors import BadInput
from bridges.registry import Info
from pets.methods.adapter.pet import Adapter
from pets.methods.base import PET, catalogue
from pets.methods.bitfit.pet import BitFit
from pets.methods.installed import installed, names, own_name, read_config, saved_config
from pets.methods.lora import Lora
from pets.methods.prompts import Prefix, Prompt, init_prompt

__all__ = [
    "PET",
    "Adapter",
    "BitFit",
    "Lora",
    "Prefix",
    "Prompt",
    "available",
    "catalogue",
    "get",
    "info",
    "init_prompt",
    "learning_rate",
    "parse",
    "split",
]


def available(pattern: str = "*") -> list[str]:
    """The names of the methods with published settings here, sorted; `get` also takes any other of peft.

    Args:
        pattern: shell-style, of the names that are wanted: ``"p*"``.
    """
    return catalogue.available(pattern)


def info(name: str) -> Info[PET]:
    """What is known of a method: one of those `available`, or any other of the installed peft.

    Raises:
        BadInput: for an unknown name.
    """
    if isinstance(name, str) and (name := own_name(name)) not in available():
        found = installed(name)
        if found is not None:
            return Info(found.name, found, str(found.__doc__), "", catalogue.parameters(found))
    try:
        return catalogue.info(name)
    except BadInput as error:
        others = ", ".join(sorted(set(names()) - set(available())))
        raise BadInput(f"{error}. Others of the installed peft: {others}") from None


def split(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a method in one word, or in the config of a saved adapter.

    Args:
        text: ``"lora"``, ``"lora:r=16,target_modules=[query,key]"``, ``"ia3"``, or the path of an
            adapter_config.json or of the folder that it is in.

    Raises:
        BadInput: for an unknown name, a text that is not ``name:key=value,...``, or a file that is no
            such config.
    """
    path = saved_config(text) if isinstance(text, str) else None
    if path is not None:
        name, options, default = read_config(path)
        here = info(name).cls(**options).filled(options)  # where a number may be another than peft's
        kept = {key: value for key, value in default.items() if here.get(key, value) != value}
        return name, {**options, **kept}
    name, options = catalogue.split(text, info=info)
    return info(name).name, options


def get(name: str, *, model: nn.Module | None = None, **options: Any) -> PeftConfig:
    """The peft config of a method: ``get_peft_model(plm, pets.get("lora", r=8))``.

    Args:
        name: of those `available`, see `info`.
        model: what it is meant for; give it for "prefix", "prompt" and classifiers. A prefix is then
            refused where the model would not read it: peft trains nothing there, without a word. A LoRA
            is refused, with the names of the modules there are, where peft knows no targets. A
            prompt gets the width of the word embeddings, which peft only guesses (wrongly for ALBERT
            and ELECTRA). peft is told what the head does (``task_type``), so that a classifier's is
            trained too and ``AutoPeftModelForCausalLM`` and its like load what is saved; without a
            model ``get_peft_model`` finds that out, but ``model.add_adapter`` does not. peft has no
            such class for a masked LM: ``PeftModel.from_pretrained(plm, folder)`` puts a saved PET
            on it, as ``AutoPeftModel`` does after ``task_type=None``, while
            ``AutoPeftModelForFeatureExtraction`` finds no place for the weights and only warns.
        **options: fields of peft's config class; they replace the defaults.

    Raises:
        BadInput: for an unknown name, an option the method does not have, or a model it does not work
            on.
    """
    return info(name).cls(**options).config(model)


def parse(text: str, *, model: nn.Module | None = None) -> PeftConfig:
    """The config of a method in one word: ``"lora"``, ``"lora:r=16,target_modules=[query,key]"``.

    A value is read as what it looks like: a number, true, false, none, a list in brackets, else a text.

    Raises:
        BadInput: as `get`, and for a text that is not ``name:key=value,...``.
    """
    name, options = split(text)
    return get(name, model=model, **options)


def learning_rate(name: str) -> float:
    """The published learning rate of a method, constant, of AdamW: 1e-3 for prompts, 1e-4 otherwise.

    Raises:
        BadInput: for an unknown name.
    """
    return info(name).cls.learning_rate
