"""What peft asks of any method, over both of ours: files, several adapters, unloading, status."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from peft import (
    AutoPeftModel,
    AutoPeftModelForFeatureExtraction,
    PeftConfig,
    PeftModel,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.utils import PeftType
from pet_models import IDS, batch, changed, logits, loss, shuffle, trainable, wrapped
from places import REPOSITORY
from safetensors.torch import load_file, save_file
from shared_files import needs_shared, shared
from tiny import tiny_model
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, Trainer, TrainingArguments

import pets
from bridges import BadInput
from pets.methods import peft_types
from pets.methods.adapter import AdapterConfig, AdapterModel
from pets.methods.bitfit import BitFitConfig, BitFitModel
from pets.tuning.models import load_pet, load_plm

pytestmark = pytest.mark.slow

# Name, architecture, options.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("adapter", "bert", {}),
    ("adapter", "gpt2", {"r": 2, "activation": "relu", "sites": "ffn"}),
    ("adapter", "llama", {"placement": "parallel", "scaling": 4.0}),
    ("adapter", "t5", {"target_modules": ["o", "wo"], "task_type": "SEQ_2_SEQ_LM"}),
    ("bitfit", "bert", {}),
    ("bitfit", "deberta", {"head_transform": True, "task_type": None}),
    ("bitfit", "gpt2", {"task_type": "CAUSAL_LM"}),
    ("bitfit", "qwen2", {"target_modules": r".*\.q_proj"}),
]
battery = pytest.mark.parametrize(
    ("pet", "model_type", "options"), CASES, ids=[f"{p}-{m}" for p, m, _ in CASES]
)
both = pytest.mark.parametrize("pet", ["adapter", "bitfit"])
# peft 0.19: all adapters' weights go into each one's file (of every method but LoRA), and transformers
# loads or deletes only what is called as its first methods were.
OLD_PEFT = Version(peft.__version__) < Version("0.20")
not_with_old_peft = pytest.mark.skipif(OLD_PEFT, reason="known faults of peft 0.19")
WEIGHTS = "adapter_model.safetensors"


@battery
def test_saved_and_loaded_bit_for_bit(
    pet: str, model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = changed(pet, model_type, **options)
    expected = logits(model)
    assert not torch.equal(expected, logits(tiny_model(model_type)))
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "adapter_config.json", WEIGHTS}
    file = load_file(tmp_path / WEIGHTS)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[pet.upper()]
    assert all(prefix in key and ".default" not in key for key in file)
    assert sum(v.numel() for v in file.values()) == model.get_nb_trainable_parameters()[0]
    assert torch.equal(logits(load_pet(tiny_model(model_type), tmp_path).eval()), expected)
    for lean in (False, True):
        plm = tiny_model(model_type)
        again = PeftModel.from_pretrained(plm, tmp_path, adapter_name="x", low_cpu_mem_usage=lean)
        assert torch.equal(logits(again.eval()), expected)
        assert not trainable(again)
        assert not any(p.is_meta for p in again.parameters())
    again = PeftModel.from_pretrained(tiny_model(model_type), tmp_path, is_trainable=True)
    assert trainable(again).keys() == trainable(model).keys()


@battery
def test_a_config_survives_its_file(
    pet: str, model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    _, model = wrapped(pet, model_type, **options)
    config = model.peft_config["default"]
    config.save_pretrained(str(tmp_path))
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["peft_type"] == pet.upper()
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert type(loaded) is type(config)
    assert loaded.to_dict() == config.to_dict()
    assert pickle.loads(pickle.dumps(config)) == config


@not_with_old_peft
@battery
def test_the_state_dict_has_only_the_pet_and_no_adapter_name(
    pet: str, model_type: str, options: dict[str, Any]
) -> None:
    _, model = wrapped(pet, model_type, **options)
    model.add_adapter("second", pets.get(pet, **options))
    keys = {name: set(get_peft_model_state_dict(model, adapter_name=name)) for name in model.peft_config}
    assert keys["default"] == keys["second"]
    assert len(keys["default"]) == len(trainable(model))
    assert not any("default" in key or "second" in key for key in keys["default"])


@battery
def test_several_adapters_switch_and_go(pet: str, model_type: str, options: dict[str, Any]) -> None:
    model = changed(pet, model_type, **options)
    base, first = logits(tiny_model(model_type)), logits(model)
    model.add_adapter("other", pets.get(pet, **options))
    assert torch.equal(logits(model), first), "a further adapter waits"
    assert not any("other" in name for name in trainable(model))
    model.set_adapter("other")
    assert torch.equal(logits(model), base), "a new one is the identity"
    assert all("other" in name for name in trainable(model))
    shuffle(model)
    second = logits(model)
    model.base_model.set_adapter(["default", "other"])
    assert not torch.equal(logits(model), first)
    assert not torch.equal(logits(model), second)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    model.set_adapter("other")
    assert torch.equal(logits(model), second)
    model.delete_adapter("other")
    assert torch.equal(logits(model), first)
    assert not any("other" in name for name in model.state_dict())
    model.delete_adapter("default")
    assert torch.equal(logits(model.base_model.model), base)  # PeftModel itself wants one adapter
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("default")


@battery
def test_disabling_is_exact_and_comes_back(pet: str, model_type: str, options: dict[str, Any]) -> None:
    model = changed(pet, model_type, **options)
    base, expected = logits(tiny_model(model_type)), logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), expected)
    model.base_model.disable_adapter_layers()
    assert not trainable(model)
    model.base_model.enable_adapter_layers()
    assert torch.equal(logits(model), expected)


@battery
def test_unloading_gives_the_base_model_back(pet: str, model_type: str, options: dict[str, Any]) -> None:
    reference = tiny_model(model_type).state_dict()
    after = changed(pet, model_type, **options).unload()
    assert list(after.state_dict()) == list(reference)
    assert all(torch.equal(v, reference[k]) for k, v in after.state_dict().items())


@battery
def test_status_and_repr(pet: str, model_type: str, options: dict[str, Any]) -> None:
    _, model = wrapped(pet, model_type, **options)
    status = get_model_status(model)
    assert status.peft_types == {"default": pet.upper()}
    assert status.enabled is True
    assert status.active_adapters == status.available_adapters == ["default"]
    assert status.requires_grad == {"default": True}
    assert status.trainable_params == model.get_nb_trainable_parameters()[0]
    assert {"adapter": "adapter.AdapterLayer(", "bitfit": "bitfit.BiasDelta("}[pet] in repr(model)


@battery
def test_a_second_saved_adapter_joins_a_model(
    pet: str, model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = changed(pet, model_type, **options)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    _, other = wrapped(pet, model_type, **options)
    base = logits(other)
    other.load_adapter(tmp_path, "loaded")
    assert torch.equal(logits(other), base)
    other.set_adapter("loaded")
    assert torch.equal(logits(other), expected)
    other.save_pretrained(tmp_path / "both")
    saved, first = load_file(tmp_path / "both" / "loaded" / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert OLD_PEFT or saved.keys() == first.keys()
    assert all(torch.equal(v, saved[k]) for k, v in first.items())


@both
@pytest.mark.parametrize("lean", [False, True])
def test_a_float32_pet_on_a_bfloat16_model_loads_without_loss(
    pet: str, lean: bool, tmp_path: Path
) -> None:
    model = get_peft_model(tiny_model("bert").to(torch.bfloat16), pets.get(pet))
    shuffle(model)
    model.save_pretrained(tmp_path)
    plm = tiny_model("bert").to(torch.bfloat16)
    again = PeftModel.from_pretrained(plm, tmp_path, low_cpu_mem_usage=lean, is_trainable=True)
    found = trainable(again)
    assert all(torch.equal(found[name], p) for name, p in trainable(model).items())
    narrow = get_peft_model(
        tiny_model("bert").to(torch.bfloat16), pets.get(pet), autocast_adapter_dtype=False
    )
    assert {p.dtype for p in trainable(narrow).values()} == {torch.bfloat16}
    assert loss(narrow).isfinite()


def remove(tensors: dict[str, Tensor]) -> None:
    del tensors[min(tensors)]


def add(tensors: dict[str, Tensor]) -> None:
    tensors[min(tensors).replace("layer.0", "layer.9")] = torch.zeros(3)


def cut(tensors: dict[str, Tensor]) -> None:
    tensors[min(tensors)] = tensors[min(tensors)][:3].clone()


@both
@pytest.mark.parametrize("change", [remove, add, cut])
def test_a_file_must_fit_weight_by_weight(
    pet: str, change: Callable[[dict[str, Tensor]], None], tmp_path: Path
) -> None:
    changed(pet, exclude_modules=["embeddings.LayerNorm"]).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"does not fit|holds no PET"):
        load_pet(tiny_model("bert"), tmp_path)


@both
def test_modules_saved_whole_travel_along(pet: str, tmp_path: Path) -> None:
    plm = tiny_model("bert", head="ForSequenceClassification")
    model = get_peft_model(plm, pets.get(pet, task_type="SEQ_CLS", init_weights=False)).eval()
    assert sum("modules_to_save" in name for name in trainable(model)) == 2
    for name, parameter in trainable(model).items():
        if "modules_to_save" in name:
            parameter.data.normal_()
    expected = logits(model)
    model.save_pretrained(tmp_path)
    fresh = tiny_model("bert", head="ForSequenceClassification")
    assert torch.equal(logits(PeftModel.from_pretrained(fresh, tmp_path).eval()), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model("bert", head="ForSequenceClassification")))
    after = model.merge_and_unload() if pet == "bitfit" else model.unload()
    assert not any("modules_to_save" in name for name in after.state_dict())


# peft 0.19 takes its prefix off the keys only where the model is called `model`, for LoRA too.
LOADABLE = [("adapter", "llama"), ("bitfit", "qwen2")]
if not OLD_PEFT:
    LOADABLE += [("adapter", "bert"), ("adapter", "t5"), ("bitfit", "bert"), ("bitfit", "deberta")]


@pytest.mark.parametrize(("pet", "model_type"), LOADABLE)
def test_transformers_loads_it_without_a_peft_model(pet: str, model_type: str, tmp_path: Path) -> None:
    model = changed(pet, model_type)
    base, expected = logits(tiny_model(model_type)), logits(model)
    model.save_pretrained(tmp_path)
    plm = tiny_model(model_type)
    plm.load_adapter(str(tmp_path))
    assert torch.equal(logits(plm), expected)
    plm.disable_adapters()
    assert torch.equal(logits(plm), base)
    plm.enable_adapters()
    assert torch.equal(logits(plm), expected)
    plm.add_adapter(pets.get(pet), "fresh")
    plm.set_adapter("fresh")
    assert torch.equal(logits(plm), base)
    if OLD_PEFT:
        return
    plm.delete_adapter("fresh")
    plm.delete_adapter("default")
    assert torch.equal(logits(plm), base)


@not_with_old_peft
@both
def test_an_adapter_folder_opens_as_a_model(pet: str, tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "base")
    plm = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(plm, pets.get(pet, init_weights=False)).eval()
    expected = logits(model)
    model.save_pretrained(tmp_path / "pet")
    assert torch.equal(logits(AutoModelForMaskedLM.from_pretrained(tmp_path / "pet").eval()), expected)


@both
def test_auto_peft_models(pet: str, tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "base")
    for task_type, base, auto in (
        (None, AutoModelForMaskedLM, AutoPeftModel),
        ("FEATURE_EXTRACTION", AutoModel, AutoPeftModelForFeatureExtraction),
    ):
        plm = base.from_pretrained(tmp_path / "base")
        model = get_peft_model(plm, pets.get(pet, task_type=task_type, init_weights=False)).eval()
        model.save_pretrained(tmp_path / "pet")
        loaded = auto.from_pretrained(tmp_path / "pet").eval()
        assert type(loaded.get_base_model()) is type(plm)
        assert torch.equal(loaded(input_ids=IDS)[0], model(input_ids=IDS)[0])


@both
def test_injected_by_hand(pet: str) -> None:
    model = inject_adapter_in_model(pets.get(pet, init_weights=False), tiny_model("bert"))
    assert not torch.equal(logits(model), logits(tiny_model("bert")))
    assert len(get_peft_model_state_dict(model)) == len(trainable(model))


@both
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(pet: str, reentrant: bool) -> None:
    gradients = []
    for checkpointed in (False, True):
        plm = tiny_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        if checkpointed:
            plm.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model = get_peft_model(plm, pets.get(pet, target_modules=[r"intermediate.dense"]))
        shuffle(model)
        loss(model.train()).backward()
        gradients.append([p.grad for p in trainable(model).values()])
    assert all(g is not None and g.any() for g in gradients[0])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@both
def test_under_the_trainer(pet: str, tmp_path: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in IDS.repeat(4, 1)]

    def run(steps: int, resume: bool = False) -> dict[str, Tensor]:
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            max_steps=steps,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            save_steps=2,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            gradient_checkpointing=True,
        )
        torch.manual_seed(1)
        plm = tiny_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = get_peft_model(plm, pets.get(pet))
        Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=resume)
        return {k: v.detach().clone() for k, v in get_peft_model_state_dict(model).items()}

    whole = run(4)
    run(2)
    again = run(4, resume=True)
    assert all(v.any() for v in whole.values())
    assert all(torch.equal(v, again[k]) for k, v in whole.items())
    stored = load_file(tmp_path / "run" / "checkpoint-4" / WEIGHTS)
    assert all(torch.equal(v, stored[k]) for k, v in whole.items())


@both
def test_compiled(pet: str) -> None:
    model = changed(pet)
    torch.testing.assert_close(logits(torch.compile(model, backend="eager")), logits(model))


@both
def test_a_running_cost_reaches_it(pet: str) -> None:
    import bridges

    plm, model = wrapped(pet)
    cost = bridges.RunningCost.for_model(plm, "brownian", latent_dim=4)
    inputs = {**batch(model), "labels": IDS}
    with pets.regularize(model.train(), cost, 1.0):
        model(**inputs).loss.backward()
    assert all(p.grad is not None for p in trainable(model).values())


# Registration


def test_the_enum_has_each_name_once() -> None:
    for name, config, tuner in (
        ("ADAPTER", AdapterConfig, AdapterModel),
        ("BITFIT", BitFitConfig, BitFitModel),
    ):
        kind = getattr(PeftType, name)
        assert kind is PeftType[name] is PeftType(name) is peft_types.extend(name)
        assert [str(m.value) for m in PeftType].count(name) == 1
        assert (kind.name, kind.value, kind == name, isinstance(kind, PeftType)) == (
            name,
            name,
            True,
            True,
        )
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert PEFT_TYPE_TO_CONFIG_MAPPING[name] is config
        assert PEFT_TYPE_TO_TUNER_MAPPING[name] is tuner
    assert PeftType.LORA is PeftType("LORA")
    with pytest.raises(ValueError, match="NOPE"):
        PeftType("NOPE")


def test_registering_again_and_reloading_change_nothing_but_the_classes() -> None:
    members = list(PeftType)
    before = dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    importlib.reload(peft_types)
    peft_types.register("adapter", AdapterConfig, AdapterModel)
    assert list(PeftType) == members
    assert dict(PEFT_TYPE_TO_CONFIG_MAPPING) == before
    twin = type("AdapterConfig", (AdapterConfig,), {})
    twin.__module__, twin.__qualname__ = AdapterConfig.__module__, AdapterConfig.__qualname__
    try:
        peft_types.register("adapter", twin, AdapterModel)
        assert PEFT_TYPE_TO_CONFIG_MAPPING["ADAPTER"] is twin
    finally:
        peft_types.register("adapter", AdapterConfig, AdapterModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["ADAPTER"] is AdapterConfig


def test_a_name_that_somebody_else_has_is_an_error_that_names_both() -> None:
    with pytest.raises(RuntimeError, match=r"'lora', peft\S*LoraConfig, so pets\S*AdapterConfig cannot"):
        peft_types.register("lora", AdapterConfig, AdapterModel)


PROGRAM = """
import importlib, sys
from peft import PeftConfig
try:
    PeftConfig.from_pretrained(sys.argv[1])
except KeyError as error:
    print("without:", error)
import pets, pets.methods.peft_types, pets.methods.adapter, pets.methods.bitfit
for _ in range(2):
    methods = pets.methods
    for module in (methods.peft_types, methods.adapter, methods.bitfit, methods, pets):
        importlib.reload(module)
for name in list(sys.modules):  # as a second copy of the package would do it
    if name.partition(".")[0] == "pets":
        del sys.modules[name]
import pets
from peft.utils import PeftType
names = [m.value for m in PeftType]
config = PeftConfig.from_pretrained(sys.argv[1])
print(names.count("ADAPTER"), names.count("BITFIT"), type(config).__name__)
"""


def test_another_process_needs_only_the_import(tmp_path: Path) -> None:
    changed("bitfit").save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["without: 'BITFIT'", "1 1 BitFitConfig"]


MINILM = ("models", "minilm-l6-mlm")


@needs_shared(*MINILM)
@both
def test_on_a_real_model(pet: str, tmp_path: Path) -> None:
    plm, tokenizer = load_plm(str(shared(*MINILM)))
    inputs = tokenizer(["the film was [MASK].", "good"], return_tensors="pt", padding=True)
    inputs = inputs.to(plm.device)
    with torch.no_grad():
        before = plm(**inputs).logits
        model = get_peft_model(plm, pets.get(pet))
        assert torch.equal(model(**inputs).logits, before)
        shuffle(model)
        after = model(**inputs).logits
        assert not torch.equal(after, before)
        model.save_pretrained(tmp_path)
        assert torch.equal(model.unload()(**inputs).logits, before)
        assert torch.equal(load_pet(plm, tmp_path)(**inputs).logits, after)
