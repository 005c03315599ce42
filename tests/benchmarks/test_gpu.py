"""The command for a GPU: what one part does stops no other, rows stay, and the record says it all."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from places import REPOSITORY

import pets
from benchmarks import arms, environment, readme, shapes
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import (
    added,
    checks,
    clock,
    machine,
    plan,
    processes,
    sanitizer,
    times,
    training,
    workloads,
)
from benchmarks.gpu.aims import aims
from benchmarks.gpu.assemble import record
from benchmarks.gpu.plan import PARTS, ROWS, Context, Part
from benchmarks.gpu.rows import Rows

pytestmark = pytest.mark.slow

WRONG = {
    "shape": "odd",
    "operation": "pdf",
    "backend": "pytorch",
    "solver": None,
    "states": "float32",
    "g": "float32",
    "ok": False,
    "errors": {"oracle": {"value": 0.01}},
    "reason": "wrong: allowed 1e-5",
}


def writing(folder: Path, part: str, row: dict[str, Any], then: str = "") -> list[str]:
    """A process that writes a row of a part, and then does something else."""
    program = (
        "import os, sys, time, pathlib; from benchmarks.gpu.rows import Rows\n"
        f"Rows(pathlib.Path({str(folder / ROWS)!r})).add({part!r}, 'check', {row!r})\n{then}"
    )
    return [sys.executable, "-c", program]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, thens: dict[str, str], *options: str) -> Result:
    """The command with parts that only write a row, and do what is said after that."""

    def line(part: str, *_: object) -> list[str]:
        return writing(folder, part, {**WRONG, "ok": "wrong" not in thens[part]}, thens[part])

    monkeypatch.setattr(processes, "command", line)
    args = ["--device", "cpu", "--out", str(folder), "--only", ",".join(thens), *options]
    return CliRunner().invoke(command.main, args)


def made(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu_cpu.json").read_text())
    return found


def statuses(folder: Path) -> dict[str, str]:
    return {part["part"]: part["status"] for part in made(folder)["parts"]}


def test_a_part_that_crashes_keeps_its_rows_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "print('an illegal access', file=sys.stderr, flush=True)\nos._exit(139)"
    done = run(monkeypatch, tmp_path, {"odd": crash, "large": ""})
    assert done.exit_code == 1
    found = made(tmp_path)
    assert [row["part"] for row in found["check"]["rows"]] == ["odd", "large"]
    assert statuses(tmp_path) | {"odd": "failed", "large": "done"} == statuses(tmp_path)
    assert found["wrong"] == ["odd: exit status 139 (SIGSEGV): an illegal access"]
    assert "an illegal access" in (tmp_path / plan.LOG).read_text()
    assert found["check"]["wrong"] is None
    page = readme.render({"gpu_cpu.json": found})
    assert "Against float64: unfinished after 2 forms" in page
    assert "Wrong: odd: exit status 139 (SIGSEGV): an illegal access." in page


def test_a_part_that_hangs_is_stopped_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (Part("odd", "", 4, least=0), Part("large", "", 60, least=0))
    monkeypatch.setattr(command, "PARTS", parts)
    done = run(monkeypatch, tmp_path, {"odd": "time.sleep(3600)", "large": ""})
    assert done.exit_code == 1
    assert statuses(tmp_path)["odd"] == "stopped"
    assert statuses(tmp_path)["large"] == "done"
    assert made(tmp_path)["wrong"] == ["odd: stopped after its 4 s"]


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_what_a_part_started_goes_with_it(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(3600)"
    )
    assert processes.run([sys.executable, "-c", program], 3).status == "stopped"
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 60
    while alive(pid) and time.monotonic() < end:  # a killed process may take a moment
        time.sleep(0.05)
    assert not alive(pid)


def test_a_signal_is_named() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
    ended = processes.run([sys.executable, "-c", program], 60)
    assert (ended.status, ended.reason) == ("failed", "killed by SIGABRT")


def test_a_wrong_row_stops_nothing_and_the_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(monkeypatch, tmp_path, {"odd": "# wrong", "large": ""})
    assert done.exit_code == 1
    assert statuses(tmp_path)["large"] == "done"
    assert made(tmp_path)["check"]["wrong"] == 1
    assert "WRONG pdf, odd, pytorch, float32 states: wrong: allowed 1e-5" in done.output


def test_nothing_wrong_is_status_zero_and_a_label_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(monkeypatch, tmp_path, {"odd": "", "large": ""}, "--label", "as it was")
    assert done.exit_code == 0, done.output
    assert made(tmp_path)["check"]["wrong"] == 0
    assert made(tmp_path)["label"] == "as it was"
    assert not made(tmp_path)["finished"]
    assert made(tmp_path)["environment"]["commit"] == environment.commit()
    args = ["--device", "cpu", "--out", str(tmp_path), "--assemble"]
    again = CliRunner().invoke(command.main, args)
    assert again.output == f"wrote {tmp_path / 'gpu_cpu.json'}\n"
    assert made(tmp_path)["label"] == "as it was"
    CliRunner().invoke(command.main, [*args, "--label", "another", "--commit", "abc"])
    assert (made(tmp_path)["label"], made(tmp_path)["environment"]["commit"]) == ("another", "abc")


def test_what_does_not_fit_into_the_budget_is_skipped_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(monkeypatch, tmp_path, {"odd": "", "compiled": ""}, "--budget", "24")
    assert done.exit_code == 0, done.output
    assert statuses(tmp_path)["odd"] == "done"
    (skipped,) = [p for p in made(tmp_path)["skipped"] if p["part"] == "compiled"]
    assert skipped["reason"].endswith("s of 24 s were left, it needs 25 s")


def test_a_part_leaves_to_those_after_it_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(monkeypatch, tmp_path, {"odd": "", "large": "", "compiled": ""}, "--budget", "80")
    assert done.exit_code == 0, done.output
    limits = {r["part"]: r["limit"] for r in Rows(tmp_path / ROWS).read() if r["kind"] == "start"}
    assert 35 < limits["odd"] <= 80 - 15 - 25
    assert 25 < limits["compiled"] <= 80
    assert sum(part.least for part in PARTS) <= 200  # of 300 by default


def test_without_a_gpu_the_command_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "try --device cpu --quick" in CliRunner().invoke(command.main, []).output
    wrong = CliRunner().invoke(command.main, ["--device", "cpu", "--only", "odd,huge"])
    assert f"--only: no huge, only {', '.join(part.name for part in PARTS)}" in wrong.output


def test_rows_are_whole_and_a_part_that_is_run_again_replaces_its_own(tmp_path: Path) -> None:
    rows = Rows(tmp_path / ROWS)
    assert rows.read() == []
    rows.add("odd", "start", {})
    rows.add("odd", "check", {"error": float("nan")})
    rows.add("large", "check", {"n": 1})
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"part": "large", "ki')
    rows.add("large", "check", {"n": 2})
    assert [(row["kind"], row.get("error", "none")) for row in rows.read()[:2]] == [
        ("start", "none"),
        ("check", None),
    ]
    assert [row["n"] for row in rows.read()[2:]] == [1, 2]
    rows.add("large", "start", {})
    assert [row["kind"] for row in rows.read() if row["part"] == "large"] == ["start"]
    assert len([row for row in rows.read() if row["part"] == "odd"]) == 2


def test_a_record_of_two_commands_has_the_parts_and_the_lines_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(only: str) -> str:
        monkeypatch.setattr(command, "command_line", lambda: f"python -m benchmarks.gpu --only {only}")
        done = run(monkeypatch, tmp_path, {only: ""})
        assert done.exit_code == 0, done.output
        return str(made(tmp_path)["environment"]["command"])

    assert called("odd") == "python -m benchmarks.gpu --only odd"
    both = "python -m benchmarks.gpu --only odd && python -m benchmarks.gpu --only large"
    assert called("large") == both
    done = {part for part, status in statuses(tmp_path).items() if status == "done"}
    assert done == {"odd", "large"}
    assert made(tmp_path)["check"]["wrong"] == 0
    again = "python -m benchmarks.gpu --only large && python -m benchmarks.gpu --only odd"
    assert called("odd") == again  # of the first command there is nothing left


def test_a_sanitizer_that_was_not_done_is_not_measured(tmp_path: Path) -> None:
    rows = Rows(tmp_path / ROWS)
    late = {"tool": "racecheck", "errors": None, "reason": "it was not done after 39 s", "said": ""}
    rows.add("racecheck", "sanitizer", late)
    rows.add("memcheck", "sanitizer", {**late, "tool": "memcheck", "errors": 0, "reason": ""})
    for part in ("racecheck", "memcheck"):
        rows.add(part, "end", {"status": "done", "reason": "", "seconds": 43.3})
    found = record(rows.read())
    assert {"part": "racecheck", "reason": "it was not done after 39 s"} in found["skipped"]
    assert not any(said.startswith("racecheck") for said in found["wrong"])
    page = readme.render({"gpu_cpu.json": found})
    assert page.count("racecheck") == 1
    assert "Not measured: racecheck: it was not done after 39 s." in page
    assert "compute-sanitizer, memcheck, on the odd shapes: 0 errors." in page


BLOCKED = """import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('datasets', 'pytest'): raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""


def test_the_whole_command_runs_on_a_cpu_with_what_the_gpu_machine_has(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    variables |= {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--out", str(out)],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in out.iterdir()} == {"gpu_cpu.json", ROWS, plan.PROFILE}
    found = made(out)
    assert found["finished"], found["skipped"]
    line = "python -m benchmarks.gpu --device cpu --quick --out FOLDER"
    assert found["environment"]["command"] == line
    assert str(tmp_path) not in (out / "gpu_cpu.json").read_text()
    assert found["check"]["wrong"] == 0
    assert {row["solver"] for row in found["check"]["rows"]} == {None, "picard", "sequential"}
    for work in found["training"]:
        assert list(work["arms"]) == ["vanilla", *workloads.COSTS]
        assert work["errors"].keys() == workloads.COSTS.keys()
        for arm in work["arms"].values():
            assert arm["host"] == arm["wall"]
            assert arm["device"] is None
            assert arm["rounds"] == 3
        assert work["alone"].keys() == workloads.COSTS.keys()
        for name in workloads.COSTS:
            arm = work["arms"][name]
            assert arm["graphs"] == {"replayed": 0, "refused": []}
            assert arm["adds"]["wall"]["rounds"] == 3
            # On a CPU the states of both models are float32 or bfloat16, and so are their gradients.
            assert arm["adds"]["mebibytes"] > 0
    rows = [json.loads(line) for line in (out / ROWS).read_text().splitlines()]
    assert all(row["at"] > 0 for row in rows if row["kind"] in ("check", "training", "alone", "times"))
    assert {row["way"] for row in found["pooling"]} == {"forward", "backward"}
    timed = {group["operation"] for group in found["times"] if group["part"] == "times"}
    assert timed == set(arms.OPERATIONS) - {"pooling"}
    assert {aim["reason"] for aim in found["aims"]} == {"tiny models, --quick"}
    page = readme.render({"gpu_cpu.json": found})
    for part in (
        "Against float64: ",
        "Memory, by a sum",
        "| posterior | ",
        "| cost alone | host ms |",
        "| ours-picard | ",
        "| pooling: share of the copy bandwidth |",
        "Not measured: memcheck: for CUDA devices alone.",
        "| compiled | skipped: on a GPU alone |",
    ):
        assert part in page, part
    tables = (out / plan.PROFILE).read_text()
    for name in ("bert, vanilla", "bert, brownian", "causal, vanilla", "causal, brownian"):
        assert name in tables
    assert "aten::mm" in tables


def test_an_operation_that_is_one_per_cent_off_is_a_wrong_row(monkeypatch: pytest.MonkeyPatch) -> None:
    good = arms.bridge_nll
    monkeypatch.setattr(arms, "bridge_nll", lambda *a, **k: 1.01 * good(*a, **k))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    rows = list(checks.odd("cpu", checks.ODD[2:], [torch.float32]))
    wrong = {row["operation"] for row in rows if row["ok"] is False}
    assert wrong == {"pdf", "fit"}
    assert {row["shape"] for row in rows} == {"small", "tiny"}
    assert all(row["reason"] for row in rows if row["ok"] is None)
    few = [
        row for row in checks.large("cpu", ["tiny"]) if row["operation"] == "pdf" and row.get("errors")
    ]
    assert [row["errors"].keys() for row in few] == [{"float64"}] * 2
    assert not any(row["ok"] for row in few)


def test_a_truth_that_cannot_be_made_is_a_wrong_row_and_the_next_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = checks.Guard

    def none_for_pdf(operation: arms.Operation, *args: Any, **options: Any) -> Any:
        if operation.name == "pdf":
            raise RuntimeError("an illegal memory access\nat some line")
        return good(operation, *args, **options)

    monkeypatch.setattr(checks, "Guard", none_for_pdf)
    rows = list(checks.odd("cpu", checks.ODD[2:], [torch.float32]))
    (reason,) = {row["reason"] for row in rows if row["operation"] == "pdf" and row["ok"] is False}
    assert reason == "RuntimeError: an illegal memory access"
    assert any(row["ok"] for row in rows if row["operation"] == "fit")


@pytest.mark.parametrize("name", workloads.BY_NAME)
def test_a_cost_that_is_wrong_is_not_timed_and_each_arm_is_plugged_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugs: list[object] = []
    regularize = pets.regularize

    def counted(model: Any, cost: Any, *args: Any) -> Any:
        plugs.append(cost)
        return regularize(model, cost, *args)

    monkeypatch.setattr(pets, "regularize", counted)
    work = workloads.BY_NAME[name]("cpu", quick=True)
    good = workloads.truth

    def off(cost: Any, *args: Any) -> Any:
        return good(cost, *args) * (1.01 if type(cost.bridge).__name__ == "SDEBridge" else 1)

    monkeypatch.setattr(workloads, "truth", off)
    context = Context("training", name, tmp_path, "cpu", True, 600)
    plugged = training.plugged(context, work)
    assert list(plugged) == ["vanilla", "brownian", "lens", "posterior"]
    rows = training.measured(plugged, work.device, 3, 4, 1000.0)
    assert [row["rounds"] for row in rows.values()] == [7, 7, 3, 3]
    assert [rows[arm]["paired"]["wall"]["rounds"] for arm in ("brownian", "lens")] == [7, 3]
    assert "paired" not in rows["vanilla"]
    assert training.alone(plugged, work, 3).keys() == plugged.keys() - {"vanilla"}
    assert len(plugs) == 3
    assert rows.keys() == plugged.keys()
    assert rows["brownian"]["peak_mebibytes"] > rows["vanilla"]["peak_mebibytes"]
    errors = {row["arm"]: row for row in Rows(tmp_path / ROWS).read()}
    assert "the sde cost is off by 9.9e-03, allowed " in errors["sde"]["reason"]
    assert [errors[arm]["ok"] for arm in workloads.COSTS] == [True, True, True, False]


def test_the_targets_of_the_causal_workload_are_the_answers_at_the_end() -> None:
    work = workloads.causal("cpu", quick=True)
    labels, ids = work.inputs["labels"], work.inputs["input_ids"]
    assert (labels[:, -4:] == ids[:, -4:]).all()
    assert (labels[:, :-4] == -100).all()
    assert (labels[:, -4:] >= 20).all()
    full = shapes.named("causal", "cuda")
    assert (full.batch, full.length, full.targets, full.dtype) == (8, 512, 32, torch.bfloat16)


def test_work_on_a_device_is_summed_between_marks() -> None:
    mark = ("kernel", "void at::cuda::spin_kernel(long)", 0, 5)
    call = [
        ("kernel", "gemm", 0, 2_000_000),
        ("gpu_memcpy", "Memcpy HtoD", 1, 1_000_000),
        ("gpu_user_annotation", "Optimizer.step#AdamW.step", 2, 9_000_000),
    ]
    long = [("kernel", "gemm", 0, 6_000_000), *call[1:]]
    found = clock.summed([*call, mark, *long, mark, *call, mark], 3)
    assert found["milliseconds"]["p50"] == 3
    assert found["milliseconds"]["p80"] > 3
    assert (found["kernels"], found["copies"], found["calls"]) == (1, 1, 3)
    with pytest.raises(RuntimeError, match=r"2 calls were profiled.*\[2, 0\]"):
        clock.summed([*call, mark, mark], 2)


@pytest.mark.parametrize(
    ("name", "annotation", "kind"),
    [
        ("Memcpy HtoD (Pinned -> Device)", False, "gpu_memcpy"),
        ("Memset (Device)", False, "gpu_memset"),
        ("pool_kernel", False, "kernel"),
        ("Optimizer.step#AdamW.step", False, "annotation"),
        ("mine", True, "annotation"),
    ],
)
def test_events_are_told_apart_by_name_where_torch_does_not_say(
    name: str, annotation: bool, kind: str
) -> None:
    class Event:
        def name(self) -> str:
            return name

        def is_user_annotation(self) -> bool:
            return annotation

    assert clock.activity(Event()) == kind


@pytest.mark.parametrize(
    ("said", "status", "errors", "reason"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, 0, ""),
        ("========= Invalid read\n========= ERROR SUMMARY: 1 error", 1, 1, ""),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)", 0, 3, ""),
        ("no device\nbad", 7, None, "no summary, exit status 7: bad"),
        ("========= ERROR SUMMARY: 0 errors", 1, None, "the program ended with status 1"),
    ],
)
def test_what_the_sanitizer_says_is_read(
    said: str, status: int, errors: int | None, reason: str
) -> None:
    found = {"errors": None, "reason": "", **sanitizer.summary(said, status)}
    assert (found["errors"], found["reason"]) == (errors, reason)
    assert bool(found["said"]) is (errors != 0)


def test_without_the_tools_of_nvidia_the_reason_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sanitizer, "PLACES", ("/nowhere/compute-sanitizer",))
    row = sanitizer.sanitized("memcheck", "cuda", 5)
    assert row["reason"] == "no compute-sanitizer on PATH, nor /nowhere/compute-sanitizer"
    assert machine.clocks() is None


def test_a_profile_that_fails_leaves_host_and_wall_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(call: object, device: object, **options: object) -> None:
        raise RuntimeError("no CUPTI")

    monkeypatch.setattr(clock, "on_device", failing)
    calls = {"a": lambda: torch.ones(3).sum(), "b": lambda: torch.ones(3).sum()}
    rows = clock.three(clock.in_turn(calls, 4, "cpu"), calls, "cpu", "a")
    assert (rows["b"]["device"], rows["b"]["device_reason"]) == (None, "RuntimeError: no CUPTI")
    assert rows["a"]["ratio"] == {"p20": 1, "p50": 1, "p80": 1}
    assert rows["b"]["rounds"] == 4
    assert rows["b"]["host"] == rows["b"]["wall"]


def test_a_step_s_row_has_the_kernels_that_are_added_and_the_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def profiled(call: object, device: object, *, names: bool) -> dict[str, Any]:
        assert names
        calls.append("")
        extra = {"pool_kernel": [70.0, 1.0]} if len(calls) > 1 else {}
        milliseconds = spread(19.0 + 0.5 * bool(extra))
        found = {"milliseconds": milliseconds, "kernels": 9, "copies": 0, "calls": 5}
        return {**found, "by_name": {"gemm": [900.0, 20.0], **extra}}

    monkeypatch.setattr(clock, "on_device", profiled)
    work = workloads.bert("cpu", quick=True)
    plugged = training.plugged(Context("training", "bert", tmp_path, "cpu", True, 600), work)
    graphs: Any = plugged["sde"].cost._graphs  # type: ignore[union-attr]
    graphs.refused |= {"one": "RuntimeError: it waits", "two": "RuntimeError: it waits"}
    rows = training.measured(plugged, work.device, 3, 0, 1.0)
    assert all("by_name" not in row["device"] for row in rows.values())
    assert rows["brownian"]["added_kernels"][0] == {
        "name": "pool_kernel",
        "microseconds": 70.0,
        "count": 1.0,
    }
    assert "added_kernels" not in rows["vanilla"]
    assert rows["sde"]["graphs"] == {"replayed": 0, "refused": ["RuntimeError: it waits"]}
    kept = Rows(tmp_path / ROWS)
    facts = {"workload": "bert", "says": "LoRA", "sizes": work.shape.facts(), "shape": "tiny"}
    kept.add("training-bert", "workload", facts)
    for name, row in rows.items():
        kept.add("training-bert", "training", {**row, "workload": "bert", "arm": name})
    page = readme.render({"gpu_x.json": record(kept.read())})
    assert "+0.5 (+0.5 to +0.5), +2.63 %" in page
    assert "| no; refused: RuntimeError: it waits |" in page
    assert "that brownian adds, and how many of them: `pool_kernel` +70.0 in +1." in page


def test_time_is_taken_without_collecting_garbage() -> None:
    seen: list[bool] = []
    clock.in_turn({"a": lambda: seen.append(gc.isenabled())}, 3, "cpu")
    assert not any(seen)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_kernels_are_counted_by_name_and_what_an_arm_adds_comes_first() -> None:
    mark = ("kernel", "void at::cuda::spin_kernel(long)", 0, 5)
    gemm, copied = ("kernel", "gemm", 1, 4000), ("gpu_memcpy", "Memcpy DtoH", 2, 1000)
    vanilla = clock.by_name([gemm, mark, gemm, mark], 2)
    assert vanilla == {"gemm": [4.0, 1.0]}
    arm = clock.by_name([gemm, copied, copied, gemm, gemm, mark, gemm, mark], 2)
    assert added.kernels(arm, vanilla) == [
        {"name": "gemm", "microseconds": 4.0, "count": 1.0},
        {"name": "Memcpy DtoH", "microseconds": 1.0, "count": 1.0},
    ]
    assert added.kernels(vanilla, arm, most=1) == [{"name": "gemm", "microseconds": -4, "count": -1}]


@pytest.mark.parametrize("count", [6, 7, 9, 30, 101])
def test_the_interval_of_a_median_is_the_narrowest_that_the_sign_test_allows(count: int) -> None:
    """Of n numbers on either side of their median as a coin says, by the binomial distribution."""
    found = added.paired([10.0 + k for k in range(count)], [10.0] * count)
    assert found["milliseconds"] == (count - 1) / 2
    inside = int(found["low"])  # so many of the numbers are below the interval, and above it

    def missed(below: int) -> float:
        half = torch.full((below + 1,), 0.5, dtype=torch.float64)
        k = torch.arange(below + 1, dtype=torch.float64)
        law = torch.distributions.Binomial(count, half)
        return 2 * float(law.log_prob(k).exp().sum())

    assert found["high"] == count - 1 - inside
    assert missed(inside) <= 0.05 < missed(inside + 1)


def test_of_few_rounds_there_is_no_interval() -> None:
    found = added.paired([2.0] * 5, [1.0] * 5)
    assert found == {"milliseconds": 1, "low": None, "high": None, "rounds": 5}
    ratio = {"p20": 1.1, "p50": 1.2, "p80": 1.3}
    assert added.of_ratios(ratio, 10)["percent_low"] is None
    enough = added.of_ratios(ratio, 30)
    assert [enough[k] for k in ("percent", "percent_low", "percent_high")] == [20, 10, 30]


def test_the_gradients_of_a_bert_large_s_states_are_two_hundred_mebibytes() -> None:
    assert added.state_gradients(shapes.named("bert-large", "cuda").facts()) == 200
    assert added.state_gradients(shapes.named("causal", "cuda").facts()) == 272


def test_what_the_aims_are_about_is_timed_first() -> None:
    order = times.order(plan.LARGE)
    assert tuple(order[:4]) == times.FIRST
    assert {name for _, name in order} == {"bert-large", "fit", "causal"}
    assert len(set(order)) == len(order)
    assert ("sde", "causal") in order
    assert "pooling" not in {operation for operation, _ in order}


def test_pooling_is_timed_as_training_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    def pool(good: Any, *args: Any, **options: Any) -> Any:
        given.append(options["in_order"])
        return good(*args, **options)

    monkeypatch.setattr(arms, "pool_trajectory", partial(pool, arms.pool_trajectory))
    monkeypatch.setattr(times, "pool_trajectory", partial(pool, times.pool_trajectory))
    shape = shapes.named("tiny", "cpu")
    x = shapes.make_inputs(shape)
    for operation in ("pooling", "pdf", "lens", "sde"):
        arms.ours(operation, None, None, operation).value(x)
    times.pooling(shape, "cpu", 3, 1.0)
    assert len(given) > 4
    assert all(given)


def spread(value: float) -> dict[str, float]:
    return {"p20": value, "p50": value, "p80": value}


def arm(wall: float, device: float | None = None) -> dict[str, Any]:
    on = None if device is None else {"milliseconds": spread(device), "kernels": 3, "copies": 0}
    return {"status": "timed", "wall": spread(wall), "device": on}


def stepped(percent: float, memory: float = 1.0, wide: float = 0.1) -> dict[str, Any]:
    """A row with so many percent more in wall time, plus or minus ``wide``, and 0.5 ms on the device."""
    row = {
        "arm": "",
        "rounds": 40,
        "ratio": spread(1 + percent / 100),
        "host": spread(100),
        "wall": spread(100 + percent),
        "device": {"milliseconds": spread(20 + (0.5 if percent else 0)), "kernels": 9, "copies": 0},
        "peak_mebibytes": 100 + memory,
        "added_memory_percent": memory,
        "host_bound": False,
    }
    more = {"milliseconds": percent, "low": percent - wide, "high": percent + wide, "rounds": 40}
    return {**row, "paired": {"host": more, "wall": more}} if percent else row


def with_adds(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    adds = {
        name: added.adds(arm, {**arms["vanilla"], "peak_mebibytes": 100}) for name, arm in arms.items()
    }
    return {name: {**arm, "adds": adds[name]} for name, arm in arms.items()}


def test_aims_say_by_how_much_they_are_missed() -> None:
    steps = with_adds({"vanilla": stepped(0), "brownian": stepped(1.5), "sde": stepped(5, memory=2.5)})
    moved = {"backend": "triton", "way": "forward", "shape": "bert-large", "by": "device"}
    measured = {
        "quick": False,
        "training": [{"workload": "bert", "arms": steps, "state_gradients_mebibytes": 2.0}],
        "ceilings": {"bandwidth": {"gigabytes_per_second": {"copy": 3000}}},
        "pooling": [{**moved, "gigabytes_per_second": 2400}],
        "times": [
            {
                "operation": "pdf",
                "shape": "bert-large",
                "arms": {"ours": arm(0.5, 0.1), "eager": arm(2, 1.5)},
            },
            {
                "operation": "sde",
                "shape": "bert-large",
                "arms": {
                    "ours-picard": arm(2, 1),
                    "torchsde": {"status": "skipped", "reason": "torchsde is not installed"},
                },
            },
        ],
    }
    found = {aim["what"]: aim for aim in aims(measured)}

    def said(what: str) -> tuple[float | None, bool | None, float | None]:
        aim = found[what]
        return aim["measured"], aim["reached"], aim["missed_by"]

    assert said("brownian: time added to a step, bert") == (1.5, True, None)  # 2 where GPU-bound
    assert said("sde: time added to a step, bert") == (5.0, False, 2.0)
    why = "+4.9 to +5.1 % in 40 rounds; the step is GPU-bound; device +0.5 ms of 20, 2.5 %"
    assert found["sde: time added to a step, bert"]["reason"] == why
    assert said("sde: peak memory added to a step, bert") == (2.5, False, 0.5)
    gradients = found["sde: peak memory added to a step, bert"]["reason"]
    assert gradients == "+2 MiB; the states' gradients are 2"
    assert said("lens: peak memory added to a step, bert") == (None, None, None)
    assert said("pooling forward, bert-large: share of the copy bandwidth") == (80.0, False, 5.0)
    assert said("pdf, bert-large: eager takes, by device time") == (15.0, True, None)
    assert said("pdf, bert-large: eager takes, by wall time") == (4.0, False, 6.0)
    assert said("sde, bert-large: torchsde takes, by wall time") == (None, None, None)
    torchsde = "sde, bert-large: torchsde takes, by wall time"
    assert found[torchsde]["reason"] == "torchsde is not installed"
    assert found["fit, fit: eager takes, by wall time"]["reason"] == "the command did not come to it"
    del measured["times"][1]
    found = {aim["what"]: aim for aim in aims(measured)}
    assert found[torchsde]["reason"] == "the command did not come to it"
    steps["vanilla"]["host_bound"] = True
    found = {aim["what"]: aim for aim in aims(measured)}
    assert said("brownian: time added to a step, bert") == (1.5, False, 0.5)


@pytest.mark.parametrize(
    ("percent", "wide", "reached"), [(1.5, 0.6, None), (1.5, 0.4, True), (2.5, 0.4, False), (2, 9, None)]
)
def test_an_aim_within_the_interval_is_not_resolved(
    percent: float, wide: float, reached: bool | None
) -> None:
    steps = with_adds({"vanilla": stepped(0), "brownian": stepped(percent, wide=wide)})
    empty = record([])
    work = {"workload": "bert", "arms": steps, "state_gradients_mebibytes": 2.0}
    made = {**empty, "training": [work]}
    (aim,) = [a for a in aims(made) if a["what"] == "brownian: time added to a step, bert"]
    assert (aim["measured"], aim["reached"]) == (percent, reached)
    page = readme.render({"gpu_x.json": {**empty, "aims": [aim]}})
    assert ("| not resolved (" in page) is (reached is None)


def test_rows_that_lack_what_is_recorded_now_make_a_page(tmp_path: Path) -> None:
    rows = Rows(tmp_path / ROWS)
    line = "python -m benchmarks.gpu --out /root/out/gpu --only training-bert"
    rows.add("command", "command", {"line": line, "device": "cuda", "label": "old", "quick": False})
    sizes = shapes.named("bert-large", "cuda").facts()
    facts = {"workload": "bert", "says": "LoRA", "sizes": sizes, "shape": "bert-large"}
    rows.add("training-bert", "workload", facts)
    noisy = {"p20": 0.9, "p50": 1.05, "p80": 1.1}
    for name, row in {"vanilla": stepped(0), "brownian": {**stepped(5), "ratio": noisy}}.items():
        row.pop("paired", None)
        rows.add("training-bert", "training", {**row, "workload": "bert", "arm": name})
    found = record(rows.read())
    assert found["environment"]["command"] == line.replace("/root/out/gpu", "FOLDER")
    (aim,) = [a for a in found["aims"] if a["what"] == "brownian: time added to a step, bert"]
    assert (aim["measured"], aim["reached"]) == (5, None)
    page = readme.render({"gpu_x.json": found})
    assert "+5.0 (-10.0 to +10.0) % in 40 rounds, not resolved from 0 |" in page
    assert "a gradient of every hidden state is 200 MiB" in page
    assert "The costs alone: not measured." in page
    assert "| not measured |\n" in page  # whether it was replayed


def test_a_record_of_nothing_says_so_and_makes_a_page() -> None:
    empty = record([])
    assert "Clocks" not in readme.render({"gpu_x.json": empty})
    assert empty["check"]["wrong"] is None
    assert empty["wrong"] == []
    assert [part["status"] for part in empty["parts"]] == ["skipped"] * len(PARTS)
    empty["clocks"] = {"clocks.sm": "1980 MHz"}
    page = readme.render({"gpu_x.json": empty})
    assert "Clocks before the first part, read and not set: clocks.sm 1980 MHz." in page
    assert "Not measured: odd: not asked for, or not begun." in page
