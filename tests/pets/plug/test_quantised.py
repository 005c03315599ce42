"""PETs and costs on 8-bit and 4-bit base models; needs bitsandbytes, which also runs on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from plug_cases import NO_DROPOUT, batches
from tiny import tiny_bert
from torch import nn
from transformers import BertForMaskedLM, BitsAndBytesConfig, PreTrainedModel

import pets
from bridges import RunningCost
from pets.tuning.models import load_pet

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(folder: Path, bits: int) -> PreTrainedModel:
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.float32
    )
    plm = BertForMaskedLM.from_pretrained(
        folder, quantization_config=config, device_map={"": DEVICE}, dtype=torch.float32
    )
    return prepare_model_for_kbit_training(plm, use_gradient_checkpointing=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("pet", pets.available())
def test_loss_and_cost_train_the_pet_alone_and_come_back(pet: str, bits: int, tmp_path: Path) -> None:
    # Widths that are multiples of 64, as bitsandbytes wants them on some CPUs.
    tiny_bert(hidden_size=64, intermediate_size=128, **NO_DROPOUT).save_pretrained(tmp_path / "plm")
    plm = load(tmp_path / "plm", bits)
    assert any(type(m).__name__.startswith(("Linear4bit", "Linear8bit")) for m in plm.modules())
    cost = RunningCost.for_model(plm)
    model: nn.Module = get_peft_model(plm, pets.get(pet, model=plm)).train()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01)
    batch = {name: value.to(DEVICE) for name, value in batches(1)[0].items()}
    losses = []
    with pets.regularize(model, cost):
        for _ in range(5):
            output = model(**batch)
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(output.loss.item())
    assert output.running_cost > 0.1
    assert losses[-1] < losses[0] - 1e-3
    assert all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())

    model.eval().save_pretrained(tmp_path / "pet")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():  # bitsandbytes has another product for inference on some CPUs
        expected = model(**inputs).logits
        again = load_pet(load(tmp_path / "plm", bits), tmp_path / "pet").eval()
        assert torch.equal(again(**inputs).logits, expected)
        if pet in ("adapter", "bitfit", "lora"):
            base = load(tmp_path / "plm", bits)(**inputs).logits
            with model.disable_adapter():  # type: ignore[operator]
                assert torch.equal(model(**inputs).logits, base)
