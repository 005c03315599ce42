"""What other packages offer: PETs, regularizers and tasks, each by its group of entry points."""

from __future__ import annotations

from pathlib import Path

import processes

PLUGIN = """
import peft
import pets
from pets.regularizers import Objective
from pets.tasks import Label, Task, TaskData


class IA3(pets.PET, name="ia3"):
    config_class = peft.IA3Config


class Nothing(Objective, name="nothing"):
    number, tried = "weight", (1.0, 2.0)

    def on(self, classifier):
        return lambda **batch: classifier(**batch).loss


class Parity(Task, name="parity"):
    labels = (Label("even", "even"), Label("odd", "odd"))

    def load(self, folder=None):
        return TaskData(self, (), ())
"""
ASKED = """
import pets
print(type(pets.get("ia3")).__name__, "ia3" in pets.available())
print(pets.regularizers.parse("nothing:weight=1").weight)
print(pets.tasks.get("Parity").words)
"""


def test_an_installed_package_can_offer_each_kind(tmp_path: Path) -> None:
    (tmp_path / "plugin_pets.py").write_text(PLUGIN)
    meta = tmp_path / "plugin_pets-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-pets\nVersion: 1.0\n")
    groups = ("pets", "pets.regularizers", "pets.tasks")
    (meta / "entry_points.txt").write_text("".join(f"[{g}]\nplugin = plugin_pets\n" for g in groups))
    done = processes.run(["-c", ASKED], cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["IA3Config True", "1", "('even', 'odd')"]
