"""A model cut at a layer: a tree of modules of its own, whose weights are those of the whole one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from bridges import BadInput
from bridges.model.forward import states_of
from bridges.model.probe import probing
from bridges.model.spec import pretrained_model, text_config
from bridges.model.undisturbed import undisturbed
from pets.anytime.looking import some_inputs
from pets.anytime.reading import called_with, states_up_to
from pets.anytime.stack import Stack
from pets.tuning.models import unload

_ROWS = 2
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Relative, of what a merged adapter may change; in other dtypes `_OF_HALF`."""
_OF_HALF = 0.1
_BY_LAYER = (PeftType.PREFIX_TUNING,)
"""Prompts that hold something for every layer."""


@torch.inference_mode(False)  # else what is made here would be for it alone
def cut(model: nn.Module, stack: Stack, layer: int, *, merge: bool) -> tuple[nn.Module, Stack]:
    """The first layers of a model, with what is around them; the model is left as it was.

    The weights that stay are the model's own memory, whatever their number. Blocks behind the layer are
    gone, the config says so, and a prefix has keys and values for the layers that are there alone.

    Args:
        model: a transformers model, plain or inside a PeftModel.
        stack: of it.
        layer: k, of 1 .. L - 1.
        merge: put a PET's change into the weights, which are then copies where there is one.

    Returns:
        A model of the same class, in eval mode, and the stack of its blocks.

    Raises:
        BadInput: for a model that cannot be cut, a PET that cannot be merged, or states that come out
            different on a few tokens.
    """
    carrier = _carrier(model)
    plm = pretrained_model(carrier)
    kept = {path for path, _ in stack.blocks[:layer]}
    gone = dict.fromkeys(path for path, _ in stack.blocks if path not in kept)
    tuned = [part for part in carrier.modules() if isinstance(part, BaseTunerLayer)] if merge else []
    changed = [*tuned, *(part.get_base_layer() for part in tuned)]  # one need not be inside the other
    made = twin(carrier, [plm.get_submodule(path) for path in gone], changed)
    inner = pretrained_model(made)
    if gone:
        _take_out(inner, list(gone), layer)
    _cut_config(text_config(inner), len(stack), layer)
    inner.name_or_path = inner.config.name_or_path = ""  # by that name there is another
    if isinstance(made, PeftModel):
        made = _with_pet_cut(made, len(stack), layer)
    made.eval()
    shorter = Stack(stack.blocks[:layer], stack.kinds[:layer], stack.start)
    _check_same(carrier, made, shorter)
    if merge:
        made = _merged(made, shorter)
    return made, shorter


def _carrier(model: nn.Module) -> Any:
    """The PeftModel, or the plain transformers model, inside wrappers.

    Raises:
        BadInput: for adapters without a PeftModel around them, or several in one.
    """
    pretrained_model(model)  # there is one
    found = next(part for part in model.modules() if isinstance(part, (PeftModel, PreTrainedModel)))
    if isinstance(found, PeftModel):
        names = list(found.peft_config)
        if len(names) > 1 or isinstance(found.active_adapter, list):
            raise BadInput(
                f"the model has the adapters {', '.join(names)}: expected one; take the others off with "
                "model.delete_adapter(name)"
            )
    elif any(isinstance(part, (BaseTunerLayer, ModulesToSaveWrapper)) for part in found.modules()):
        raise BadInput(
            f"{type(found).__name__} has an adapter and no PeftModel around it: give the PeftModel that "
            "get_peft_model returned"
        )
    return found


def twin(model: nn.Module, gone: Sequence[nn.Module] = (), changed: Sequence[nn.Module] = ()) -> Any:
    """A copy of the modules with the same numbers, but for those of ``changed``, which are copied.

    Parameters are objects of their own, so that moving the copy moves nothing of the model. What is
    ``gone`` is not copied but the same.
    """
    memo: dict[int, Any] = {id(part): part for part in gone}
    apart = {id(p) for part in changed for p in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in apart:
            plain = type(parameter) is nn.Parameter
            same = nn.Parameter(parameter.detach(), parameter.requires_grad) if plain else parameter
            memo[id(parameter)] = same
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever hangs on a module
        message = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {message}), and a model "
            "is cut in a copy: give it without hooks and wrappers"
        ) from error


def _take_out(plm: nn.Module, gone: list[str], layer: int) -> None:
    """Remove the blocks behind a layer from the list that they are in."""
    parents = {path.rpartition(".")[0] for path in gone}
    blocks = plm.get_submodule(parents.pop())
    numbers = [int(path.rpartition(".")[2]) for path in gone]
    first = min(numbers)
    whole = isinstance(blocks, (nn.ModuleList, nn.Sequential)) and not parents
    if not whole or numbers != list(range(first, len(blocks))):  # type: ignore[arg-type]
        raise BadInput(
            f"the blocks of {type(plm).__name__} are not the end of one list of modules, which could be "
            f"cut at layer {layer}"
        )
    del blocks[first:]  # type: ignore[operator]


def _cut_config(config: Any, count: int, layer: int) -> None:
    """In place: how many layers there are, and what is said of each."""
    for name, value in list(vars(config).items()):
        # Ids of tokens are lists too, and may be as many by chance.
        listed = isinstance(value, (list, tuple)) and len(value) == count
        if listed and not name.startswith("_") and "token" not in name and name != "architectures":
            setattr(config, name, value[:layer])
    config.num_hidden_layers = layer


def _with_pet_cut(model: Any, count: int, layer: int) -> Any:
    """Its PET for the layers that are left; the plain model where nothing of it is."""
    config: Any = model.active_peft_config
    config.base_model_name_or_path = None
    if config.is_prompt_learning:
        if config.peft_type in _BY_LAYER:
            _cut_prefix(model.prompt_encoder[model.active_adapter], config, count, layer)
        return model
    left = (BaseTunerLayer, ModulesToSaveWrapper)
    if isinstance(model.base_model, BaseTuner) and not any(isinstance(m, left) for m in model.modules()):
        unload(model)
        return model.get_base_model()
    return model


def _cut_prefix(encoder: Any, config: Any, count: int, layer: int) -> None:
    """In place: keys and values of the first layers, which come first in each virtual token's row."""
    if config.num_layers != count:
        raise BadInput(f"the prefix is of {config.num_layers} layers, and the model has {count}")
    width = 2 * layer * config.token_dim
    last = encoder.transform[-1] if hasattr(encoder, "transform") else encoder.embedding
    with torch.no_grad():
        if isinstance(last, nn.Linear):
            last.weight, last.out_features = nn.Parameter(last.weight[:width].clone()), width
            last.bias = nn.Parameter(last.bias[:width].clone())
        else:
            last.weight, last.embedding_dim = nn.Parameter(last.weight[:, :width].clone()), width
    config.num_layers = layer


def _merged(model: nn.Module, stack: Stack) -> nn.Module:
    """The plain model with a PET's change in its weights.

    Raises:
        BadInput: where it cannot be put there.
    """
    if not isinstance(model, PeftModel):
        return model
    config: Any = model.active_peft_config
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    keep = "keep it beside the model: merge=False"
    if config.is_prompt_learning or not isinstance(model.base_model, BaseTuner):
        raise BadInput(f"a PET of the kind {kind} cannot be merged into weights: {keep}")
    with undisturbed(model), torch.no_grad():
        before = states_up_to(model, stack, some_inputs(pretrained_model(model), _ROWS))[len(stack)]
    try:
        merged: Any = model.merge_and_unload(safe_merge=True)
    except Exception as error:  # each method of peft has its own
        message = " ".join(str(error).split())[:200]
        raise BadInput(f"a PET of the kind {kind} cannot be merged: {message}; {keep}") from error
    merged.eval()
    with undisturbed(merged), torch.no_grad():
        after = states_up_to(merged, stack, some_inputs(merged, _ROWS))[len(stack)]
    if not (after - before).norm() <= _ROUNDING.get(before.dtype, _OF_HALF) * before.norm():
        raise BadInput(f"merged, a PET of the kind {kind} gives other states than beside it: {keep}")
    return merged  # type: ignore[no-any-return]


def _check_same(model: nn.Module, made: nn.Module, stack: Stack) -> None:
    """Whether a cut model's states are the whole one's, to the bit, on a few tokens.

    Raises:
        BadInput: if not.
    """
    layer, plm = len(stack), pretrained_model(model)
    inputs = some_inputs(plm, _ROWS)
    name = type(plm).__name__
    try:
        with probing(), undisturbed(model), torch.no_grad():
            output = model(**called_with(model, inputs), output_hidden_states=True)
            whole = states_of(output)
        with probing(), undisturbed(made), torch.no_grad():
            found = states_up_to(made, stack, inputs)
    except BadInput:
        raise
    except Exception as error:  # whatever stops for want of the layers
        message = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{name} cut to {layer} layers does not run ({type(error).__name__}: {message})"
        ) from error
    assert whole is not None
    differ = [k for k, x in found.items() if not torch.allclose(x, whole[k], 0, 0, equal_nan=True)]
    if differ:
        raise BadInput(
            f"{name} cut to {layer} layers has other states at layer {differ[0]} than the whole model: "
            "its layers depend on how many there are"
        )
