"""Gradient accumulation: the task's loss stays what it is, to the bit, and the cost goes along."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from peft import get_peft_model
from tiny import tiny_bert, tiny_llama, tiny_tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import pets
from bridges import BadInput, RunningCost

pytestmark = pytest.mark.slow

RATE = 0.5
WEIGHT = 0.7
COUNTS = (1, 5, 2, 7, 3, 1, 6, 4)  # targets of the eight rows
Steps = dict[str, Tensor]
ONE_STEP: dict[str, Any] = {  # of plain gradient descent
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps precision and accumulation for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def rows() -> list[dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(3)
    made = []
    for count in COUNTS:
        ids = torch.randint(5, 63, (10,), generator=rng)
        labels = torch.full_like(ids, -100)
        labels[-count:] = ids[-count:]
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def build(kind: str) -> tuple[nn.Module, RunningCost]:
    torch.manual_seed(0)
    plm = tiny_llama() if kind == "llama" else tiny_bert()
    cost = RunningCost.for_model(plm).double()
    if kind == "llama":
        plm.loss_function = shifted_loss
    model = get_peft_model(plm, pets.get("lora", model=plm, init_lora_weights=False, lora_dropout=0.0))
    return model.double(), cost


def shifted_loss(
    logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, **kwargs: Any
) -> Tensor:
    """transformers' loss of causal models, which rounds to fp32, in double precision."""
    total = nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].flatten(), reduction="sum"
    )
    return total / ((labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def moved(model: nn.Module, train: Callable[[], object]) -> Steps:
    """How far every trainable parameter is moved by one step of plain gradient descent."""
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    train()
    return {n: model.get_parameter(n).detach() - start for n, start in before.items()}


def by_trainer(model: nn.Module, folder: Path, batch_size: int, kind: Any = Trainer) -> Steps:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=len(COUNTS) // batch_size,
        seed=7,
        **ONE_STEP,
    )
    return moved(model, kind(model=model, args=arguments, train_dataset=rows()).train)


def assert_same(found: Steps, expected: Steps) -> None:
    for name, step in expected.items():
        assert step.norm() > 1e-6, name
        assert (found[name] - step).norm() < 1e-10 * step.norm(), name


@pytest.mark.parametrize("weight", [0.0, WEIGHT])
@pytest.mark.parametrize("first", ["cost", "trainer"])
def test_the_trainer_takes_the_step_of_one_batch(weight: float, first: str, tmp_path: Path) -> None:
    steps = {}
    for batch_size in (8, 1):
        model, cost = build("llama")
        if first == "cost":
            with pets.regularize(model, cost, weight):
                steps[batch_size] = by_trainer(model, tmp_path, batch_size)
        else:

            class Late(Trainer):  # type: ignore[misc]
                """The cost is plugged in after the trainer is built."""

                def train(self, *args: Any, cost: RunningCost = cost) -> Any:
                    with pets.regularize(self.model, cost, weight):
                        return super().train(*args)

            steps[batch_size] = by_trainer(model, tmp_path, batch_size, Late)
    assert_same(steps[1], steps[8])


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("batch_size", [8, 1])
def test_weight_zero_leaves_the_trainer_to_the_bit_as_it_is(
    kind: str, batch_size: int, tmp_path: Path
) -> None:
    """With dropout, and with a bridge that draws noise."""
    model, _ = build(kind)
    expected = by_trainer(model, tmp_path, batch_size)
    model, _ = build(kind)
    cost = RunningCost.for_model(model, "sde").double()
    with pets.regularize(model, cost, 0.0):
        found = by_trainer(model, tmp_path, batch_size)
    for name, step in expected.items():
        assert torch.equal(found[name], step), name


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_model_is_asked_once_whatever_its_first_batch_holds(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that share weights run it together, though one of them may have no target."""
    model, cost = build(kind)
    calls = 0
    run = type(model.get_base_model()).forward

    @functools.wraps(run)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return run(self, *args, **kwargs)

    monkeypatch.setattr(type(model.get_base_model()), "forward", counted)
    batch = {k: v[None] for k, v in rows()[3].items()}
    empty = batch | {"labels": torch.full_like(batch["labels"], -100)}
    seen = []
    with pets.regularize(model.train(), cost, WEIGHT):
        calls = 0  # the cost's own look at the model is over
        for given in (empty, batch, batch):
            model(**given, num_items_in_batch=torch.tensor(20))
            seen.append(calls)
    assert seen == [3, 4, 5]


def test_a_model_that_takes_the_number_and_leaves_it_alone_has_a_mean_for_a_cost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """BERT's loss is a mean, which the Trainer then sums: loss and cost stay in proportion."""
    weight, steps = 0.7, {}
    for added in (0.0, weight):
        model, cost = build("bert")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with (
            pets.regularize(model, cost, added),
            caplog.at_level(logging.WARNING, "pets.plug.loss_scale"),
        ):
            steps[added] = by_trainer(model, tmp_path, 1)
    assert "does not divide its loss by it" in caplog.text
    model, cost = build("bert")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    total: Steps = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    with pets.regularize(model.train(), cost, into_loss=False):
        for row in rows():
            value = model(**{k: v[None] for k, v in row.items()}).running_cost
            named = {n: p for n, p in model.named_parameters() if p.requires_grad}
            for name, gradient in zip(
                named, torch.autograd.grad(value, list(named.values())), strict=True
            ):
                total[name] -= RATE * weight * gradient
    assert_same({n: steps[weight][n] - steps[0.0][n] for n in total}, total)


@pytest.mark.parametrize("weight", [0.0, WEIGHT])
def test_accelerate_takes_the_step_of_one_batch(weight: float) -> None:
    """A loop that counts its targets, as accelerate's guide has it."""

    def train(model: nn.Module, batch_size: int) -> None:
        steps = len(COUNTS) // batch_size
        accelerator = Accelerator(gradient_accumulation_steps=steps, cpu=True)
        trainable = [p for p in model.parameters() if p.requires_grad]
        loader = DataLoader(rows(), batch_size=batch_size)  # type: ignore[arg-type]
        model, optimizer, loader = accelerator.prepare(
            model, torch.optim.SGD(trainable, lr=RATE), loader
        )
        items = sum((row["labels"] != -100).sum() for row in rows())
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch, num_items_in_batch=items).loss * steps
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()

    found = {}
    for batch_size in (8, 1):
        model, cost = build("llama")
        with pets.regularize(model.train(), cost, weight):
            found[batch_size] = moved(model, lambda m=model, b=batch_size: train(m, b))
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    assert_same(found[1], found[8])


@pytest.mark.parametrize("weight", [0.0, WEIGHT])
def test_trl_packs_accumulates_and_takes_the_step_of_one_batch(weight: float, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    rng = torch.Generator().manual_seed(5)
    sentences = [torch.randint(5, 63, (count + 2,), generator=rng).tolist() for count in COUNTS]

    class CostTrainer(trl.SFTTrainer):  # type: ignore[misc, name-defined]
        """As in examples/sft_trl.py."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

    def step(packing: bool, batch_size: int, accumulate: int, kind: Any = CostTrainer) -> Steps:
        model, cost = build("llama")
        arguments = trl.SFTConfig(
            output_dir=str(tmp_path),
            packing=packing,
            max_length=24,
            completion_only_loss=True,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            bf16=False,
            gradient_checkpointing=False,
            **ONE_STEP,
        )
        data = Dataset.from_list(
            [
                {"input_ids": ids, "completion_mask": [0] * (len(ids) - count) + [1] * count}
                for ids, count in zip(sentences, COUNTS, strict=True)
            ]
        )
        with pets.regularize(model, cost, weight):
            trainer = kind(
                model=model, args=arguments, train_dataset=data, processing_class=tiny_tokenizer()
            )
            rows = len(trainer.train_dataset)
            assert packing == (rows < len(sentences))
            assert rows == batch_size * accumulate
            return moved(model, trainer.train)

    if weight:
        with pytest.raises(BadInput, match=r"trained another loss .*examples/sft_trl\.py"):
            step(False, 8, 1, kind=trl.SFTTrainer)
    whole = step(False, 8, 1)
    assert_same(step(False, 1, 8), whole)
    assert_same(step(True, 2, 1), whole)
    assert_same(step(True, 1, 2), whole)
