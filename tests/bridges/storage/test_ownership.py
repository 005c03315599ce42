"""Writing in the place of what is there: whole or absent, never what is not ours, one at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from filelock import FileLock
from places import REPOSITORY
from tiny import TEXTS, tiny_bert, tiny_tokenizer

import bridges
from bridges import BadInput
from bridges.errors import CannotWrite, is_out_of_memory, out_of_memory
from bridges.storage import checkpoint as storage_module
from bridges.storage.checkpoint import Snapshot
from bridges.storage.files import new_file, new_folder, write_text
from bridges.storage.ownership import check_ours, check_replaceable, claimed, foreign
from bridges.storage.workplace import clean, leftovers

KILL = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from bridges.storage.files import new_folder, write_text
def die(*args): os.kill(os.getpid(), signal.SIGKILL)
calls = []
def counted(event, args):
    if event == "os.rename":
        calls.append(None)
        if len(calls) == {rename}: die()
sys.addaudithook(counted)
with new_folder(Path({target!r})) as new:
    (new / "a.txt").write_text("new")
    if not {rename}: die()
"""


def killed(target: Path, rename: int) -> None:
    """A process that is killed before its n-th rename, or with the new folder half made."""
    script = KILL.format(root=str(REPOSITORY), target=str(target), rename=rename)
    assert processes.run(["-c", script]).returncode == -signal.SIGKILL


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("rename", "then"), [(0, "old"), (1, "old"), (2, "new")])
def test_what_a_killed_process_left_is_put_right(tmp_path: Path, rename: int, then: str) -> None:
    """Also between the two renames, when the old one has been moved and the new one is not there yet."""
    target = tmp_path / "out"
    write_text(target / "a.txt", "old")
    killed(target, rename)
    assert len(leftovers(tmp_path)) == 1
    assert foreign(tmp_path, ("out",)) == []
    clean(tmp_path)
    assert text(target / "a.txt") == then
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_leftover_goes_with_the_next_writing_and_one_in_use_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    killed(target, 0)
    with new_folder(target) as one, new_folder(target) as two:
        assert len(leftovers(tmp_path)) == 2  # the killed one's is gone, these are locked
        clean(tmp_path)
        (one / "a.txt").write_text("one")
        (two / "a.txt").write_text("two")
    assert text(target / "a.txt") == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_no_link_is_followed_and_none_is_replaced(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "here" / "a.json"
    victim.write_text("secret")
    write_text(file, "old")
    (file.parent / ".a.json.new").symlink_to(victim)  # the name that earlier versions wrote to
    write_text(file, "new")
    assert (text(victim), text(file)) == ("secret", "new")
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(CannotWrite, match=r"a\.json could not be written: it is a symbolic link"):
        write_text(file, "new")
    assert (text(victim), file.is_symlink()) == ("secret", True)
    (tmp_path / ".lock").symlink_to(victim)
    with (
        pytest.raises(BadInput, match=r"\.lock is no lock"),
        claimed(tmp_path, "a fit", (), alone=False),
    ):
        pass
    assert text(victim) == "secret"


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_permissions_are_those_of_the_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    """Weights too, which safetensors writes for their owner alone."""
    before = os.umask(umask)
    try:
        Snapshot(tmp_path / "state.safetensors", {}).save({"a": torch.ones(1)}, {})
        bridges.RunningCost.for_model(tiny_bert()).save_pretrained(tmp_path / "cost")
    finally:
        os.umask(before)
    found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    weights = {"state.safetensors": file, "model.safetensors": file, "config.json": file}
    assert found == {"cost": folder, **weights}


def test_an_error_of_the_disk_is_a_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage_module, "save_file", full)
    with pytest.raises(CannotWrite, match=r"state could not be written: No space left .* goes on") as e:
        Snapshot(tmp_path / "state", {}).save({}, {})
    assert e.value.errno == errno.ENOSPC
    assert isinstance(e.value, BadInput)
    assert not list(tmp_path.iterdir())


def test_a_claimed_folder_is_for_one_process_and_what_was_made_goes(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with claimed(folder, "a fit", ("a.txt",)):
        with (
            pytest.raises(BadInput, match=r"a fit is running in .*run: wait for it"),
            claimed(folder, "a fit", ("a.txt",)),
        ):
            pass
        with pytest.raises(TimeoutError):
            FileLock(folder / ".lock", timeout=0).acquire()
    assert not list(tmp_path.iterdir())
    write_text(folder / "thesis.tex", "precious")
    with (
        pytest.raises(BadInput, match=r"holds nothing of a fit, but 'thesis\.tex'"),
        claimed(folder, "a fit", ("a.txt",)),
    ):
        pass
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_what_earlier_versions_left_counts_as_nothing_beside_our_names(tmp_path: Path) -> None:
    (tmp_path / ".run.json.new").write_text("{")
    (tmp_path / ".pet-ab12_xyz" / "new").mkdir(parents=True)
    assert foreign(tmp_path, ("run.json", "pet")) == []
    assert foreign(tmp_path, ("run.json",)) == [".pet-ab12_xyz"]
    with claimed(tmp_path, "a run", ("run.json", "pet")):
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_links_and_what_others_wrote_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is a symbolic link to nothing"):
        check_ours(tmp_path / "link", (), "no run")
    with pytest.raises(BadInput, match="link is a symbolic link: it is not replaced"):
        check_replaceable(tmp_path / "link", True, "report")
    (tmp_path / "file").touch()
    check_replaceable(tmp_path / "file", True, "report")
    with pytest.raises(BadInput, match="exists and is no report of bridge-pets"):
        check_replaceable(tmp_path / "file", False, "report")


def test_new_file_has_its_own_name_while_it_is_written(tmp_path: Path) -> None:
    """So that a writer that goes by the name's end finds it; nobody else may enter meanwhile."""
    with new_file(tmp_path / "a.png") as temporary:
        assert temporary.name == "a.png"
        (place,) = leftovers(tmp_path)
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        temporary.write_bytes(b"x")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_no_memory_is_told_from_other_errors(error: Exception, told: bool) -> None:
    assert is_out_of_memory(error) == told
    assert "out of memory" in out_of_memory(error)


INTERRUPT = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored around the tests
sys.orig_argv[:] = ["python", "-m", "pets.cli", "zoo"]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pets.methods":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
import pets.cli
pets.cli.main(["zoo"])
"""


def test_an_interrupt_while_importing_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr.split("\n") == [
        "",
        "interrupted; the same command goes on from the last saved state",
        "",
    ]


def test_a_fit_with_a_held_out_cost_that_is_not_finite_is_an_error() -> None:
    """Before, the random map was kept: no entry is smaller than NaN."""
    model, tokenizer = tiny_bert(), tiny_tokenizer()
    rare = tokenizer.convert_tokens_to_ids("snow")
    texts = [line.replace("snow", "rain") for line in TEXTS]
    order = torch.randperm(len(texts), generator=bridges.fitting.batches.generator(0)).tolist()
    texts[order[0]] = "good film snow snow snow snow snow was it"  # the first of the order is held out

    def overflow(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((kwargs["input_ids"] == rare)[..., None], float("inf"))

    model.bert.embeddings.register_forward_hook(overflow, with_kwargs=True)
    cost = bridges.RunningCost.for_model(model)
    with pytest.raises(BadInput, match=r"of 'brownian' became nan at step 0: .* held-out text"):
        cost.fit(model, tokenizer, texts, progress=False, max_steps=4, max_length=16, held_out=6)


def test_a_state_edited_by_hand_is_refused(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "state.safetensors", {"seed": 1})
    with (
        pytest.raises(BadInput, match=r"no state of this run \(step is 'x', expected a whole number\)"),
        snapshot.refusing_misfit({"step": "x"}, {"step": bridges.storage.shapes.COUNT}),
    ):
        pytest.fail("taken over")
    with (
        pytest.raises(BadInput, match=r"KeyError: 'now\.a'\): delete it to begin anew"),
        snapshot.refusing_misfit({}, {}),
    ):
        json.loads('{"b": 1}')["now.a"]
