"""Which model and tokenizer a run is made of: everything of them that its numbers depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

from bridges.model.fingerprint import weights_sha256
from bridges.model.weights import pretrained_model
from bridges.storage.files import tensor_bytes

_NOT_COMPUTED_WITH = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",  # the weights have it
    "id2label",
    "label2id",
    "name_or_path",
    "transformers_version",
)
"""Of a config: where it is from and what it is called."""
_WITH_VERSIONS = ("torch", "transformers", "peft", "bridges", "kernels", "pets")
"""Packages whose code a run names by version, or by `bridges.storage.source.source_digest`."""
_OF_PETS = ("peft.", "pets.")
"""Modules whose layers change what a model computes."""
_COPIED_CODE = "transformers_modules"
"""The package that transformers puts a model's own code in."""
_PROBE = "It isn't so: 12,345 naïve Ünïcode words, tabs\tand  spaces — <b>東京</b> 🙂 [MASK] <mask> ##s"


def model_identity(model: nn.Module, tokenizer: Any) -> dict[str, str | None]:
    """What a run has to go on with, to the bit; where the files are and what they are called is no part.

    Args:
        model: a transformers model, plain or wrapped.
        tokenizer: its tokenizer.

    Returns:
        Hashes by name, to be a part of a run's identity: "model_sha256" of all weights, those that were
        drawn because the checkpoint lacks them and those of a PET on the model included;
        "config_sha256" of what the config and the modules compute with, such as dropout;
        "tokenizer_sha256" of what makes tokens of a text; "model_code" of classes that come with the
        model, None where all are of libraries.

    Raises:
        BadInput: for weights that are not there.
    """
    plm = pretrained_model(model)
    return {
        "model_sha256": _model_sha256(plm),
        "config_sha256": _config_sha256(plm),
        "tokenizer_sha256": _tokenizer_sha256(tokenizer),
        "model_code": own_code(plm, getattr(plm, "config", None), tokenizer),
    }


def own_code(*objects: Any) -> str | None:
    """A hash of the code of the objects' classes that is of no library known by its version, else None.

    Args:
        objects: any; of a module its parts count too.
    """
    pieces = [part for x in objects for part in (x.modules() if isinstance(x, nn.Module) else [x])]
    classes = {kind for piece in pieces for kind in type(piece).__mro__}
    texts = {text for kind in classes if not _is_known(kind.__module__) for text in _source(kind)}
    return _sha256(sorted(texts)) if texts else None


def _model_sha256(plm: nn.Module) -> str:
    base = weights_sha256(plm)
    if not any(type(part).__module__.startswith(_OF_PETS) for part in plm.modules()):
        return base
    digest = hashlib.sha256(base.encode())
    for name, value in plm.named_parameters():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        digest.update(name.encode() + tensor_bytes(whole))
    return digest.hexdigest()


def _config_sha256(plm: Any) -> str:
    modules = re.sub(r" at 0x[0-9a-f]+", "", repr(plm))  # rates of dropout, epsilons, activations
    attention = getattr(plm.config, "_attn_implementation", None)
    return _sha256([_computed_with(plm.config.to_dict()), modules, attention])


def _computed_with(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: _computed_with(v) for k, v in config.items() if k not in _NOT_COMPUTED_WITH}
    return config


def _tokenizer_sha256(tokenizer: Any) -> str:
    facts = [
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        [str(token) for token in tokenizer.all_special_tokens],
        tokenizer.padding_side,
        tokenizer.truncation_side,
        list(tokenizer.model_input_names),
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        # As the last call left them.
        facts.append({k: v for k, v in pipeline.items() if k not in ("padding", "truncation")})
    else:  # in Python: what its files hold is not known, what it does is
        facts += [tokenizer.get_vocab(), tokenizer.tokenize(_PROBE), type(tokenizer).__name__]
    return _sha256(facts)


def _is_known(module: str) -> bool:
    top = module.partition(".")[0]
    return top in _WITH_VERSIONS or (top in sys.stdlib_module_names and top != "__main__")


def _source(kind: type) -> Iterator[str]:
    """The text of the file that a class is in, and of those beside it that came with the model."""
    name = kind.__module__
    module = sys.modules.get(name)
    if module is None or name == "__main__":  # the rest of a script is no part of the model
        yield _text(kind)
    elif name.partition(".")[0] == _COPIED_CODE:
        package = name.rpartition(".")[0] + "."
        for other, sibling in list(sys.modules.items()):
            if other.startswith(package):
                yield _text(sibling)
    else:
        yield _text(module)


def _text(code: type | ModuleType) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # typed at a prompt, or compiled
        return getattr(code, "__qualname__", code.__name__)


def _sha256(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
