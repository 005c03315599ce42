"""A cost on other weights, on weights that lie elsewhere, and on a model trained on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import LoraConfig, get_peft_model
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import nn

from bridges import BadInput, RunningCost
from bridges.model.fingerprint import weights_sha256

SHORT = {"max_steps": 2, "progress": False}


def on_disk(plm: Any, folder: Path) -> Any:
    return disk_offload(plm, folder, execution_device="cpu")


def in_memory(plm: Any, folder: Path) -> Any:
    return cpu_offload(plm, execution_device="cpu")


def words_on_disk(plm: Any, folder: Path) -> Any:
    places = dict.fromkeys(["model.layers", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    return dispatch_model(
        plm,
        device_map={"model.embed_tokens": "disk", **places},
        offload_dir=folder,
        main_device="cpu",
    )


@pytest.mark.parametrize("away", [on_disk, in_memory, words_on_disk])
def test_an_offloaded_model_is_read(away: Any, tmp_path: Path) -> None:
    plain = tiny_llama()
    expected, digest = RunningCost.for_model(plain), weights_sha256(plain)
    plm = away(tiny_llama(), tmp_path)
    assert plm.get_input_embeddings().weight.is_meta
    expected.check_model(plm)
    cost = RunningCost.for_model(plm)
    assert cost.digest() == expected.digest()
    assert cost.spec == expected.spec
    assert weights_sha256(plm) == digest
    assert plm.get_input_embeddings().weight.is_meta
    fitted = cost.fit(plm, tiny_tokenizer(), TEXTS, **SHORT)
    assert fitted.held_out == expected.fit(plain, tiny_tokenizer(), TEXTS, **SHORT).held_out
    with pytest.raises(BadInput, match="other weights"):
        cost.check_model(away(tiny_llama(seed=1), tmp_path / "other"))


@pytest.mark.parametrize("part", ["embed_tokens", "layers.0.mlp.up_proj"])
def test_partitioned_weights_are_refused_with_what_to_do(part: str) -> None:
    """As DeepSpeed ZeRO-3 leaves them."""
    plm = tiny_llama()
    cost = RunningCost.for_model(plm)
    plm.model.get_submodule(part).weight.data = torch.empty(0)
    for refused in (cost.check_model, RunningCost.for_model):
        with pytest.raises(BadInput, match=r"is empty, as DeepSpeed ZeRO-3 .*GatheredParameters\("):
            refused(plm)  # type: ignore[operator]


def test_a_model_without_weights_is_refused() -> None:
    plm = tiny_llama().to("meta")
    with pytest.raises(BadInput, match=r"is on the meta device.*load the weights first"):
        RunningCost.for_model(plm)


def merged(plm: Any) -> Any:
    options = {"target_modules": ["query"], "layers_to_transform": [1], "init_lora_weights": False}
    return get_peft_model(plm, LoraConfig(**options)).merge_and_unload()


def words_trained(plm: Any) -> Any:
    options = {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}
    model = get_peft_model(plm, LoraConfig(**options))
    plm.get_input_embeddings().weight.data.mul_(1.01)
    return model


def inner_weights(plm: Any) -> Any:
    other = tiny_bert(seed=1)
    plm.bert.encoder.load_state_dict(other.bert.encoder.state_dict())
    return plm


@pytest.mark.parametrize("change", [merged, words_trained, inner_weights])
def test_other_weights_are_refused_unless_meant(change: Any, tmp_path: Path) -> None:
    cost = RunningCost.for_model(tiny_bert())
    cost.save_pretrained(tmp_path / "cost")
    model = change(tiny_bert())
    for one in (cost, RunningCost.from_pretrained(tmp_path / "cost")):
        with pytest.raises(BadInput, match=r"other weights.*trained further.*same_weights=False\)"):
            one.check_model(model)
        one.check_model(model, same_weights=False)
        with pytest.raises(BadInput, match="num_layers is 3 in the cost, 2 in the model"):
            one.check_model(tiny_bert(num_hidden_layers=2), same_weights=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_trained_pets_wrappers_and_dtypes_are_no_other_weights(dtype: torch.dtype) -> None:
    cost = RunningCost.for_model(tiny_bert())
    model = get_peft_model(tiny_bert(), LoraConfig(target_modules=["query"], init_lora_weights=False))
    cost.check_model(nn.Sequential(model.to(dtype)))
    classifier = tiny_model("bert", head="ForSequenceClassification", num_labels=3)
    other = RunningCost.for_model(tiny_model("bert"))
    classifier.base_model.load_state_dict(tiny_model("bert").base_model.state_dict(), strict=False)
    other.check_model(classifier.to(dtype))


def test_a_cost_keeps_a_few_numbers_of_them() -> None:
    parts = RunningCost.for_model(tiny_bert()).config()["model"]["fingerprint"]["parts"]
    assert len(parts) == 5 + 2 * 3  # embeddings, and matrices and vectors of three layers
