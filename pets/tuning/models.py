"""Loading pretrained models, their tokenizers and saved PETs, with nothing missing unnoticed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from bridges.errors import BadInput, check_name
from bridges.model.autocast import fast_in_bfloat16
from pets.tasks.prompts import padding_id
from pets.tuning import model_files

logger = logging.getLogger(__name__)

PET_WEIGHTS = "adapter_model.safetensors"

# In this order: a model whose config names no class gets the first that its architecture has.
_HEADS = (
    (MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
    (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
    (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM),
    (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, AutoModelForSequenceClassification),
)
_MISSING_SEED = 0
"""Of the weights that a checkpoint lacks: the same name is the same model every time."""
DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"
"""In the place of a dtype: the one that is fast on this machine, whatever the checkpoint has."""
QUANTIZED = ("4bit", "8bit")


@dataclass(frozen=True)
class HowLoaded:
    """How the weights of a model are kept.

    Attributes:
        dtype: one of `DTYPES`; `AUTO` becomes one of them here, so that records of it, and every worker
            that it is sent to, have the same.
        quantize: one of `QUANTIZED`, to keep the frozen weights so, by bitsandbytes; None for not.
        on_cpu: they stay on the CPU, though there is a GPU: for sharding, which moves the parts.

    Raises:
        BadInput: for another one.
    """

    dtype: str = DTYPES[0]
    quantize: str | None = None
    on_cpu: bool = False

    def __post_init__(self) -> None:
        check_name("dtype", self.dtype, (*DTYPES, AUTO))
        if self.dtype == AUTO:
            here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            object.__setattr__(self, "dtype", "bfloat16" if fast_in_bfloat16(here) else "float32")
            logger.info("--dtype auto is %s on this machine", self.dtype)
        if self.quantize is not None:
            check_name("quantize", self.quantize, QUANTIZED)

    def options(self) -> dict[str, Any]:
        """What ``from_pretrained`` is told.

        Raises:
            BadInput: if bitsandbytes is needed and not installed.
        """
        dtype = getattr(torch, self.dtype)
        if self.quantize is None:
            return {"dtype": dtype}
        if find_spec("bitsandbytes") is None:
            raise BadInput(
                f"quantize={self.quantize!r} needs bitsandbytes, which is not installed: "
                "pip install bitsandbytes"
            )
        four = self.quantize == QUANTIZED[0]
        config = BitsAndBytesConfig(
            load_in_4bit=four,
            load_in_8bit=not four,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
        return {"dtype": dtype, "quantization_config": config, "device_map": {"": _device()}}


def load_plm(
    name: str, how: HowLoaded | None = None, *, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Any]:
    """A language model or a sequence classifier, on the GPU where there is one, and its tokenizer.

    What it is its config says: the class that the checkpoint was saved as. Weights that the checkpoint
    lacks are drawn from a fixed seed; a warning names them. Nothing that comes with the model is run
    unless asked for, and pickled weights are not read.

    Args:
        name: a Hugging Face name or a local folder.
        how: the weights are kept; in float32 by default.
        trust_remote_code: run the Python code that the model's files name. Without it a model whose
            architecture transformers has is loaded by the library's own class, with a warning.

    Raises:
        BadInput: if the model cannot be found or read, has no such head, has no weights but pickled
            ones, needs code of its own without ``trust_remote_code``, or a library that is missing.
    """
    how = how or HowLoaded()
    options = how.options()
    model_files.check_no_pet(name)
    code = [] if trust_remote_code else model_files.code_classes(name)
    auto, model, missing = _with_weights(name, options, code, trust_remote_code=trust_remote_code)
    with model_files.reading(name, code):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        words = len(tokenizer) - len(tokenizer.all_special_tokens)
    if words <= 0:
        raise BadInput(f"model {name!r} comes without a tokenizer: put its tokenizer files beside it")
    if code:
        logger.warning(
            "%s: the code that comes with it (%s) is not run, transformers' own classes are used; "
            "--trust-remote-code would run it",
            name,
            ", ".join(code),
        )
    if auto is AutoModelForSequenceClassification and model.config.pad_token_id is None:
        # Causal ones cannot be asked in batches without.
        model.config.pad_token_id = padding_id(tokenizer)
    if missing:
        logger.warning(
            "%s: the checkpoint has no weights for %s; they are random (drawn from seed %d), so "
            "predictions are meaningless until they are trained",
            name,
            ", ".join(missing),
            _MISSING_SEED,
        )
    with model_files.reading(name, code):  # a GPU may be too small
        kept = getattr(model, "hf_quantizer", None) is not None  # where it was put when it was read
        return (model if kept or how.on_cpu else model.to(_device())), tokenizer


def load_model(folder: str | os.PathLike[str]) -> PreTrainedModel:
    """What ``save_pretrained`` wrote of a model, whole, on the CPU and in the dtype that it has there.

    Raises:
        BadInput: as `load_plm`, but for the tokenizer; and for weights that are missing.
    """
    name = str(folder)
    model_files.check_no_pet(name)
    code = model_files.code_classes(name)
    _, model, missing = _with_weights(name, {"dtype": AUTO}, code, trust_remote_code=False)
    if missing:
        raise BadInput(f"model {name!r} has no weights for {', '.join(missing[:5])}: save it anew")
    return model


def _with_weights(
    name: str, options: dict[str, Any], code: list[str], *, trust_remote_code: bool
) -> tuple[Any, PreTrainedModel, list[str]]:
    """The class that loads a model as its config says, the model, and what its checkpoint lacks.

    Args:
        options: of ``from_pretrained``.
        code: what of the model's own code is not run.
    """
    with model_files.reading(name, code):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        model_files.check_weights(name, config)
    auto = _checked_class(name, config, code, trust_remote_code=trust_remote_code)
    with model_files.reading(name, code), _missing_weights_seeded():
        model, info = auto.from_pretrained(
            name,
            config=config,
            **options,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
        model_files.check_no_pet(name, model)
    return auto, model, sorted(info["missing_keys"])


def load_outline(name: str, *, trust_remote_code: bool = False) -> tuple[PreTrainedModel, Any]:
    """A model without its weights, on torch's meta device, and its tokenizer: what kind of model it is.

    Args:
        name, trust_remote_code: as `load_plm`.

    Raises:
        BadInput: as `load_plm`, but for what is wrong with weights.
    """
    code = [] if trust_remote_code else model_files.code_classes(name)
    with model_files.reading(name, code):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    auto = _checked_class(name, config, code, trust_remote_code=trust_remote_code)
    with model_files.reading(name, code), torch.device("meta"):
        plm = auto.from_config(config, trust_remote_code=trust_remote_code)
        return plm, AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)


def _checked_class(
    name: str, config: PreTrainedConfig, code: list[str], *, trust_remote_code: bool
) -> Any:
    """As `_auto_class`.

    Raises:
        BadInput: where it has none.
    """
    auto = _auto_class(config, trust_remote_code=trust_remote_code)
    if auto is None:
        if code:
            raise model_files.needs_code(name, code)
        raise BadInput(
            f"model {name!r} ({config.model_type}) has no language-model head and none of a classifier: "
            "choose a masked, causal or encoder-decoder language model, or a sequence classifier"
        )
    return auto


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _auto_class(config: PreTrainedConfig, *, trust_remote_code: bool) -> Any:
    """What loads a model of this kind with the head that its checkpoint has; None where it has none."""
    own = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    saved_as = set(config.architectures or ())
    named = [auto for known, auto in _HEADS if saved_as & _classes(known.get(config.model_type))]
    possible = [a for known, a in _HEADS if config.model_type in known or a.__name__ in own]
    return next(iter([*named, *possible]), None)


def _classes(names: Any) -> set[str]:
    """The names of classes as transformers' tables have them: one, or several."""
    return {names} if isinstance(names, str) else set(names or ())


@contextlib.contextmanager
def _missing_weights_seeded() -> Iterator[None]:
    """What is drawn within comes from a fixed seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_MISSING_SEED)  # models are made on the CPU
        yield


def load_pet(plm: PreTrainedModel, folder: str | os.PathLike[str]) -> PeftModel:
    """A PET that ``save_pretrained`` wrote, on its base model; strict: every weight, no other.

    Raises:
        BadInput: if the folder holds no PET, or a weight is missing, unknown or of another shape.
    """
    path = Path(folder) / PET_WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        model = PeftModel.from_pretrained(plm, folder)
    except KeyError as error:  # peft looks a prompt's weight up by name
        raise BadInput(f"{path} does not fit the PET it describes: it lacks {error}") from error
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise BadInput(f"{folder} holds no PET for this model: {model_files.one_line(error)}") from error
    expected = {key: tuple(v.shape) for key, v in get_peft_model_state_dict(model).items()}
    wrong = sorted(stored.items() ^ expected.items())
    if wrong:
        unload(model)
        names = ", ".join(sorted({key for key, _ in wrong})[:5])
        raise BadInput(f"{path} does not fit the PET it describes, weight by weight: {names}")
    return model


@contextlib.contextmanager
def untouched(plm: PreTrainedModel) -> Iterator[None]:
    """What peft changes on a model for good is put back: mode and trainable parameters."""
    trainable = {p: p.requires_grad for p in plm.parameters()}
    mode = plm.training
    try:
        yield
    finally:
        plm.train(mode)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def unload(model: PeftModel) -> None:
    """Take a PET off its model; a prompt or a prefix never was on it.

    Parts that were trained beside the PET, such as a classifier's head, are the model's own again: peft
    would leave the trained ones.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulesToSaveWrapper):
                setattr(parent, name, child.original_module)
    if isinstance(model.base_model, BaseTuner):
        model.base_model.unload()
