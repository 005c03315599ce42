"""What is logged, in a plain loop, under the Trainer and on two processes, against values by hand.

The ranks are this file run as a script, once for each; see `main`.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import get_peft_model
from plug_cases import NO_DROPOUT
from processes import run_ranks
from safetensors.torch import load_file
from tiny import tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

import pets
from bridges import RunningCost
from pets.plug.trainer import RegularizerCallback

pytestmark = pytest.mark.slow

COST, SMOOTHING, STEPS = 0.5, 0.2, 6
NAMES = ("brownian", "label-smoothing")
WORDS = {"one": "good", "two": "bad", "three": "maybe"}


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps precision and accumulation for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Setup:
    """A model with a LoRA and without dropout, its cost, and rows with 1 to 6 targets, or a class."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        head = {"head": "ForSequenceClassification", "num_labels": 3} if kind == "classifier" else {}
        plm = tiny_model("llama") if kind == "causal" else tiny_bert(**NO_DROPOUT)
        if kind == "classifier":
            plm = tiny_model("bert", **head, **NO_DROPOUT)
        self.kind, self.words = kind, None
        if kind == "classifier":
            self.words = pets.Verbalizer.of_words(tiny_tokenizer(), WORDS)
        self.cost = RunningCost.for_model(plm)
        config = pets.get("lora", model=plm, init_lora_weights=False, lora_dropout=0.0)
        self.model: Any = get_peft_model(plm, config).train()

    def plug(self, weights: Any = (COST, SMOOTHING), **options: Any) -> Any:
        both = [(self.cost, weights[0]), ("label-smoothing", weights[1])]
        return pets.regularize(self.model, both, verbalizer=self.words, **options)

    def rows(self, count: int = 24) -> list[dict[str, Tensor]]:
        rng, made = torch.Generator().manual_seed(3), []
        for number in range(count):
            ids = torch.randint(5, 63, (10,), generator=rng)
            labels = torch.full_like(ids, -100)
            targets = 1 + number * 5 % 6
            labels[-targets:] = ids[-targets:]
            if self.kind == "classifier":
                labels = torch.tensor(number % 3)
            made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
        return made

    def by_hand(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each target, [N]: the task's loss, the cost and the smoothing, in float64."""
        labels = batch["labels"]
        model = copy.deepcopy(self.model).double().train()
        with torch.no_grad():
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            output = model(**inputs, output_hidden_states=True)
        scores = output.logits.log_softmax(-1)
        if self.kind == "causal":
            scores, labels = scores[:, :-1], labels[:, 1:]
        scores, answers = scores[labels != -100], labels[labels != -100]
        task = -scores.gather(1, answers[:, None])[:, 0]
        cost = copy.deepcopy(self.cost).double()
        if self.kind == "classifier":
            with pets.regularize(
                model, cost, verbalizer=self.words, same_weights=False, into_loss=False
            ):
                costs = torch.stack(
                    [
                        model(**{k: v[i, None] for k, v in batch.items()}).running_cost
                        for i in range(len(labels))
                    ]
                )
        else:
            costs = cost.costs(output.hidden_states, batch["labels"], batch["attention_mask"])
        return {"task": task, "brownian": costs.detach(), "label-smoothing": -scores.mean(1) - task}


def of_step(setup: Setup, batches: list[dict[str, Tensor]], divided: bool) -> dict[str, float]:
    """What one step comes to: a sum over all targets of its batches, or a mean of means."""
    found = [setup.by_hand(batch) for batch in batches]
    items = sum(len(values["task"]) for values in found)
    parts = {name: [values[name] for values in found] for name in found[0]}
    if divided:
        return {name: float(sum(v.sum() for v in values)) / items for name, values in parts.items()}
    return {name: float(sum(v.mean() for v in values)) / len(found) for name, values in parts.items()}


def near(values: Any) -> Any:
    """The smoothing is a small difference of large numbers, in float32."""
    return pytest.approx(values, rel=2e-5, abs=2e-6)


# A plain loop


@pytest.mark.parametrize("kind", ["causal", "masked", "classifier"])
@pytest.mark.parametrize("divided", [False, True])
def test_a_plain_loop_with_accumulation(kind: str, divided: bool) -> None:
    """A warm-up that begins with weight 0, where nothing else may be told."""
    if divided and kind != "causal":
        pytest.skip("does not divide")
    setup = Setup(kind)
    rows = [default_data_collator(setup.rows()[i : i + 2]) for i in range(0, 12, 2)]
    optimizer = torch.optim.SGD([p for p in setup.model.parameters() if p.requires_grad], lr=0.1)
    expected, weights = [], [0.0, 0.5]
    plain = Setup(kind)
    with setup.plug(schedule="warmup:2") as handle:
        for step, batches in enumerate((rows[:3], rows[3:])):
            plain.model.load_state_dict(setup.model.state_dict())
            by_hand = of_step(plain, batches, divided)
            items = {"num_items_in_batch": sum(len(plain.by_hand(b)["task"]) for b in batches)}
            losses = []
            for batch in batches:
                loss = setup.model(**batch, **(items if divided else {})).loss
                losses.append(loss.item())
                (loss if divided else loss / 3).backward()
            last = handle.last
            total = sum(losses) / (1 if divided else 3)
            shares = {n: w * weights[step] for n, w in zip(NAMES, (COST, SMOOTHING), strict=True)}
            assert {n: last[f"weight/{n}"] for n in NAMES} == pytest.approx(shares)
            assert {n: last[n] for n in by_hand} == near(by_hand)
            assert total == pytest.approx(
                by_hand["task"] + sum(shares[n] * by_hand[n] for n in NAMES), rel=2e-5
            )
            expected.append(by_hand)
            optimizer.step()
            optimizer.zero_grad()
        logs = handle.logs()
        assert handle.logs() == {}
    means = {n: sum(e[n] for e in expected) / 2 for n in expected[0]}
    assert logs["task_loss"] == pytest.approx(means["task"], rel=2e-5)
    for name, weight in zip(NAMES, (COST, SMOOTHING), strict=True):
        assert logs[f"running_cost/{name}"] == near(means[name])
        assert logs[f"weight/{name}"] == pytest.approx(weight / 4)
    layers = [v for n, v in logs.items() if n.startswith("layers/brownian/")]
    assert len(layers) == setup.model.config.num_hidden_layers + 1


# Under the Trainer


class Recorder(TrainerCallback):  # type: ignore[misc]
    """What a user's own callback sees: the logs, and the trained parameters before each step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.logs: list[dict[str, float]] = []
        self.states: list[dict[str, Tensor]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states.append(
            {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def trainer(setup: Setup, folder: Path, *, rows: int = 24, callbacks: Any = (), **options: Any) -> Any:
    """Each of its batches is kept in ``seen``."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "label_names": ["labels"],
        "per_device_train_batch_size": 2,
        "max_steps": STEPS,
        "logging_steps": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    seen: list[dict[str, Tensor]] = []

    def collate(chosen: Any) -> Any:
        seen.append(default_data_collator(chosen))
        return dict(seen[-1])

    arguments = TrainingArguments(**{**given, **options})
    data = setup.rows(rows)
    made = Trainer(
        model=setup.model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:4],
        data_collator=collate,
        callbacks=list(callbacks),
    )
    made.seen = seen
    return made


def training_logs(run: Any) -> list[dict[str, float]]:
    return [log for log in run.state.log_history if "loss" in log]


@pytest.mark.parametrize("logging_steps", [1, 3])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", ["causal", "masked", "classifier"])
def test_the_trainers_logs_by_hand(
    kind: str, accumulate: int, logging_steps: int, tmp_path: Path
) -> None:
    """A masked LM and a classifier take the Trainer's number and do not divide: it logs a sum."""
    setup = Setup(kind)
    recorder = Recorder(setup.model)
    options = {"gradient_accumulation_steps": accumulate, "logging_steps": logging_steps}
    run = trainer(setup, tmp_path, callbacks=[recorder], **options)
    with setup.plug(schedule="warmup:2+cosine"):
        run.train()
    divided = kind == "causal"
    shares = [0.0, 0.5, *((1 + math.cos(math.pi * k / 4)) / 2 for k in range(4))]
    steps = []
    plain = Setup(kind)
    for step, state in enumerate(recorder.states):
        plain.model.load_state_dict(state, strict=False)
        batches = run.seen[step * accumulate : (step + 1) * accumulate]
        found = of_step(plain, batches, divided)
        weights = {n: w * shares[step] for n, w in zip(NAMES, (COST, SMOOTHING), strict=True)}
        loss = found["task"] + sum(weights[n] * found[n] for n in NAMES)
        steps.append(
            {"loss": loss * (1 if divided else accumulate), "task_loss": found["task"]}
            | {f"running_cost/{n}": found[n] for n in NAMES}
            | {f"weight/{n}": weights[n] for n in NAMES}
        )
    assert len(steps) == STEPS
    logs = training_logs(run)
    for number, log in enumerate(logs):
        part = steps[number * logging_steps : (number + 1) * logging_steps]
        expected = {name: sum(step[name] for step in part) / logging_steps for name in part[0]}
        assert {name: log[name] for name in expected} == near(expected)
        layers = [log[f"layers/brownian/{k}"] for k in range(setup.model.config.num_hidden_layers + 1)]
        assert all(value >= 0 for value in layers)
    assert len(logs) == STEPS // logging_steps
    if logging_steps == 1:  # means of products are not products of means
        times = 1 if divided else accumulate
        for log in logs:
            parts = sum(log[f"weight/{n}"] * log[f"running_cost/{n}"] for n in NAMES)
            assert log["loss"] == pytest.approx(times * (log["task_loss"] + parts), rel=1e-5)
    told = [log for log in recorder.logs if "loss" in log]
    assert told == [{k: v for k, v in log.items() if k != "step"} for log in logs]


def test_an_evaluation_tells_the_cost_and_predictions_stay_tensors(tmp_path: Path) -> None:
    setup = Setup("masked")
    recorder = Recorder(setup.model)
    run = trainer(
        setup,
        tmp_path,
        callbacks=[recorder],
        eval_strategy="steps",
        eval_steps=3,
        per_device_eval_batch_size=2,
    )
    with setup.plug(in_eval=True):
        run.train()
        assert run.predict(setup.rows(4)).predictions.shape == (4, 10, setup.model.config.vocab_size)
    plain = Setup("masked")
    after = load_states(recorder, setup)
    evaluations = [log for log in run.state.log_history if "eval_loss" in log]
    for log, state in zip(evaluations, (after[3], after[6]), strict=True):
        plain.model.load_state_dict(state, strict=False)
        rows = plain.rows(4)
        batches = [default_data_collator(rows[i : i + 2]) for i in (0, 2)]
        found = of_step(plain, batches, divided=False)
        assert log["eval_running_cost/brownian"] == near(found["brownian"])
        assert log["eval_loss"] == near(found["task"] + COST * found["brownian"])
    assert "eval_running_cost/brownian" in next(log for log in recorder.logs if "eval_loss" in log)
    assert not any(name.startswith("eval_") for log in training_logs(run) for name in log)


def load_states(recorder: Recorder, setup: Setup) -> list[dict[str, Tensor]]:
    """The parameters after so many steps."""
    end = {n: p.detach().clone() for n, p in setup.model.named_parameters() if p.requires_grad}
    return [*recorder.states, end]


def test_an_evaluation_without_asking_tells_nothing(tmp_path: Path) -> None:
    setup = Setup("masked")
    with setup.plug():
        run = trainer(setup, tmp_path, eval_strategy="steps", eval_steps=3)
        run.train()
    for log in run.state.log_history:
        assert ("eval_loss" in log) <= (not any("running_cost" in name for name in log))


@pytest.mark.parametrize("interrupted", [1, 2, 4])
def test_a_resumed_run_ends_at_the_same_bits(interrupted: int, tmp_path: Path) -> None:
    """In the warm-up and the first steps of a ratio, and behind both."""
    weights = (pets.Ratio(0.3, steps=3), pets.Ratio(0.1, steps=2, every=2))
    options = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}
    file = f"checkpoint-{STEPS}/adapter_model.safetensors"
    setup = Setup("masked")
    with setup.plug(weights, schedule="warmup:2+cosine"):
        whole = trainer(setup, tmp_path, **options)
        whole.train()
    expected = load_file(tmp_path / file)
    setup = Setup("masked")
    with setup.plug(weights, schedule="warmup:2+cosine") as handle:
        run = trainer(setup, tmp_path, **options)
        run.train(str(tmp_path / f"checkpoint-{interrupted}"))
        state = handle.state_dict()
    names = [f"weight/{n}" for n in NAMES] + [f"running_cost/{n}" for n in NAMES] + ["task_loss"]
    series = [[{n: log[n] for n in names} for log in training_logs(r)] for r in (whole, run)]
    assert series[0] == series[1]
    assert all(torch.equal(load_file(tmp_path / file)[n], v) for n, v in expected.items())
    kept = json.loads((tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    (callback,) = (v for n, v in kept["stateful_callbacks"].items() if n == RegularizerCallback.__name__)
    assert callback["attributes"]["state"]["weights"] == state["weights"]


def plugged_in(run: Any) -> int:
    return sum(isinstance(c, RegularizerCallback) for c in run.callback_handler.callbacks)


def test_one_handle_under_two_trainers(tmp_path: Path) -> None:
    """Each begins at step 0 of its own; after the end of one nothing is left in it."""
    setup = Setup("masked")
    with setup.plug(schedule="warmup:2+cosine"):
        runs = [trainer(setup, tmp_path, max_steps=count) for count in (3, STEPS)]
        for run in runs:
            run.train()
            assert plugged_in(run) == 0
    for run, count in zip(runs, (3, STEPS), strict=True):
        shares = [0.0, 0.5, *((1 + math.cos(math.pi * k / (count - 2))) / 2 for k in range(count - 2))]
        found = [log["weight/brownian"] for log in training_logs(run)]
        assert found == pytest.approx([COST * share for share in shares])


def test_a_handle_that_is_removed_in_a_run_takes_its_callback_along(tmp_path: Path) -> None:
    setup = Setup("masked")
    handle = setup.plug()
    inside = []

    class Removing(TrainerCallback):  # type: ignore[misc]
        """After three steps."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            inside.append(plugged_in(run))
            if state.global_step == 3:
                handle.remove()

    run = trainer(setup, tmp_path, callbacks=[Removing()])
    run.train()
    assert inside == [1, 1, 1, 0, 0, 0]
    assert ["task_loss" in log for log in training_logs(run)] == [True] * 2 + [False] * 4


# On two processes


def shared_run(folder: Path, batch_size: int) -> list[dict[str, float]]:
    """Batches of four texts, by one process or two."""
    setup = Setup("causal")
    run = trainer(setup, folder, per_device_train_batch_size=batch_size, gradient_accumulation_steps=2)
    with setup.plug((COST, SMOOTHING), schedule="warmup:2"):
        run.train()
    return training_logs(run)


def main(folder: Path) -> None:
    logs = shared_run(folder / "shared", 2)
    (folder / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(logs))
    torch.distributed.destroy_process_group()


def test_two_processes_log_what_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    run_ranks(2, [__file__, tmp_path])
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    expected = shared_run(tmp_path / "alone", 4)
    names = [
        "loss",
        "task_loss",
        *(f"{of}/{n}" for of, n in itertools.product(("weight", "running_cost"), NAMES)),
    ]
    for logs in found:
        assert len(logs) == STEPS
        for log, wanted in zip(logs, expected, strict=True):
            assert {n: log[n] for n in names} == near({n: wanted[n] for n in names})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
