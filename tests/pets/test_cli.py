"""The command line as a user meets it: good runs, and one clear line with exit code 2 for bad input."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer
from transformers import PreTrainedModel, ViTConfig

import bridges
import pets
from pets.cli import main
from pets.commands import tune as tune_command

Run = Callable[..., tuple[int, str, str]]
SHORT = ["--steps", "4", "--batch-size", "4"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line in ``tmp_path``: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main([str(a) for a in args])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tiny_bert(), tmp_path / "model")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS * 3), encoding="utf-8")
    return path


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """SST-2 as the original files are, in words the tiny tokenizer knows."""
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    rows = [f"{line} {'good' if k % 2 else 'bad'} \t{k % 2}" for k, line in enumerate(TEXTS)]
    for name, part in (("train.tsv", rows[:44]), ("dev.tsv", rows[44:])):
        (folder / name).write_text("\n".join(["sentence\tlabel", *part]) + "\n", encoding="utf-8")
    return folder.parent


@pytest.fixture
def tune(run: Run, model: Path, glue: Path) -> Run:
    """A short tuning run; later arguments win over earlier ones."""

    def call(*args: object) -> tuple[int, str, str]:
        base = ["--model", model, "--task", "sst2", "--data", glue, "--shots", 4, "--eval-every", 2]
        return run("tune", *base, *SHORT, *args)

    return call


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """Exit code 2, nothing on standard output, one error line that names all the parts."""
    code, out, err = result
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in lines[0]


def test_fit_then_tune_with_and_without_the_cost(run: Run, model: Path, text: Path, tune: Run) -> None:
    for bridge in ("brownian", "ou:theta=2"):
        out = f"cost-{bridge[:2]}"
        code, shown, _ = run(
            "fit", "--model", model, "--bridge", bridge, "--text", text, "--out", out, *SHORT
        )
        assert code == 0
        assert f"wrote {out}" in shown
        assert not Path(f"{out}.partial").exists()
    lines = {}
    for name, extra in (("vanilla", []), ("br", ["--cost", "cost-br"]), ("ou", ["--cost", "cost-ou"])):
        code, shown, told = tune("--out", name, *extra)
        assert code == 0
        lines[name] = json.loads(shown)
        assert re.search(r"select on: accuracy \d\.\d+ before, \d\.\d+ at step \d; loss .* there", told)
        stored = (Path(name) / "result.json").read_text()
        assert stored.count("\n") == 1
        result = json.loads(stored)
        assert {k: v for k, v in result.items() if k != "curves"} == lines[name]
        assert [entry["step"] for entry in result["curves"]] == [0, 2, 4]
        assert (result["curves"][1]["running_cost"] is None) == (name == "vanilla")
    assert lines["vanilla"]["bridge"] is None
    assert lines["ou"]["bridge"]["name"] == "ou"
    assert lines["ou"]["bridge"]["parameters"]["theta"] == 2
    assert lines["br"]["settings"]["seed"] == 42
    assert lines["br"]["versions"]["torch"]


@pytest.mark.parametrize(
    ("options", "rate"),
    [((), 1e-4), (("--pet", "prompt"), 1e-3), (("--pet", "prompt", "--lr", "0.02"), 0.02)],
)
def test_the_learning_rate_follows_the_pet_unless_given(
    tune: Run, options: tuple[str, ...], rate: float
) -> None:
    code, shown, _ = tune("--out", "r", *options)
    assert code == 0
    assert json.loads(shown)["settings"]["learning_rate"] == rate


def test_a_regularizer_takes_the_place_of_a_cost(run: Run, model: Path, tune: Run) -> None:
    code, shown, told = tune("--regularizer", "r-drop", "--weight", 1)
    assert code == 0
    settings = json.loads(shown)["settings"]
    assert (settings["regularizer"], settings["weight"]) == ("r-drop", 1.0)
    assert "wrote runs/sst2-lora-r-drop-4-42" in told
    refused(tune("--regularizer", "r-dorp"), "unknown regularizer 'r-dorp'", "did you mean 'r-drop'")
    refused(tune("--regularizer", "dropout", "--weight", 2), "weight=2.0: expected the probability")
    fit = ("fit", "--model", model, "--control", "random-map", "--out", "c")
    assert run(*fit)[0] == 0
    refused(tune("--regularizer", "r3f", "--cost", "c"), "a cost and regularizer 'r3f' too")


def test_names_take_their_parameters_in_the_text(tune: Run) -> None:
    code, shown, told = tune(
        "--pet", "lora:r=2,target_modules=[key]", "--regularizer", "r-drop:weight=1"
    )
    assert code == 0
    settings = json.loads(shown)["settings"]
    assert (settings["pet"], settings["pet_options"]) == ("lora", {"r": 2, "target_modules": ["key"]})
    assert (settings["regularizer"], settings["weight"]) == ("r-drop", 1.0)
    assert "wrote runs/sst2-lora-r-2-target_modules--key--r-drop-4-42" in told
    both = ("--regularizer", "dropout:weight=0.1", "--weight")
    assert tune("--out", "r", *both, 0.1)[0] == 0
    refused(tune(*both, 0.2), "--regularizer dropout:weight=0.1 with --weight 0.2: give one")
    refused(tune("--pet", "lora:rank=2"), "'rank'")
    refused(tune("--pet", "lora:r"), "'r' is not key=value")
    assert tune("--out", "words", "--task", "SST-2:words=[(bad,poor),good]")[0] == 0
    assert "bad,poor" in (Path("words") / "run.json").read_text()
    refused(tune("--task", "sst2:words=[bad]"), "needs 2 words")


def test_label_words_may_be_several_for_a_class(tune: Run) -> None:
    code, _, _ = tune("--out", "r", "--label-words", "bad,poor", "good,fine")
    assert code == 0
    identity = (Path("r") / "run.json").read_text()
    assert "bad,poor" in identity
    assert "good,fine" in identity
    assert tune("--out", "r")[0] == 2  # other words, another run


def test_a_finished_run_is_shown_again_and_another_one_refused(tune: Run) -> None:
    first = tune("--out", "r")
    written = (Path("r") / "result.json").stat().st_mtime_ns
    again = tune("--out", "r")
    assert again[:2] == first[:2]
    assert (Path("r") / "result.json").stat().st_mtime_ns == written
    refused(tune("--out", "r", "--seed", 43), "r holds another run", "seed 42 there, 43 here")


def test_several_texts_after_one_option(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("the dog runs and the cat sleeps\n" * 30, encoding="utf-8")
    args = ("fit", "--model", model, "--out", "a", *SHORT, "--text", text, other)
    assert run(*args)[0] == 0
    one = bridges.RunningCost.from_pretrained("a").fit_record
    assert run("fit", "--model", model, "--out", "b", *SHORT, "--text", text)[0] == 0
    two = bridges.RunningCost.from_pretrained("b").fit_record
    assert one is not None
    assert two is not None
    assert one["text_sha256"] != two["text_sha256"]


@pytest.mark.parametrize("control", ["shuffled-ends", "random-map"])
def test_fit_makes_controls(run: Run, model: Path, text: Path, tune: Run, control: str) -> None:
    words = ["--text", text] if control == "shuffled-ends" else []
    code, shown, _ = run("fit", "--model", model, "--control", control, "--out", "c", *words, *SHORT)
    assert code == 0
    assert "wrote c" in shown
    cost = bridges.RunningCost.from_pretrained("c")
    assert cost.options == {
        "shuffle_ends": control == "shuffled-ends",
        "fit": control != "random-map",
        "ends": "pca",
    }
    assert (cost.fit_record is None) == (control == "random-map")
    assert tune("--cost", "c", "--out", "r")[0] == 0
    identity = json.loads(Path("r/run.json").read_text())
    assert control == "shuffled-ends" or '"fit": false' in json.dumps(identity)


def test_fit_makes_a_lens(run: Run, model: Path, text: Path, tune: Run) -> None:
    """Its line says R2 along the path; an interrupted fit and another command are as for g."""
    base = ("fit", "--model", model, "--text", text, "--map", "lens", "--batch-size", 8)
    code, shown, _ = run(*base, "--latent-dim", 5, "--tokens", 200, "--ridge", 0.1, "--out", "c")
    assert code == 0
    pattern = (
        r"held-out cost \d\.\d{4}, R2 of the lens -?\d\.\d{3} at layer 0, "
        r"-?\d\.\d{3} at layer 2, -?\d\.\d{3} at layer 3\n"
        r"\d+% of what tells common words apart is left in 5 dimensions\nwrote c\n"
    )
    assert re.fullmatch(pattern, shown)
    cost = bridges.RunningCost.from_pretrained("c")
    assert (cost.config()["map"], cost.options["ends"]) == ("lens", "white")
    assert cost.fit_record is not None
    settings = cost.fit_record["settings"]
    assert (settings["max_tokens"], settings["ridge"], settings["batch_size"]) == (200, 0.1, 8)
    assert not Path("c.partial").exists()
    assert tune("--cost", "c", "--out", "r")[0] == 0
    assert run(*base, "--ends", "pca", "--out", "d")[0] == 0
    plain = bridges.RunningCost.from_pretrained("d")
    assert plain.options["ends"] == "pca"
    assert plain.fit_record is not None
    settings = plain.fit_record["settings"]
    assert (settings["max_tokens"], settings["ridge"]) == (40 * 32, None)  # of the states' width


def test_fit_of_a_published_map_says_what_its_axes_keep(run: Run, model: Path, text: Path) -> None:
    code, shown, _ = run(
        "fit", "--model", model, "--text", text, "--ends", "white", "--out", "c", *SHORT
    )
    assert code == 0
    assert re.search(r"held-out cost .* -> .* \(best at step", shown)
    assert re.search(r"\d+% of what tells common words apart is left in 16 dimensions", shown)
    assert bridges.RunningCost.from_pretrained("c").options["ends"] == "white"


def test_fit_ignores_no_option(run: Run, model: Path, text: Path) -> None:
    base = ("fit", "--model", model, "--text", text, "--out", "c")
    lens = (*base, "--map", "lens")
    refused(run(*lens, "--steps", 2000), "--steps with --map lens: only --map mlp takes it")
    refused(run(*lens, "--steps", 9, "--lr", 0.1), "--steps and --lr with --map lens")
    refused(run(*base, "--tokens", 9), "--tokens with --map mlp: only --map lens takes it")
    refused(run(*base, "--ridge", 0.1), "--ridge with --map mlp")
    refused(run(*lens, "--ridge", 0), "ridge=0.0: expected a number from 1e-12")
    refused(run(*lens, "--bridge", "sde"), "the drift of 'sde'", "use map='mlp'")
    assert run(*base, "--map", "probe")[0] == 2
    assert not Path("c").exists()


def test_fit_takes_a_causal_model(run: Run, tmp_path: Path, text: Path) -> None:
    folder = saved(tiny_llama(), tmp_path / "llama")
    assert run("fit", "--model", folder, "--text", text, "--out", "c", *SHORT)[0] == 0
    assert bridges.RunningCost.from_pretrained("c").spec.causal


def test_fit_refusals(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    base = ("fit", "--model", model, "--out", "c", *SHORT)
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n\n")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\u00e9".encode("latin-1"))
    refused(run(*base, "--text", text, "--bridge", "brownan"), "'brownan'", "did you mean 'brownian'")
    refused(run(*base, "--text", text, "--bridge", "ou:theta=-1"), "theta=-1.0", "above 0")
    refused(run(*base, "--text", text, "--bridge", "ou:zeta=1"), "'zeta'", "theta, sigma")
    refused(run(*base), "no text: give --text FILE")
    control = ("--control", "random-map")
    refused(run(*base, *control, "--text", text), "--text has no use with --control random-map")
    refused(run(*base, "--text", blank), "the text is empty")
    refused(run(*base, "--text", "absent.txt"), "absent.txt", "No such file")
    refused(run(*base, "--text", latin), "latin.txt", "not UTF-8")
    refused(run(*base, "--text", text, "--latent-dim", 1000), "latent_dim=1000")
    refused(
        run("fit", "--model", "nowhere", "--text", text, "--out", "c"), "'nowhere'", "cannot be loaded"
    )
    refused(run("fit", "--model", model, "--text", text), "--out")
    assert not Path("c").exists()
    assert run(*base, "--text", text)[0] == 0
    refused(run(*base, "--text", text), "c exists", "never overwritten")


HUGE = "x" * 100_000


@pytest.mark.parametrize(
    "options",
    [
        *[("--seed", 2**64), ("--seed", -1), ("--steps", 10**20), ("--max-length", 10**20)],
        *[("--weight", "nan"), ("--lr", "nan"), ("--shots", -1), ("--steps", "9" * 5000)],
        *[("--task", HUGE), ("--pet", HUGE), ("--regularizer", HUGE), ("--cost", HUGE)],
        *[("--model", HUGE), ("--data", HUGE), ("--shots", HUGE), ("--label-words", HUGE, "bad")],
    ],
    ids=lambda options: f"{options[0]} {str(options[1])[:20]}",
)
def test_values_that_no_option_takes_are_refused_in_a_short_line(
    tune: Run, options: tuple[object, ...]
) -> None:
    code, out, told = tune("--out", "r", *options)
    refused((code, out, told))
    assert len(told) < 2000
    assert not Path("r").exists()


def test_an_empty_name_of_a_plot_is_refused(run: Run) -> None:
    refused(run("zoo", "--plot", ""), "--plot is empty")


def test_tune_refusals(tune: Run, run: Run, tmp_path: Path, text: Path) -> None:
    refused(tune("--task", "sst3"), "'sst3'", "nearest is 'sst2'")
    refused(tune("--pet", "lara"), "'lara'", "did you mean 'lora'")
    refused(tune("--shots", 30), "'negative'", "22 examples", "need 60")
    refused(tune("--label-words", "goodness", "bad"), "'goodness'", "is not in this vocabulary", "good")
    refused(tune("--label-words", "good"), "needs 2 words")
    refused(tune("--data", "absent"), "absent is not a folder")
    refused(tune("--lr", "-1"), "learning_rate=-1.0")
    refused(tune("--steps", "many"), "'many'")
    refused(tune("--cost", "absent"), "absent holds no saved cost")
    vit = tmp_path / "vit"
    ViTConfig().save_pretrained(vit)
    refused(tune("--model", vit), "(vit) has no language-model head")
    wide = saved(tiny_bert(hidden_size=48), tmp_path / "wide")
    assert run("fit", "--model", wide, "--text", text, "--out", "wide-cost", *SHORT)[0] == 0
    refused(tune("--cost", "wide-cost"), "'wide'", "hidden_size is 48 in the cost, 32 in the model")
    twin = saved(tiny_bert(seed=1), tmp_path / "twin")
    refused(tune("--model", twin, "--cost", "wide-cost"), "hidden_size is 48")
    assert run("fit", "--model", twin, "--text", text, "--out", "twin-cost", *SHORT)[0] == 0
    refused(tune("--cost", "twin-cost"), "the word embeddings differ")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("no label here", ("row 4", "1 tab-separated fields, expected 2")),
        ("three\tfields\t1", ("row 4", "3 tab-separated fields, expected 2")),
        ("fine\t7", ("row 4", "label '7'", "'0', '1'")),
        (" \t1", ("row 4", "empty")),
    ],
)
def test_malformed_rows_are_named(tune: Run, glue: Path, row: str, parts: tuple[str, ...]) -> None:
    path = glue / "SST-2" / "train.tsv"
    lines = path.read_text().split("\n")
    lines[3] = row
    path.write_text("\n".join(lines))
    refused(tune(), "train.tsv", *parts)


def test_a_random_head_is_named_in_a_warning(
    tune: Run, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_file(model / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith("cls.predictions.transform")}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        assert tune("--out", "r")[0] == 0
    (warning,) = [
        r.getMessage() for r in caplog.records if "checkpoint has no weights" in r.getMessage()
    ]
    assert "cls.predictions.transform.dense.weight" in warning
    assert "random" in warning


def test_texts_longer_than_the_positions_are_cut_and_counted(
    tune: Run, glue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = glue / "SST-2" / "dev.tsv"
    path.write_text(path.read_text() + "the good dog " * 50 + "\t1\n")  # the model has 40 positions
    with caplog.at_level(logging.WARNING):
        code, shown, _ = tune("--out", "r")
    assert code == 0
    assert json.loads(shown)["truncated"] == {"train": 0, "dev": 0, "reported": 1}
    assert any("1 of 17 texts were cut to fit" in r.getMessage() for r in caplog.records)


def test_zoo_lists_every_bridge(run: Run) -> None:
    code, shown, _ = run("zoo")
    assert code == 0
    for name in bridges.available():
        assert f"{name}\n" in shown
    assert "s2(t) = sigma^2 t (1 - t)" in shown
    assert "theta=1.0, sigma=1.0" in shown


def test_zoo_lists_every_kind_or_what_is_asked_for(run: Run) -> None:
    everything = run("zoo")[1]
    kinds = {"Bridges": bridges, "PETs": pets, "Regularizers": pets.regularizers, "Tasks": pets.tasks}
    assert [line for line in everything.splitlines() if line in kinds] == list(kinds)
    for kind in kinds.values():
        for name in kind.available():
            assert f"\n{name}\n  {kind.info(name).description}\n" in everything
    assert "lora_alpha=8" in everything
    some = run("zoo", "lora", "r*")[1].splitlines()
    names = [line for line in some if not line.startswith(" ")]
    assert names == ["Bridges", "random", "regression", "PETs", "lora", *names[5:]]
    assert names[5:] == ["Regularizers", "r-drop", "r3f", "Tasks", "rte"]
    refused(run("zoo", "lara"), "unknown name 'lara'; did you mean 'lora'")


def test_help_lists_what_is_registered(run: Run) -> None:
    class Colours(pets.tasks.Task, name="colours"):
        """Red or blue?"""

        labels = (pets.tasks.Label("red", "red"), pets.tasks.Label("blue", "blue"))

        def load(self, folder: str | Path | None = None) -> pets.tasks.TaskData:
            return pets.tasks.TaskData(self, (), ())

    for command in ("tune", "compare"):
        shown = " ".join(run(command, "--help")[1].split())
        assert "cola, colours, mnli" in shown
        assert "adapter, bitfit, lora, prefix, prompt" in shown
        assert "neftune, r-drop, r3f" in shown.replace("label- ", "label-")
    assert "alpha, axis, brownian" in run("fit", "--help")[1]


def test_help_teaches(run: Run) -> None:
    assert "bridge-pets demo" in run("--help")[1]
    for command in ("fit", "tune", "demo", "zoo"):
        code, shown, _ = run(command, "--help")
        assert code == 0
        assert "Usage: bridge-pets" in shown
    assert run()[0] == 2
    refused(run("fot"), "'fot'")


def test_fit_takes_no_place_that_is_not_its_own(run: Run, model: Path, text: Path) -> None:
    def fit(out: str) -> tuple[int, str, str]:
        return run("fit", "--model", model, "--text", text, "--out", out, *SHORT)

    Path("a.partial").mkdir()
    Path("a.partial/thesis.tex").write_text("precious")
    refused(fit("a"), "a.partial", "thesis.tex")
    assert Path("a.partial/thesis.tex").read_text() == "precious"
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    Path("dangling").symlink_to("nowhere")
    for out in ("link", "dangling"):
        refused(fit(out), out, "is a symbolic link")
    refused(fit("."), ". exists")
    os.chdir("empty")
    refused(fit("."), ". is the working folder")
    os.chdir("..")
    Path("b.partial").mkdir()
    with FileLock("b.partial/.lock"):
        refused(fit("b"), "a fit is running in", "b.partial")
    assert fit("b")[0] == 0


def test_a_fit_killed_after_its_cost_was_saved_goes_on_to_the_end(
    run: Run, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["fit", "--model", model, "--text", text, "--out", "a", *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr("pets.commands.fit.discard_state", lambda folder: None)
        assert run(*args)[0] == 0
    assert Path("a.partial/fit-state.safetensors").exists()
    before = Path("a/model.safetensors").read_bytes()
    assert run(*args)[0] == 0
    assert Path("a/model.safetensors").read_bytes() == before
    assert not Path("a.partial").exists()
    refused(run(*args), "a exists: a cost is never overwritten")


def test_a_full_disk_and_no_memory_are_one_line(tune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> None:
        def save(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("bridges.storage.checkpoint.save_file", save)

    fails(SafetensorError("I/O error: No space left on device (os error 28)"))
    refused(tune("--out", "run"), "state.safetensors could not be written", "No space left", "goes on")
    fails(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    refused(tune("--out", "run"), "out of memory", "--batch-size")


def test_an_interrupt_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pets.tasks.parse", interrupted)
    code, out, err = run("task", "show", "sst2")
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted; the same command goes on from the last saved state"


def test_what_was_said_is_not_said_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: str) -> None:
        for _ in range(3):
            for k in (1, 2):
                logging.getLogger("pets").warning("cut %d", k)
            logging.getLogger("pets").info("step")
        raise bridges.BadInput("enough")

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("pets.tasks.parse", parse)
    _, _, err = run("task", "show", "sst2")
    assert err.split("\n") == ["cut 1", "cut 2", "step", "error: enough", ""]


def test_a_picture_of_others_is_not_drawn_over(run: Run) -> None:
    Path("zoo.png").write_bytes(b"\x89PNG mine")
    refused(run("zoo", "--plot", "zoo.png"), "zoo.png exists and is no picture of bridge-pets")
    assert Path("zoo.png").read_bytes() == b"\x89PNG mine"


@pytest.mark.parametrize("name", ["table.md", "trajectories.png", "thesis.tex", "costs"])
def test_the_demo_takes_no_place_that_is_not_its_own(run: Run, name: str) -> None:
    Path("demo").mkdir()
    if name == "costs":
        Path("demo/costs").symlink_to(".")
    else:
        Path("demo", name).write_text("mine")
    refused(run("demo", "--out", "demo"), name)
    assert [p.name for p in Path("demo").iterdir()] == [name]


def test_tune_of_a_pet_alone_takes_no_strength(tune: Run, caplog: pytest.LogCaptureFixture) -> None:
    refused(tune("--schedule", "linear"), "--schedule with neither --cost nor --regularizer")
    assert not Path("runs").exists()
    code, *_ = tune("--weight", 0.9)
    assert code == 0
    assert "--weight with neither --cost nor --regularizer" in caplog.text


def test_tune_takes_a_protocol_and_a_schedule_and_fit_whole_words(
    run: Run, model: Path, glue: Path, text: Path, tmp_path: Path
) -> None:
    args = ("--model", model, "--bridge", "sde:reads=state,steps=4", "--text", text, "--whole-words")
    code, out, err = run("fit", *args, "--out", "cost", *SHORT)
    assert code == 0, err
    config = json.loads((tmp_path / "cost" / "config.json").read_text())
    assert config["fit"]["settings"]["masking"] == "words"
    assert config["bridge"]["parameters"]["reads"] == "state"
    args = ("--model", model, "--task", "sst2", "--data", glue, "--shots", 4, *SHORT, "--cost", "cost")
    code, out, err = run("tune", *args, "--protocol", "published", "--schedule", "linear")
    assert code == 0, err
    settings = json.loads(out.splitlines()[-1])["settings"]
    assert (settings["protocol"], settings["schedule"]) == ("published", "linear")
    assert (tmp_path / "runs" / "sst2-lora-sde-published-linear-4-42" / "result.json").exists()
    code, out, err = run("tune", *args, "--protocol", "paper")
    assert code == 2
    assert "'paper' is not one of 'ours', 'published'" in err


def test_what_a_lens_that_is_not_fitted_takes_no_notice_of(run: Run, model: Path) -> None:
    given = ("fit", "--model", model, "--map", "lens", "--control", "random-map", "--out", "random")
    message = "--tokens and --ridge with --control random-map: nothing is fitted"
    refused(run(*given, "--tokens", 9, "--ridge", 0.1), message)
    assert not Path("random").exists()
    code, *_ = run(*given)
    assert code == 0


@pytest.mark.parametrize(("after", "told"), [(0.6, False), (0.5, True), (0.4, True)])
def test_a_run_that_gained_nothing_says_what_to_do(after: float, told: bool) -> None:
    curves = [{"dev": {"accuracy": 0.5}, "dev_loss": 2.0}]
    result = {"metric": "accuracy", "curves": curves, "best_step": 4, "dev_loss": 1.5}
    line, *more = tune_command._gained({**result, "dev": {"accuracy": after}})
    assert line.startswith(
        f"on the examples to select on: accuracy 0.500 before, {after:.3f} at step 4;"
    )
    assert more == (["no gain there: take more --steps, or a higher --lr"] if told else [])
