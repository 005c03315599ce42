"""A running cost in a repository of the hub, for which a server in the test stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import hub_stand_in
import pytest
from hub_stand_in import Hub, said
from safetensors.torch import load, save
from tiny import tiny_bert

from bridges import BadInput, RunningCost
from bridges.cost.card import card, is_as_written

PRELOAD = "import huggingface_hub, torch, tiny\nfrom bridges import RunningCost\n"
MADE = 'cost = RunningCost.for_model(tiny.tiny_bert(), "ou", widths=(8, 4))\n'
FILES = {"config.json", "model.safetensors", "README.md", ".gitattributes"}
NO_TOKEN = 'import os\ndel os.environ["HF_TOKEN"]\n'
A_MODEL = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "README.md": b"#"}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_stand_in.serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def story(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What happens, in this order, with a token."""
    hub.make("user/model", A_MODEL)
    hub.make("user/weights", {"model.safetensors": b"weights"})
    folder = tmp_path_factory.mktemp("story")
    make_others(hub, folder / "cost")
    (folder / "own" / "here").mkdir(parents=True)
    load_it = 'cost = RunningCost.from_pretrained("user/cost"{})\nprint(cost.digest())'
    return said(
        hub,
        folder,
        {
            "push": f'{MADE}print(cost.digest(), cost.push_to_hub("user/cost", private=True))',
            "load": load_it.format(""),
            "offline": load_it.format(", local_files_only=True"),
            "main": f'{MADE}cost.latent_map.layers[0].weight.mul_(2)\ncost.push_to_hub("user/cost")\n'
            "print(cost.digest())",
            "now": load_it.format(""),
            "branch": f'{MADE}cost.push_to_hub("user/cost", branch="other", license="mit", text="a|b")',
            "revision": load_it.format(', revision="other"'),
            "no revision": load_it.format(', revision="nope"'),
            "subfolder": f'{MADE}cost.push_to_hub("user/cost", subfolder="a/b")\n'
            + load_it.format(', subfolder="a/b"'),
            "no subfolder": load_it.format(', subfolder="c"'),
            "not found": 'RunningCost.from_pretrained("user/none")',
            "never downloaded": 'RunningCost.from_pretrained("user/none", local_files_only=True)',
            "a model": 'RunningCost.from_pretrained("user/model")',
            "over a model": f'{MADE}cost.push_to_hub("user/model")',
            "over weights": f'{MADE}cost.push_to_hub("user/weights")',
            "here": 'RunningCost.from_pretrained("own/here")',
            "as written": f'{MADE}cost.push_to_hub("user/as-written", license="apache-2.0")',
            "edited": f'{MADE}cost.push_to_hub("user/edited", license="apache-2.0")',
            "private": NO_TOKEN + load_it.format(""),
            "push without a token": f'{NO_TOKEN}{MADE}cost.push_to_hub("user/new")',
            **{
                name: NO_TOKEN + load_it.format("").replace("user/cost", f"user/{name}")
                for name in ("open", "tampered", "halved", "gated")
            },
        },
        preload=PRELOAD,
    )


def make_others(hub: Hub, folder: Path) -> None:
    """Repositories of the same cost, as others may have left them."""
    cost = RunningCost.for_model(tiny_bert(), "ou", widths=(8, 4))
    cost.save_pretrained(folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    name = "latent_map.layers.0.weight"
    tensors = load(whole["model.safetensors"])
    tampered = save({**tensors, name: tensors[name] + 1e-3})
    told = card(cost.config(), "user/cost")
    hub.make("user/open", {**whole, "pytorch_model.bin": b"\x80\x04."})
    hub.make("user/tampered", {**whole, "model.safetensors": tampered})
    hub.make("user/halved", {"config.json": whole["config.json"]})
    hub.make("user/gated", whole, gated=True)
    hub.make("user/as-written", {**whole, "README.md": told.encode()})
    hub.make("user/edited", {**whole, "README.md": told.replace("Made by", "Made by us").encode()})


def files(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    found = hub.repositories["user/cost"].files(revision)
    assert found is not None
    return found[1]


def test_a_cost_comes_back_to_the_bit_in_another_process(story: dict[str, str], hub: Hub) -> None:
    digest, url = story["push"].split()
    assert story["load"] == story["offline"] == digest
    assert url.startswith(f"{hub.url}/user/cost/commit/")
    assert story["now"] == story["main"] != digest
    assert story["revision"] == story["subfolder"] == digest
    assert set(files(hub, "other")) == FILES
    assert hub.repositories["user/cost"].private


def test_nothing_but_a_costs_files_is_downloaded(story: dict[str, str], hub: Hub) -> None:
    got = {r.partition(" ")[2].partition("/resolve/")[2] for r in hub.requests if r[:4] == "GET "}
    assert {name.rpartition("/")[2] for name in got if name} <= FILES
    model = [r for r in hub.requests if r.startswith("GET /user/model/")]
    assert not [r for r in model if "safetensors" in r], "a model's weights, which may be many GB"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no revision", "it has no revision 'nope'"),
        ("no subfolder", "user/cost is no folder here, and cannot be had from the hub: it holds no"),
        ("not found", "there is none of this name, or it is private: check the name, log in"),
        ("never downloaded", "it is not among what was downloaded: go online, or give a folder"),
        ("a model", "user/model of the hub holds no running cost: "),
        ("over a model", "user/model on the hub has a config.json that is no running cost's"),
        ("over weights", "user/weights on the hub has a model.safetensors that is no running cost's"),
        ("here", "own/here holds no saved cost: config.json cannot be read"),
    ],
)
def test_what_goes_wrong_is_one_line(case: str, message: str, story: dict[str, str], hub: Hub) -> None:
    assert story[case].startswith("BadInput: ")
    assert message in story[case]
    assert "\n" not in story[case]
    assert not [r for r in hub.requests if "own/here" in r], "a folder that is here wins"
    model = hub.repositories["user/model"].files("main")
    assert model is not None
    assert model[1] == A_MODEL


def test_without_a_token_and_with_other_weights_it_is_refused(story: dict[str, str], hub: Hub) -> None:
    assert story["open"] == story["push"].split()[0]
    assert "there is none of this name, or it is private" in story["private"]
    assert story["tampered"].startswith("BadInput: user/tampered of the hub: ")
    assert "holds other tensors than config.json was saved with" in story["tampered"]
    assert "it holds no running cost" in story["halved"]
    assert "it is gated: ask for access on its page" in story["gated"]
    assert "user/new cannot be written on the hub" in story["push without a token"]
    assert "log in (hf auth login), or give token= that may" in story["push without a token"]
    assert not [r for r in hub.requests if r.endswith(".bin")]


def test_a_card_says_what_is_known_and_is_replaced_unless_it_was_edited(
    story: dict[str, str], hub: Hub
) -> None:
    told = files(hub, "other")["README.md"].decode()
    assert 'license: "mit"' in told
    assert "base_model" not in told, "this model is of no hub"
    assert "| text |" not in told, "this cost was not fitted"
    assert is_as_written(told)
    assert not is_as_written(told.replace("Made by", "Made by us"))
    for name, replaced in (("as-written", True), ("edited", False)):
        repository = hub.repositories[f"user/{name}"]
        assert len(repository.commits) == 2
        now = repository.commits[repository.branches["main"]]["README.md"].decode()
        assert ('license: "apache-2.0"' in now) == replaced
        assert ("Made by us" in now) != replaced


def test_a_card_of_a_fit_holds_its_text_and_its_held_out_cost() -> None:
    model = tiny_bert()
    model.config.name_or_path, model.config._commit_hash = "owner/tiny-bert", "0" * 40
    cost = RunningCost.for_model(model, "ou", widths=(8, 4))
    cost.fit_record = {"steps": 3, "held_out": [[0, 0.5], [3, 0.25]], "settings": {"seed": 7}}
    cost.fit_record |= {"text_sha256": "ab" * 32, "text_files": ["wiki.txt"], "texts": 12}
    told = card(json.loads(json.dumps(cost.config())), "a/b", text="Wiki|pedia")
    for line in (
        'base_model: "owner/tiny-bert"',
        f"| text | Wiki\\|pedia; files wiki.txt; 12 texts; sha256 {'ab' * 32} |",
        "| held-out cost | 0.25 (0.5 before the fit), 3 steps |",
        "cost.fit(plm, tokenizer, texts, seed=7)",
        'cost = bridges.RunningCost.from_pretrained("a/b")',
    ):
        assert line in told.splitlines()
    made = next(x for x in told.splitlines() if x.startswith("cost = bridges.RunningCost.for_model"))
    again: dict[str, RunningCost] = {}
    exec(made, {"bridges": __import__("bridges"), "plm": model}, again)
    assert again["cost"].digest() == cost.digest()


def test_the_models_hub_name_is_kept_in_the_files_and_older_files_have_none(tmp_path: Path) -> None:
    model = tiny_bert()
    model.config.name_or_path, model.config._commit_hash = "owner/tiny-bert", "0" * 40
    RunningCost.for_model(model, widths=(8, 4)).save_pretrained(tmp_path / "cost")
    assert RunningCost.from_pretrained(tmp_path, subfolder="cost").base_model == "owner/tiny-bert"
    file = tmp_path / "cost" / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("base_model") == "owner/tiny-bert"
    file.write_text(json.dumps(config))
    assert RunningCost.from_pretrained(tmp_path / "cost").base_model is None


@pytest.mark.parametrize("subfolder", ["../a", "/a", "a/../../b", "a\\b", 3])
def test_a_subfolder_is_inside(subfolder: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="subfolder="):
        RunningCost.from_pretrained(tmp_path, subfolder=subfolder)  # type: ignore[arg-type]


def test_what_is_neither_a_folder_nor_a_name_is_refused(tmp_path: Path) -> None:
    for name in ("just-a-name", "a/b/c", "a b/c", ""):
        with pytest.raises(BadInput, match="no folder here, and no name on the hub, which is owner/n"):
            RunningCost.from_pretrained(name)
    with pytest.raises(BadInput, match=r"holds no saved cost: config\.json cannot be read"):
        RunningCost.from_pretrained(tmp_path / "none")
    with pytest.raises(BadInput, match="is a folder, which has no revisions"):
        RunningCost.from_pretrained(tmp_path, revision="main")
    with pytest.raises(BadInput, match="there is no connection"):  # HF_HUB_OFFLINE=1
        RunningCost.from_pretrained("no-such-owner/no-such-cost")
    with pytest.raises(BadInput, match="expected owner/name, a name on the hub"):
        RunningCost.for_model(tiny_bert(), widths=(8, 4)).push_to_hub("a")
