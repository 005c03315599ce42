"""The measurements run at tiny size, guard themselves, and the page they make is up to date."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from shared_files import needs_shared, shared
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from torch.utils.flop_counter import FlopCounterMode

import bridges
from benchmarks import (
    arms,
    generation,
    guard,
    joint_fit,
    meter,
    readme,
    shapes,
    step_cost,
)
from benchmarks.environment import to_json
from benchmarks.flops import flops
from benchmarks.suite import Group, Refused
from kernels.path.solver import SolverReport
from pets.tuning.models import load_plm

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_bert(vocab_size=1100).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_step_cost_reports_time_and_memory(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_cost, "RESULTS", tmp_path)
    args = ["--model", model, "--batch", "2", "--length", "8", "--steps", "2", "--out", "r.json"]
    done = CliRunner().invoke(step_cost.main, args, catch_exceptions=False)
    assert done.exit_code == 0
    assert "peak memory" in done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["peak_mebibytes"]["vanilla"] > 100
    assert record["time"]["milliseconds"]["vanilla"]["p50"] > 0
    assert "| added (of the medians) |" in readme.render({"r.json": record})


def test_step_cost_of_a_checkpointed_causal_model(tmp_path: Path) -> None:
    plm, tokenizer = tiny_llama(), tiny_tokenizer()
    plm.resize_token_embeddings(1100)
    plm.save_pretrained(tmp_path / "llama")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "llama")
    work = step_cost.Workload(str(tmp_path / "llama"), 2, 8, checkpointing=True)
    cost = bridges.RunningCost.for_model(work.plm, "brownian")
    work.check(cost)
    arm = step_cost.Arm(work, work.plm, cost)
    assert arm.step() > 0
    assert arm.plug is not None
    assert arm.plug.last["brownian"] > 0


@pytest.mark.parametrize("bridge", ["brownian", "sde"])
def test_step_cost_times_nothing_when_the_cost_is_wrong(
    bridge: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = step_cost.Workload(model, 2, 8)
    cost = bridges.RunningCost.for_model(work.plm, bridge)
    work.check(cost)
    good = cost.forward
    monkeypatch.setattr(cost, "forward", lambda *a, **k: 1.01 * good(*a, **k))
    with pytest.raises(AssertionError, match="not close"):
        work.check(cost)


def test_joint_fit_reports_both_arms(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_fit, "RESULTS", tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    args = ["--model", model, "--text", str(tmp_path / "text.txt"), "--bridges", "brownian", "sde"]
    args += ["--batch", "4", "--length", "16", "--steps", "2", "--rounds", "2", "--out", "j.json"]
    done = CliRunner().invoke(joint_fit.main, args, catch_exceptions=False)
    assert done.exit_code == 0
    assert "one after another takes" in done.output
    record = json.loads((tmp_path / "j.json").read_text())
    assert record["joint_fit"]["seconds"]["together"]["p50"] > 0
    page = readme.render({"j.json": record})
    assert "## Fitting 2 costs" in page
    assert "| one after another | " in page


def test_joint_fit_times_nothing_when_the_costs_differ(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 4, "max_length": 16, "max_steps": 2}
    work = joint_fit.Workload(model, ("brownian", "ou"), TEXTS, **settings)
    seeds, original = iter((1, 2)), bridges.fit_together

    def other(costs: Any, *args: Any, **options: Any) -> Any:
        return original(costs, *args, **{**options, "seed": next(seeds)})

    monkeypatch.setattr(joint_fit, "fit_together", other)
    with pytest.raises(AssertionError, match="fitted together the costs are not the same"):
        joint_fit.measure(work, 1)


def test_generation_is_scored_word_for_word() -> None:
    """Answers are targets and nothing else; a model that repeats the truth scores 1, another one 0."""
    tokenizer = tiny_tokenizer()
    only_start = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    tokenizer.backend_tokenizer.post_processor = only_start  # as those of causal models
    chosen = [("the dog runs", " red house."), ("the cat sleeps very", " blue tree.")]
    inputs = generation.encode(tokenizer, chosen)
    for k, (text, answer) in enumerate(chosen):
        attended = inputs["input_ids"][k][inputs["attention_mask"][k].bool()].tolist()
        assert attended == tokenizer(text + answer)["input_ids"]
        targets = inputs["labels"][k][inputs["labels"][k] != -100].tolist()
        assert attended[-len(targets) :] == targets

    class Parrot:
        def __init__(self, answers: list[str]) -> None:
            self.answers = iter(answers)

        def generate(self, input_ids: Any, **_: Any) -> Any:
            ids = tokenizer(next(self.answers), add_special_tokens=False)["input_ids"]
            return torch.cat([input_ids, torch.tensor([ids])], 1)

    assert generation.exact_match(Parrot(["red house", "blue tree"]), tokenizer, chosen) == 1
    assert generation.exact_match(Parrot(["red house", "blue house"]), tokenizer, chosen) == 0.5
    assert generation.stories(5, 1) == generation.stories(5, 1) != generation.stories(5, 2)


@needs_shared("models", "stories260K")
def test_generation_makes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(shared("models", "stories260K"))
    plm, _ = load_plm(name)
    bridges.RunningCost.for_model(plm).save_pretrained(tmp_path / "brownian")
    monkeypatch.setattr(generation, "RESULTS", tmp_path)
    monkeypatch.setattr(generation, "REPORTED", 3)
    args = ["--model", name, "--costs", str(tmp_path / "brownian"), "--seeds", "1", "2", "--steps", "2"]
    args += ["--shots", "8", "--batch-size", "4", "--out", "g.json"]
    done = CliRunner().invoke(generation.main, args, catch_exceptions=False)
    assert done.exit_code == 0
    record = json.loads((tmp_path / "g.json").read_text())
    assert record["generation"]["summary"]["brownian"]["count"] == 2
    assert record["generation"]["table"] in readme.render({"g.json": record})


def test_the_committed_page_is_what_the_committed_results_make() -> None:
    records = {path.name: json.loads(path.read_text()) for path in readme.RESULTS.glob("*.json")}
    page = readme.TARGET.read_text()
    assert page == readme.render(records)
    links = re.findall(r"\]\((?!http)(.*?)\)", page)
    assert "EVIDENCE.md" in links
    assert all((readme.TARGET.parent / link).exists() for link in links)


TINY = shapes.named("tiny", "cpu")
SMALL = shapes.Shape("small", 1, 3, 2, 5, (4, 2))


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled arms run their form as it is: compiling takes half a minute."""
    monkeypatch.setattr(torch, "compile", lambda form, **options: form)
    monkeypatch.setattr(arms, "compiler_refusal", lambda device: None)


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("operation", arms.OPERATIONS)
def test_every_arm_is_right_and_timed(operation: str) -> None:
    record = Group(operation, TINY, "cpu").record(rounds=3)
    assert len(record["arms"]) >= 3
    for name, arm in record["arms"].items():
        if name == "torchsde" and find_spec("torchsde") is None:
            assert arm == {"status": "skipped", "errors": {}, "reason": arms._torchsde_refusal()}
            continue
        assert arm["status"] == "timed", arm
        assert arm["errors"].keys() == {
            "torchsde": {"mean"},
            "compiled": {"float64"},
        }.get(name, {"oracle", "float64"})
        assert arm["rounds"] == 3
        assert 0 < arm["milliseconds"]["p20"] <= arm["milliseconds"]["p80"]
        assert arm["gigaflop"] > 0
        memory = arm["mebibytes"]
        assert memory["peak"] == pytest.approx(memory["gradients"] + memory["extra"], abs=2e-3)
    if record["baseline"] in (name for name, a in record["arms"].items() if a["status"] == "timed"):
        assert record["arms"][record["baseline"]]["ratio"] == {"p20": 1, "p50": 1, "p80": 1}


def test_gradients_of_the_hidden_states_are_told_from_the_memory_a_form_takes() -> None:
    memory = Group("pooling", TINY, "cpu", compiled=False).record(rounds=1)["arms"]
    states = TINY.hidden_bytes / 2**20
    assert {arm["mebibytes"]["gradients"] for arm in memory.values() if "mebibytes" in arm} == {
        round(states, 3)
    }
    # The plain form holds a stack and its product with the mask; ours a layer's states at a time.
    assert memory["eager"]["mebibytes"]["extra"] >= states
    assert memory["ours"]["mebibytes"]["extra"] < states / 2


def off(value: torch.Tensor, how: str) -> torch.Tensor:
    """A result that is wrong: in its value, in its gradient alone, or no number."""
    if how == "value":
        return value + 0.01 * value.detach()
    if how == "gradient":
        return value + 0.01 * (value - value.detach())
    return value * float("nan")


@pytest.mark.parametrize("how", ["value", "gradient", "nan"])
@pytest.mark.parametrize(
    ("operation", "target"),
    [
        ("pooling", "pool_trajectory"),
        ("pdf", "bridge_nll"),
        ("lens", "lens_nll"),
        ("fit", "bridge_nll"),
        ("sde", "sde_cost"),
    ],
)
def test_nothing_is_timed_that_is_one_per_cent_off(
    operation: str, target: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: Any = getattr(arms, target)

    def wrong(*args: Any, **options: Any) -> Any:
        found = good(*args, **options)
        return (off(found[0], how), found[1]) if isinstance(found, tuple) else off(found, how)

    monkeypatch.setattr(arms, target, wrong)
    group = Group(operation, TINY, "cpu", compiled="left out")
    record = group.record(rounds=1)["arms"]
    for name in (name for name in record if name.startswith("ours")):
        assert record[name]["status"] == "wrong"
        bound = "5e-05" if name == "ours-picard" else "1e-05"
        assert record[name]["reason"].startswith(f"allowed {{'value': {bound}")
        assert not {"milliseconds", "ratio", "mebibytes"} & set(record[name])
        with pytest.raises(Refused, match="wrong: allowed"):
            group.call(name)
    if operation != "sde":
        assert record["eager"]["status"] == "timed"


def test_an_arm_that_is_right_on_a_few_targets_and_wrong_on_all_is_refused() -> None:
    shape = dataclasses.replace(TINY, targets=5)
    group = Group("pdf", shape, "cpu", compiled="left out")
    good = group.arms["ours"].value
    late = dataclasses.replace(
        group.arms["ours"], value=lambda x: good(x) * (1.01 if len(x.rows) > guard.TARGETS else 1)
    )
    group.arms["late"] = late
    verdict = group.verdict("late")
    assert not verdict.ok
    assert verdict.errors["oracle"]["value"] < 1e-6
    assert verdict.errors["float64"]["value"] == pytest.approx(0.01, rel=1e-3)


def test_one_wrong_gradient_among_many_is_enough() -> None:
    true = [torch.ones(3, dtype=torch.float64) for _ in range(4)]
    found = [t.float() for t in true]
    found[2] *= 1.01
    assert guard.errors(found, true) == {"value": 0.0, "gradient": pytest.approx(0.01)}
    found[2] *= float("nan")
    assert math.isnan(guard.errors(found, true)["gradient"])
    assert not guard.within(guard.errors(found, true), {"value": 1.0, "gradient": 1.0})


def test_gradients_are_compared_where_float16_can_hold_them() -> None:
    shape = dataclasses.replace(TINY, batch=64, dtype=torch.float16)
    inputs = shapes.make_inputs(shape)
    found = guard.Guard(arms.OPERATIONS["pdf"], inputs)
    _, true = found.truths["float64"]
    assert 8 <= max(float(t.abs().max()) for t in true[1:]) <= 16
    ours = arms.ours("pdf", None, None, "ours")
    assert found.check(ours).ok
    found.truths["float64"] = (found.x, [true[0], *(t / found.scale for t in true[1:])])
    found.truths.pop("oracle")
    found.scale = 1.0
    assert not found.check(ours).ok


def test_an_arm_that_raises_is_wrong_and_the_others_are_timed() -> None:
    def broken(x: shapes.Inputs) -> torch.Tensor:
        raise RuntimeError("no such kernel\nat line 1")

    group = Group("pooling", TINY, "cpu", compiled="left out")
    group.arms["broken"] = arms.KernelArm("broken", broken)
    found = group.record(rounds=1)["arms"]
    assert found["broken"] == {
        "status": "wrong",
        "errors": {},
        "reason": "RuntimeError: no such kernel",
    }
    assert found["ours"]["status"] == "timed"


def test_a_float64_truth_that_misses_the_oracle_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    good = guard.pytorch_value
    monkeypatch.setattr(guard, "pytorch_value", lambda name, x: good(name, x) * (1 + 1e-8))
    with pytest.raises(AssertionError, match="pdf: the float64 PyTorch path misses the oracle"):
        Group("pdf", TINY, "cpu", compiled=False).verdict("ours")


def test_a_baseline_with_another_mean_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchsde")
    good = arms.eager.sde_cost
    group = Group("sde", TINY, "cpu")
    assert group.verdict("torchsde").ok
    monkeypatch.setattr(arms.eager, "sde_cost", lambda *a: 1.2 * good(*a))
    found = Group("sde", TINY, "cpu").record(rounds=1)["arms"]
    assert found["torchsde"]["status"] == "wrong"
    assert found["ours-picard"]["ratio"] is None


def test_a_compiler_that_does_not_work_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(form: Any, **options: Any) -> Any:
        raise RuntimeError("no C++ compiler\nsomewhere")

    monkeypatch.setattr(torch, "compile", compile_)
    arms.compiler_refusal.cache_clear()
    try:
        assert (
            arms.compiler_refusal("cpu")
            == "torch.compile does not work here: RuntimeError: no C++ compiler"
        )
    finally:
        arms.compiler_refusal.cache_clear()


@pytest.mark.parametrize("name", shapes.NAMES)
def test_inputs_are_seeded_and_as_the_library_makes_them(name: str) -> None:
    shape = dataclasses.replace(shapes.named(name, "cpu"), hidden=16, batch=3, widths=(8, 4))
    x, again, other = (shapes.make_inputs(shape, seed=seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(x.hidden, again.hidden, strict=True))
    assert not torch.equal(x.hidden[0], other.hidden[0])
    assert all(h.is_leaf and h.requires_grad for h in x.hidden)
    assert [len(x.hidden), *x.hidden[0].shape] == [shape.layers + 1, 3, shape.length, 16]
    assert x.mask[x.rows, x.columns].all()
    assert not x.mask.all()
    where = list(zip(x.rows.tolist(), x.columns.tolist(), strict=True))
    assert len(set(where)) == shape.tokens
    assert where == sorted(where)
    assert x.end.norm(dim=1) == pytest.approx(torch.ones(shape.tokens))
    assert len(x.grid.decay) == len(x.noise) == shape.steps
    first, last = x.hidden[0].flatten(), x.hidden[1].flatten()
    assert torch.corrcoef(torch.stack([first, last]))[0, 1] > 0.9
    few = x.subset(2)
    assert len(few.rows) == 2
    assert torch.equal(few.hidden[3][few.rows, few.columns], x.hidden[3][x.rows, x.columns][[0, -1]])


def test_larger_shapes_are_left_out_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_free_bytes", lambda device: 2e9)
    assert shapes.that_fit("cpu") == ["tiny", "bert-base", "fit"]
    monkeypatch.setattr(shapes, "_free_bytes", lambda device: 1e12)
    assert shapes.that_fit("cpu") == list(shapes.NAMES)


def test_on_a_gpu_the_large_shapes_are_larger_and_in_bfloat16() -> None:
    for name in ("bert-large", "fit"):
        shape = shapes.named(name, "cuda")
        assert (shape.batch, shape.dtype) == (32, torch.bfloat16)
    assert shapes.named("bert-base", "cuda") == shapes.named("bert-base", "cpu")


def test_arithmetic_is_counted_as_by_hand() -> None:
    # Two layers' states, B 2, S 5, H 3, N 2, g (4, 2); 24 steps.
    pooling = 2 * 2 * 2 * 5 * 3
    first = 2 * 2 * (2 + 2) * 3 * 4
    rest = 2 * 2 * (2 * 4 * 2)
    assert flops("pooling", SMALL) == 2 * pooling
    assert flops("pdf-forward", SMALL) == pooling + first + rest
    assert flops("pdf", SMALL) == 2 * (pooling + first + rest)
    assert flops("lens", SMALL) == 2 * (2 * 2 * 2 * 3 * 2)
    assert flops("fit", SMALL) == pooling + 2 * (first + rest) + rest
    inputs = 2 * 25 * 2 * 2 * 4 + 2 * 2 * 2 * 3 * 4 + 2 * 25 * 2 * 2 * 2
    network, recurrence = 25 * 2 * (2 * 2 * 4 + 2 * 4 * 2), 2 * 25 * 24 * 2 * 2
    assert flops("sde", SMALL) == 2 * (pooling + first + inputs) + 2 * network
    solve = SolverReport("picard", evaluations=3, backward_evaluations=4)
    assert flops("sde", SMALL, solve) == 2 * (pooling + first + inputs) + 7 * (network + recurrence)


@pytest.mark.parametrize("operation", ["pdf-forward", "pdf", "fit"])
def test_arithmetic_is_what_torch_counts(operation: str) -> None:
    group = Group(operation, TINY, "cpu", compiled=False)
    call = group.call("ours")
    with FlopCounterMode(display=False) as counter:
        call()
    # Pooling's backward is a product of a column and a row by broadcasting, which torch does not count.
    uncounted = flops("pooling", TINY) // 2 if operation == "pdf" else 0
    assert counter.get_total_flops() == flops(operation, TINY) - uncounted


def test_the_memory_meter_finds_a_known_peak() -> None:
    def call() -> torch.Tensor:
        first = torch.ones(2**20)  # 4 MiB
        second = first * 2  # 8 MiB, the peak
        del first
        second.mul_(2)
        del second
        return torch.ones(2**18)

    call()
    assert 2**23 <= meter.peak_bytes(call, "cpu") < 2**23 + 2**12


def test_arms_run_in_turn_and_nothing_but_whole_rounds_is_counted() -> None:
    order: list[str] = []
    calls = {name: functools.partial(order.append, name) for name in "abc"}
    entered: list[str] = []

    @contextlib.contextmanager
    def around(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    taken = meter.measure(calls, 4, "cpu", around=around)
    assert [len(times) for times in taken.values()] == [4, 4, 4]
    rounds = [order[k : k + 3] for k in range(0, len(order), 3)]
    assert ["".join(r) for r in rounds] == ["abc", "bca", "cab"] * 2
    assert entered == order
    assert len(meter.measure(calls, 50, "cpu", seconds=0)["a"]) == meter.FEWEST


def test_rounds_to_warm_up_are_not_of_the_time_that_rounds_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    calls: list[float] = []

    def call() -> None:
        now[0] += 1 if len(calls) >= meter.WARM_UP else 1000
        calls.append(now[0])

    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    assert len(meter.measure({"a": call}, 50, "cpu", seconds=9.5)["a"]) == 10


def test_quantiles_and_ratios_are_of_the_rounds() -> None:
    assert meter.quantiles(range(11)) == {"p20": 2, "p50": 5, "p80": 8}
    assert meter.ratios([2, 6, 12], [1, 2, 3])["p50"] == 3


def test_the_suite_writes_a_record_that_makes_a_page(tmp_path: Path) -> None:
    target = tmp_path / "kernels.json"
    args = ["--shapes", "tiny", "--no-compile", "--rounds", "3", "--out", str(target), "-k", "pooling"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", *args, "-p", "no:cacheprovider"],
        cwd=readme.TARGET.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"wrote {target}" in done.stdout
    record = json.loads(target.read_text())
    (group,) = record["groups"]
    assert (group["operation"], group["shape"]) == ("pooling", "tiny")
    assert record["environment"]["command"].startswith("pytest benchmarks --shapes tiny")
    page = readme.render({"kernels.json": record})
    assert "## Kernels on the CPU: `results/kernels.json`" in page
    assert "| compiled | skipped: --no-compile was given |" in page


def test_a_result_file_has_no_number_that_is_none() -> None:
    assert json.loads(to_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}})) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }
