"""A fitted cost in the repository or the folder of an adapter, and `tune --cost owner/name`."""

from __future__ import annotations

from pathlib import Path

import hub_stand_in
from hub_stand_in import said
from tiny import tiny_bert, tiny_tokenizer

PRELOAD = """
import bridges, huggingface_hub, peft, pets, tiny, torch
from pets.cli import main
def made():
    plm = tiny.tiny_bert()
    cost = bridges.RunningCost.for_model(plm, "ou", widths=(8, 4), fit=False)
    return cost, peft.get_peft_model(plm, pets.get("lora", r=2))
def adapter(name):
    return peft.PeftModel.from_pretrained(tiny.tiny_bert(), name).peft_config["default"].r
def digest(name):
    return bridges.RunningCost.from_pretrained(name, subfolder="running_cost").digest()
"""
CELL = (
    'main(["tune", "--model", "plm", "--task", "t.csv", "--template", "{{text}} {{mask}}", '
    '"--label-words", "bad", "good", "--shots", "4", "--steps", "2", "--eval-every", "2", '
    '"--cost", "{}", "--out", "{}"])'
)


def test_a_cost_travels_with_an_adapter_and_the_command_line_takes_its_name(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "plm")
    tiny_tokenizer().save_pretrained(tmp_path / "plm")
    rows = [f"{('bad' if k % 2 else 'good')} film {k},{k % 2}" for k in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    with hub_stand_in.serving() as hub:
        heard = said(
            hub,
            tmp_path,
            {
                "one after the other": "cost, model = made()\n"
                'model.push_to_hub("user/one")\n'
                'cost.push_to_hub("user/one", subfolder="running_cost")\n'
                'print(adapter("user/one"), digest("user/one") == cost.digest())',
                "in its folder": "cost, model = made()\n"
                'model.save_pretrained("adapter")\n'
                'cost.save_pretrained("adapter/running_cost")\n'
                'print(adapter("adapter"), digest("adapter") == cost.digest())\n'
                'huggingface_hub.create_repo("user/two")\n'
                'huggingface_hub.upload_folder(repo_id="user/two", folder_path="adapter")\n'
                'print(adapter("user/two"), digest("user/two") == cost.digest())\n'
                'model.push_to_hub("user/one")\nprint(digest("user/one") == cost.digest())',
                "push": 'made()[0].push_to_hub("user/cost")',
                "tune": CELL.format("user/cost", "run"),
                "no such": CELL.format("user/none", "run2"),
            },
            preload=PRELOAD,
        )
        commits = hub.repositories["user/one"]
        last = set(commits.commits[commits.branches["main"]])
    assert heard["one after the other"] == "2 True"
    assert heard["in its folder"].splitlines() == ["2 True", "2 True", "True"]
    assert {"adapter_config.json", "README.md", "running_cost/config.json"} <= last
    assert '"bridge": {"name": "ou"' in heard["tune"]
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run2").exists()
