"""What a model's head does, in peft's words, and configs that learn it from the model they are put on.

peft chooses its model class, what it trains beside the PET and which ``AutoPeftModelFor...`` loads a
saved PET by ``task_type``, which a config has to say before it meets a model. A config of `pets.get`
that was given none is marked: the class that peft has for "FEATURE_EXTRACTION", its default here, is
looked up through `_put`, which asks the model first. Nothing else of peft is touched, nor any other
config.
"""

from __future__ import annotations

import functools
from typing import Any

from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from bridges.model.spec import pretrained_model

NO_HEAD = "FEATURE_EXTRACTION"
"""Also of a masked LM: peft has no type for it, and without any a tuner's own forward is bypassed."""
_MARK = "_task_type_of_model"
_HEADS = {
    "CAUSAL_LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
_AUTO = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}


def task_type(model: nn.Module) -> str | None:
    """peft's name for what a model's head does; None for a masked LM's, which peft has no name for.

    It says which parts peft trains beside the PET (a classifier's new head) and what it offers
    (``generate``). A class of one's own is what it inherits from, or what its config's ``auto_map``
    calls it, or else a language model if it generates.

    Raises:
        BadInput: if it is no transformers model.
    """
    plm = pretrained_model(model)
    kinds = {base.__name__ for base in type(plm).__mro__}
    for name, mapping in _HEADS.items():
        if kinds & _classes(mapping):
            return name
    for loader, path in (getattr(plm.config, "auto_map", None) or {}).items():
        if loader in _AUTO and str(path).rpartition(".")[2] in kinds:
            return _AUTO[loader]
    if isinstance(plm, GenerationMixin):
        return "SEQ_2_SEQ_LM" if plm.config.is_encoder_decoder else "CAUSAL_LM"
    return None


def _classes(mapping: Any) -> set[str]:
    """The names in one of transformers' tables, which has one of a model type, or several."""
    return {name for v in mapping.values() for name in ([v] if isinstance(v, str) else v)}


def learn_from_model(config: PeftConfig) -> None:
    """Let a config take its task type from the model that ``get_peft_model`` puts it on."""
    config.task_type = NO_HEAD
    setattr(config, _MARK, True)


def _of_model(config: PeftConfig, model: nn.Module) -> None:
    if config.__dict__.pop(_MARK, False) and isinstance(model, PreTrainedModel):
        config.task_type = task_type(model) or NO_HEAD


def install() -> None:
    """Have peft ask the model of a marked config; may run any number of times, also after a reload."""
    entry: Any = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[NO_HEAD]
    original = getattr(entry, "__wrapped__", entry)

    @functools.wraps(original, updated=())  # peft compares the names
    def _put(model: nn.Module, peft_config: PeftConfig, *args: Any, **kwargs: Any) -> PeftModel:
        _of_model(peft_config, model)
        kind = peft_config.task_type
        cls: Any = original if kind == NO_HEAD else MODEL_TYPE_TO_PEFT_MODEL_MAPPING[kind]
        return cls(model, peft_config, *args, **kwargs)

    MODEL_TYPE_TO_PEFT_MODEL_MAPPING[NO_HEAD] = _put


install()
