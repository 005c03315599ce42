"""The evidence: its plan, its tasks, what is read of tuned PETs, its tables; all on a tiny model."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from comparison_cases import rows_of, save_model
from scipy import stats
from sklearn.metrics import brier_score_loss
from tiny import TEXTS
from torchmetrics.functional.classification import multiclass_calibration_error
from transformers import AutoModelForMaskedLM, AutoTokenizer

from benchmarks.environment import RESULTS
from benchmarks.evidence import __main__ as command
from benchmarks.evidence import made_tasks, picture
from benchmarks.evidence.crossed import crossed_interval
from benchmarks.evidence.made_tasks import FLIPPED, SENTIMENT, Made, flipped, made
from benchmarks.evidence.places import everywhere
from benchmarks.evidence.plan import Comparison, Plan
from benchmarks.evidence.power import simulated_power
from benchmarks.evidence.questions import ACCURACY, answer, at_depth, family, steps_to
from benchmarks.evidence.readings import other_domain, sureness
from benchmarks.evidence.records import Cell, read_facts, read_records
from benchmarks.evidence.tables import BEGIN, END, details, put_into, summary
from benchmarks.evidence.verdict import verdict
from bridges.errors import BadInput
from pets.study.statistics.arm_differences import Setting
from pets.study.statistics.power import detectable, power

HERE = Path(__file__).parents[2] / "benchmarks"
SAID: dict[str, Any] = {
    "text": ["text.txt"],
    "models": {"tiny": "model"},
    "common": {
        "pets": ["lora"],
        "loss": "labels",
        "ratios": [0.5],
        "shots": [4],
        "seeds": [1, 2],
        "steps": 2,
        "batch_size": 4,
        "eval_every": 1,
        "max_length": 20,
        "lr": 1e-2,
    },
    "studies": [
        {
            "name": "main",
            "model": "tiny",
            "tasks": ["films"],
            "arms": ["vanilla", "posterior@lens", "early-exit"],
            "readings": ["calibration", "depth", "shift", "right"],
        }
    ],
    "comparisons": [
        {"name": "first", "studies": ["main"], "arm": "posterior@lens", "controls": ["early-exit"]}
    ],
}


# The plan


def test_the_plan_says_what_the_issue_of_evidence_is() -> None:
    plan = Plan.read(HERE / "PLAN.md")
    first = plan.studies[0]
    primary, *later = plan.comparisons
    assert (primary.name, primary.studies) == ("primary", (first.name,))
    assert set(primary.baselines) | {primary.arm} == set(first.options["arms"])
    for one in later:
        assert (one.arm, one.controls) == (primary.arm, primary.controls)
    for study in plan.studies:
        assert len(study.options["seeds"]) >= 8
        assert study.options["ratios"] == [0.1, 0.5, 2.0]
        written = study.name == "stories"  # its answers are no labels
        assert study.options["loss"] == ("vocabulary" if written else "labels")
        assert study.options["arms"][0] == "vanilla"
    shots = {k for study in plan.studies for k in study.options["shots"]}
    assert shots == {4, 16, 64}
    assert {pet for study in plan.studies for pet in study.options["pets"]} == {
        *("lora", "adapter", "bitfit", "prefix", "prompt")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": None}, "models is missing, expected an object"),
        ({"more": 1}, "key of the plan"),
        ({"common": {"stepps": 3}}, "key of the study 'stepps'"),
        ({"studies": [{"name": "a", "model": "tiny", "arms": []}]}, "study 'a' lacks 'tasks'"),
        ({"studies": [SAID["studies"][0], SAID["studies"][0]]}, "'main' is there twice"),
        ({"studies": [{**SAID["studies"][0], "tasks": ["filmz"]}]}, "task 'filmz'"),
        ({"studies": [{**SAID["studies"][0], "arms": ["brownain"]}]}, "arm 'brownain'"),
        ({"studies": [{**SAID["studies"][0], "readings": ["depths"]}]}, "reading 'depths'"),
        ({"studies": [{**SAID["studies"][0], "model": "big"}]}, "model 'big'"),
        ({"comparisons": [{**SAID["comparisons"][0], "arm": "brownian"}]}, "arm 'brownian'"),
        ({"comparisons": [{**SAID["comparisons"][0], "studies": ["mian"]}]}, "study 'mian'"),
        ({"common": {"seeds": 3}}, "common.seeds is 3, expected a list"),
        ({"common": {"steps": "many"}}, "common.steps is 'many', expected a whole number"),
        ({"studies": [{**SAID["studies"][0], "arms": "brownian"}]}, r"studies\[0\].arms is 'brownian'"),
        ({"studies": [{**SAID["studies"][0], "ratios": ["x"]}]}, r"ratios\[0\] is 'x', expected a fin"),
        ({"common": {}}, "study 'main' lacks 'seeds'"),
        ({"comparisons": [{"name": "a"}]}, r"comparisons\[0\].studies is missing, expected a list"),
    ],
)
def test_what_is_no_plan_is_refused(films: Path, change: dict[str, Any], message: str) -> None:
    said = {key: value for key, value in {**SAID, **change}.items() if value is not None}
    with pytest.raises(BadInput, match=message):
        Plan.of(said)


@pytest.mark.parametrize(("text", "found"), [("no block", 0), ("```toml\n```\n" * 2, 2)])
def test_a_plan_has_one_block(tmp_path: Path, text: str, found: int) -> None:
    (tmp_path / "PLAN.md").write_text(text)
    with pytest.raises(BadInput, match=f"PLAN.md has {found} blocks of ```toml, expected one"):
        Plan.read(tmp_path / "PLAN.md")
    with pytest.raises(BadInput, match="cannot be read"):
        Plan.read(tmp_path / "nowhere.md")


# Tasks


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shared data that are small, and a task in the words of the tiny vocabulary."""
    data = tmp_path / "data"
    lines = [(f"{text} {'good' if k % 2 else 'bad'}", k % 2) for k, text in enumerate(TEXTS)]
    for name, part in (
        ("glue/SST-2/train", lines[:44]),
        ("glue/SST-2/dev", lines[44:]),
        ("sentiment/yelp", lines[:10]),
        ("sentiment/amazon", lines[10:20]),
    ):
        path = data / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(["sentence\tlabel", *(f"{t}\t{y}" for t, y in part)])
        path.write_text(rows + "\n", encoding="utf-8")
    (data / "text.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    words = dict(zip(SENTIMENT, ("bad", "good"), strict=True))
    task = Made(made_tasks.TASKS["sst2"].examples, "{text} it was {answer} .", words, reported=12)
    monkeypatch.setitem(made_tasks.TASKS, "films", task)
    monkeypatch.setattr(made_tasks, "SHIFTED", 16)
    return data


def test_a_task_is_made_of_the_data_and_made_again_to_the_same_files(
    films: Path, tmp_path: Path
) -> None:
    task = made("films", films, tmp_path / "tasks")
    loaded = task.load(None)
    assert [label.name for label in loaded.task.labels] == ["negative", "positive"]
    assert len(loaded.reported) == 12
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()}
    made("films", films, tmp_path / "tasks")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()} == before
    with pytest.raises(BadInput, match="give --data, the folder of the shared data"):
        made("films", tmp_path / "nowhere", tmp_path / "tasks")


def test_reviews_are_reported_that_no_reading_is_of(films: Path, tmp_path: Path) -> None:
    loaded = made("films-to-reviews", films, tmp_path / "tasks").load(None)
    reported = {example.fields[0][1] for example in loaded.reported}
    read = {example.fields[0][1] for example in other_domain(films)}
    assert len(reported) == 4
    assert len(read) == 16
    assert reported | read == {text for text, _ in made_tasks.shifted(films)}


def test_a_fifth_of_the_training_labels_is_wrong_and_no_reported_one(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = Made(**{**vars(made_tasks.TASKS["films"]), "flipped": FLIPPED})
    monkeypatch.setitem(made_tasks.TASKS, "noisy", noisy)
    tables = {}
    for name in ("films", "noisy"):
        made(name, films, tmp_path)
        for part in ("train", "reported"):
            with (tmp_path / f"{name}_{part}.csv").open(encoding="utf-8", newline="") as file:
                tables[name, part] = list(csv.reader(file))
    assert tables["films", "reported"] == tables["noisy", "reported"]
    pairs = list(zip(tables["films", "train"], tables["noisy", "train"], strict=True))
    assert all(clean[0] == other[0] for clean, other in pairs)
    wrong = sum(clean != other for clean, other in pairs)
    assert wrong == round(FLIPPED * (len(pairs) - 1)) > 0


def test_wrong_labels_are_drawn_among_all_other_classes() -> None:
    clean = [(str(k), "abc"[k % 3]) for k in range(3000)]
    changed = [(a[1], b[1]) for a, b in zip(clean, flipped(clean, list("abc"), 0.5), strict=True)]
    moves = Counter(pair for pair in changed if pair[0] != pair[1])
    assert sum(moves.values()) == 1500
    assert len(moves) == 6
    # 250 of each of six kinds, deviation of a binomial about 15: six times that is never seen.
    assert all(abs(count - 250) < 90 for count in moves.values())


# What is read


@pytest.mark.parametrize("classes", [2, 4])
def test_sureness_is_what_other_libraries_say(classes: int) -> None:
    torch.manual_seed(0)
    odds, answers = 2 * torch.randn(500, classes), torch.randint(classes, (500,))
    found = sureness(odds, answers)
    p = odds.double().softmax(1)
    ece = multiclass_calibration_error(p, answers, num_classes=classes, n_bins=15, norm="l1")
    assert found["ece"] == pytest.approx(float(ece), abs=1e-6)  # theirs is in float32
    assert found["accuracy"] == float((odds.argmax(1) == answers).double().mean())
    brier = brier_score_loss(
        answers.numpy(), p.numpy(), labels=list(range(classes)), scale_by_half=False
    )
    assert found["brier"] == pytest.approx(brier, abs=1e-12)


def test_sureness_of_the_sure_and_the_unsure() -> None:
    right = torch.tensor([0, 1, 1])
    sure = 1e3 * torch.nn.functional.one_hot(right, 2)
    assert sureness(sure, right) == {"accuracy": 1.0, "ece": 0.0, "brier": 0.0}
    assert sureness(sure, 1 - right) == {"accuracy": 0.0, "ece": 1.0, "brier": 2.0}
    unsure = sureness(torch.zeros(4, 2), torch.tensor([0, 0, 0, 0]))
    assert unsure == {"accuracy": 1.0, "ece": 0.5, "brier": 0.5}


# Numbers of cells


def cell(arm: str, seed: int, score: float, **more: Any) -> Cell:
    line = {
        **{"task": "films", "shots": 4, "pet": "lora", "arm": arm, "seed": seed, "score": score},
        **{"restart": 0, "tries": [{"curve": more.pop("curve", [[0, 0.5], [60, score]])}]},
        **{"readings": more, "metric": "accuracy"},
    }
    return Cell(line)


FILMS = Setting("films", 4, "lora")


def test_effects_are_paired_t_tests_with_holms_correction() -> None:
    rng = np.random.default_rng(1)
    base, scores = rng.normal(0.7, 0.05, 8), {}
    for k, arm in enumerate(("a", "b", "c")):
        scores[arm] = base + rng.normal(0.01 * k, 0.02, 8)
    cells = [cell("vanilla", s, float(v)) for s, v in enumerate(base)]
    cells += [cell(arm, s, float(v)) for arm, own in scores.items() for s, v in enumerate(own)]
    found = answer(cells, ACCURACY)
    assert found is not None
    assert (family(found.effects.values()), found.settings) == (3, (FILMS,))
    p = {arm: float(stats.ttest_rel(own, base).pvalue) for arm, own in scores.items()}
    order = sorted(p, key=lambda arm: p[arm])
    largest = 0.0
    for place, arm in enumerate(order):
        largest = max(largest, min(1.0, (3 - place) * p[arm]))
        effect = found.effects[FILMS, arm]
        assert effect.adjusted_p == pytest.approx(largest, rel=1e-6)
        assert effect.difference.mean == pytest.approx(float((scores[arm] - base).mean()))
    assert answer(cells, at_question()) is None


def at_question() -> Any:
    from benchmarks.evidence.questions import Question

    return Question("?", at_depth("probe", "1/2"))


def test_depth_is_read_at_a_share_of_the_layers() -> None:
    layers = [{"accuracy": k / 10} for k in range(7)]
    one = cell("vanilla", 1, 0.6, depth={"probe": layers, "exit": None})
    assert at_depth("probe", "1/2")(one) == 0.3
    assert at_depth("probe", "3/4")(one) == 0.4
    assert at_depth("exit", "1/2")(one) is None
    assert at_depth("head", "1/2")(one) is None


def test_steps_are_those_to_vanillas_last_dev_score() -> None:
    cells = [
        cell("vanilla", 1, 0.7, curve=[[0, 0.5], [20, 0.9], [40, 0.7], [60, 0.8]]),
        cell("a", 1, 0.7, curve=[[0, 0.5], [20, 0.6], [40, 0.8], [60, 0.8]]),
        cell("b", 1, 0.7, curve=[[0, 0.5], [20, 0.6], [40, 0.7], [60, 0.7]]),
        cell("a", 2, 0.7),  # without a vanilla to compare it with
    ]
    assert steps_to(cells) == {(FILMS, "vanilla"): [20], (FILMS, "a"): [40], (FILMS, "b"): [None]}


def test_simulated_power_is_the_exact_one_for_one_baseline() -> None:
    """With so many examples that counting adds nothing, deviations of the differences are known."""
    found = simulated_power(
        0.02, tasks=[(0.5, 0.03)], splits=12, tests=1, correlation=0.5, examples=10**6, rounds=20_000
    )
    exact = power(0.02 / 0.03, 12)  # the deviation of a difference is 0.03 sqrt(2 (1 - 0.5))
    assert found == pytest.approx(exact, abs=4 * 0.5 / 20_000**0.5)
    # All of several baselines are seen less often than one, and nothing is seen where nothing is.
    more = {"tasks": [(0.5, 0.03)], "splits": 12, "correlation": 0.5, "examples": 10**6}
    assert simulated_power(0.02, tests=5, rounds=4000, **more) < found
    assert simulated_power(0.0, tests=1, rounds=20_000, **more) < 0.03  # half of 5 %: above, not below


# The page


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ({"vanilla": 0.05, "early-exit": 0.05}, "Above vanilla and above every control"),
        ({"vanilla": 0.05, "early-exit": 0.0}, "but not above every control"),
        ({"vanilla": 0.0, "early-exit": 0.05}, "the goal is not reached"),
        ({"vanilla": -0.05, "early-exit": -0.05}, "the goal is not reached"),
    ],
)
def test_the_verdict_is_what_the_intervals_are(effects: dict[str, float], said: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 8)
    noise -= noise.mean()
    cells = [cell("posterior@lens", s, 0.7 + float(v)) for s, v in enumerate(noise)]
    for k, (arm, effect) in enumerate(effects.items()):
        cells += [cell(arm, s, 0.7 - effect + 0.3 * k * float(v)) for s, v in enumerate(noise)]
    primary = Comparison("first", ("main",), "posterior@lens", ("early-exit",))
    found = verdict(primary, [cells])
    assert said in found.splitlines()[-1]
    for arm, effect in effects.items():
        assert f"| {arm if arm == 'vanilla' else f'`{arm}`'} | 8 | {effect + 0.0:+.3f} [" in found
    assert "no verdict" in verdict(primary, [cells[:9]])
    assert "no verdict" in verdict(primary, [()])
    alone = Plan.of({**said_of_sst2(), "comparisons": []})
    assert summary(alone, {"main": cells}, {}).startswith("Vanilla: mean")


def test_a_verdict_says_what_other_examples_might_have_made_of_it() -> None:
    rng = np.random.default_rng(3)
    level = {"posterior@lens": 0.8, "vanilla": 0.6, "early-exit": 0.7}
    right = {arm: rng.random((6, 40)) < p for arm, p in level.items()}
    cells = [
        cell(arm, s, float(row.mean()), right="".join("01"[int(hit)] for hit in row))
        for arm, rows in right.items()
        for s, row in enumerate(rows)
    ]
    primary = Comparison("first", ("main",), "posterior@lens", ("early-exit",))
    head, _, *lines = verdict(primary, [cells]).splitlines()[2:5]
    assert head.split(" | ")[3] == "the same over other examples too"
    of_vanilla = right["posterior@lens"].astype(float) - right["vanilla"]
    low, high = crossed_interval(of_vanilla, 0.05 / 2)
    assert lines[0].split(" | ")[3] == f"{of_vanilla.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    del cells[0].line["readings"]["right"]  # one that was not read
    assert "other examples" not in verdict(primary, [cells])


def test_the_primary_arm_is_told_of_everywhere_that_it_was_tried() -> None:
    told = said_of_sst2()
    plan = Plan.of({**told, "studies": [*told["studies"], {**told["studies"][0], "name": "more"}]})
    gains = (0.03, 0.05, 0.01)
    main = [cell("vanilla", s, 0.6) for s in range(3)]
    main += [cell("posterior@lens", s, 0.6 + gain) for s, gain in enumerate(gains)]
    main += [cell("early-exit", s, 0.5 + gain) for s, gain in enumerate(gains[:2])]
    more = [cell("vanilla", 1, 0.7), cell("early-exit", 1, 0.8)]  # not the arm itself
    table = everywhere(plan, {"main": main, "more": more}).splitlines()
    assert table[4] == "| where | splits | vanilla | minus vanilla | minus `early-exit` |"
    low, high = stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
    of_vanilla = f"+0.030 [{low:+.3f}, {high:+.3f}]"
    assert table[6:] == [
        f"| main; tiny: films, 4 shots, lora | 3 | 0.600 | {of_vanilla} | +0.100 [+0.100, +0.100] |"
    ]


def test_only_what_is_shown_is_bold() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 8)
    cells = [cell("vanilla", s, 0.6 + float(v)) for s, v in enumerate(noise)]
    cells += [cell("early-exit", s, 0.7 + float(v[0])) for s, v in enumerate(noise[:, None] * 0)]
    cells += [cell("posterior@lens", s, 0.6 - float(v)) for s, v in enumerate(noise)]
    page = summary(Plan.of(said_of_sst2()), {"main": cells}, {})
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert sum("**" in line for line in lines if line.startswith("| `early-exit`")) == 1
    assert not any("**" in line for line in lines if line.startswith("| `posterior@lens`"))
    assert "Not run." in summary(Plan.of(said_of_sst2()), {}, {})


def test_the_arm_of_a_comparison_is_set_against_its_controls_in_every_study() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 8))
    means = {"vanilla": 0.6, "posterior@lens": 0.7, "early-exit": 0.65, "r-drop": 0.5}
    plan = Plan.of(said_of_sst2())
    assert [(one.arm, one.controls) for one in plan.comparisons] == [("posterior@lens", ("early-exit",))]
    cells = [
        cell(arm, s, mean + float(row[s]))
        for (arm, mean), row in zip(means.items(), [*noise, noise[0]], strict=True)
        for s in range(8)
    ]
    page = details(plan, {"main": cells}, {})
    gain = 0.05 + noise[1] - noise[2]
    seen = detectable(gain.std(ddof=1), 8)
    told = f"1 tests; a true difference of {seen:.3f} to {seen:.3f} is told four times in five"
    head, rows = page.split(f"**Accuracy of `posterior@lens` minus that of** ({told})")
    assert "|" not in head
    table = rows.split("\n\n")[1].splitlines()
    low, high = stats.ttest_1samp(gain, 0).confidence_interval()
    assert table[2:] == [f"| `early-exit` | **{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]** |"]
    single = [one for one in cells if one.seed == 0]
    assert f"| `early-exit` | {gain[0]:+.3f} (1) |" in details(plan, {"main": single}, {})
    only = [one for one in cells if one.arm in ("vanilla", "early-exit")]
    assert "minus that of" not in details(plan, {"main": only}, {})


def test_prices_are_over_vanillas() -> None:
    one = {"ratio": 1.5, "low": 1.25, "high": 2.0, "memory": 150}
    times = {"lora": {"vanilla": {**one, "ratio": 1.0, "memory": 100}, "posterior@lens": one}}
    cells = [cell("vanilla", 1, 0.6), cell("posterior@lens", 1, 0.6)]
    page = details(Plan.of(said_of_sst2()), {"main": cells}, {"main": {"step_times": times}})
    assert "| `posterior@lens` | 1.50 (1.25 to 2.00); 1.500 |" in page


def test_the_picture_has_every_effect_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = {**said_of_sst2()["studies"][0], "name": "more", "schedule": "linear"}
    plan = Plan.of({**said_of_sst2(), "studies": [*said_of_sst2()["studies"], second]})
    gains = {"posterior@lens": 0.05, "early-exit": -0.02, "r-drop": 0.01}
    noise = 0.001 * np.random.default_rng(0).normal(size=(3, 8))

    def cells(*arms: str, splits: int = 8) -> list[Cell]:
        own = [cell("vanilla", s, 0.6) for s in range(splits)]
        rows = zip(arms, noise, strict=False)
        return own + [
            cell(a, s, 0.6 + gains[a] + float(row[s])) for a, row in rows for s in range(splits)
        ]

    kept = {"main": cells(*gains), "more": cells("posterior@lens", splits=1)}
    thrice = {f"more{k}": cells("r-drop", splits=1) for k in (1, 2)}
    many = Plan.of({**said_of_sst2(), "studies": [{**second, "name": n} for n in ("main", *thrice)]})
    assert "r-drop" in picture.effects(many, {**kept, **thrice})
    found = picture.effects(plan, kept)
    here, there = ("tiny: films, 4 shots, lora (8)", "tiny: films, 4 shots, lora, linear decay (1)")
    assert {arm: [name for _, name in own] for arm, own in found.items()} == {
        "posterior@lens": [here, there],  # r-drop, of one study and no control, has no panel
        "early-exit": [here],
    }
    drawn: list[Any] = []
    monkeypatch.setattr(picture, "save_picture", lambda figure, *_: drawn.append(figure))
    picture.draw(plan, found, tmp_path / "picture.png")
    first, other = drawn[0].axes
    assert [label.get_text() for label in first.get_yticklabels()] == [here, there]
    for axis, arm in ((first, "posterior@lens"), (other, "early-exit")):
        middles = {line.get_ydata()[0]: line for line in axis.lines if line.get_marker() == "o"}
        one = next(iter(found[arm].values()))
        assert middles[0].get_xdata()[0] == one.difference.mean
        bars = [list(line.get_xdata()) for line in axis.lines if list(line.get_ydata()) == [0, 0]]
        assert bars == [[one.difference.low, one.difference.high]]
        assert middles[0].get_markerfacecolor() != "white"
        assert one.adjusted_p < 0.05
    assert len(other.lines) == 4  # the line at 0, that under comparisons, and the one place of its own
    assert list(other.lines[-1].get_ydata()) == [0.5, 0.5]  # of two places one is of a comparison


def said_of_sst2() -> dict[str, Any]:
    return {**SAID, "studies": [{**SAID["studies"][0], "tasks": ["sst2"]}]}


def test_tables_go_between_two_marks() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert put_into(page, "new\n") == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert put_into(put_into(page, "new\n"), "new\n") == put_into(page, "new\n")
    for broken in ("nothing", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(BadInput, match="the page has no"):
            put_into(broken, "new")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task": ', "is no result of a study"),
        ("{}", "line 2: task is missing, expected text"),
        ('"a"', "line 2: it is 'a', expected an object"),
        (json.dumps({**cell("vanilla", 1, 0.5).line, "score": None}), "line 2: score is None"),
        (json.dumps(dict(cell("vanilla", 1, 0.5).line)), "line 2: vanilla, seed 1 is there twice"),
    ],
)
def test_a_kept_line_that_is_none_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "main.jsonl"
    path.write_text(f"{json.dumps(dict(cell('vanilla', 1, 0.6).line))}\n{line}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        read_records(tmp_path)
    path.write_text(json.dumps(dict(cell("vanilla", 1, 0.6).line)), encoding="utf-8")
    assert [one.seed for one in read_records(tmp_path)["main"]] == [1]


def test_the_page_has_the_tables_of_the_results_that_are_kept() -> None:
    page = (HERE / "EVIDENCE.md").read_text(encoding="utf-8")
    kept = read_records(RESULTS / "evidence")
    facts = read_facts(RESULTS / "evidence")
    plan = Plan.read(HERE / "PLAN.md")
    assert page == put_into(page, summary(plan, kept, facts))
    assert (HERE / "EVIDENCE_TABLES.md").read_text(encoding="utf-8") == details(plan, kept, facts)
    for cells in kept.values():
        assert all("/" not in str(one.line["model"]) for one in cells)


# All of it


@pytest.mark.slow
@pytest.mark.usefixtures("few_rounds")
def test_a_plan_runs_and_runs_on_to_the_same_bytes(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "models" / "model")
    _write_plan(tmp_path, SAID)
    (tmp_path / "EVIDENCE.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    places = {"plan": "PLAN.md", "models": "models", "out": "runs", "results": "kept", "pages": "."}
    arguments = [part for name, place in places.items() for part in (f"--{name}", str(tmp_path / place))]
    arguments += ["--data", str(films)]

    def run(*more: str) -> str:
        done = CliRunner().invoke(command.main, [*arguments, *more])
        assert done.exit_code == 0, done.output
        return done.output

    with pytest.raises(AssertionError, match="holds no model: give the folder of tiny"):
        run("--model", f"tiny={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.evidence.studies.compare", None)  # refused before any study runs
        later = {**SAID["studies"][0], "name": "later", "loss": "labelz"}
        _write_plan(tmp_path, {**SAID, "studies": [*SAID["studies"], later]})
        with pytest.raises(AssertionError, match="labelz"):
            run()
    _write_plan(tmp_path, SAID)
    assert "\nread, 6 of 6" in run()
    study = tmp_path / "runs" / "main"
    assert len(rows_of(study)) == 6
    kept, page = tmp_path / "kept" / "main.jsonl", tmp_path / "EVIDENCE.md"
    written = (kept, page, tmp_path / "EVIDENCE_TABLES.md", tmp_path / "evidence.png")
    before = [path.read_bytes() for path in written]
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    for line in lines:
        found = line["readings"]
        assert found["calibration"]["accuracy"] == pytest.approx(
            line["score"]
        )  # the PET that was chosen
        assert {name: len(layers) for name, layers in found["depth"].items()} == dict.fromkeys(
            ("probe", "exit", "head"), 4
        )
        assert found["depth"]["head"][-1] == found["calibration"]
        assert found["right"].count("1") / len(found["right"]) == pytest.approx(line["score"])
        assert 0 <= found["shift"]["accuracy"] <= 1

    facts = json.loads((tmp_path / "kept" / "main.json").read_text(encoding="utf-8"))
    assert facts["untuned"] == {"films": pytest.approx(_by_hand(tmp_path))}
    assert f"the model is at {facts['untuned']['films']:.3f} on films." in page.read_text()

    first, *_ = sorted((study / "readings").iterdir())
    first.unlink()  # stopped before the last reading, and before the page
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    assert "\nread, 1 of 1" in run("--jobs", "2")
    assert [path.read_bytes() for path in written] == before
    monkeypatch.setattr("benchmarks.evidence.readings._of_cell", None)
    monkeypatch.setattr("pets.study.compare.run.run_cell", None)
    run()
    run("--tables")
    assert [path.read_bytes() for path in written] == before


def _by_hand(folder: Path) -> float:
    """The accuracy of the model as it is on the reported examples, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "model")
    model = AutoModelForMaskedLM.from_pretrained(folder / "models" / "model").eval()
    words = tokenizer.convert_tokens_to_ids(["bad", "good"])
    right = []
    with (folder / "runs" / "tasks" / "films_reported.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ids = tokenizer(f"{row['text']} it was [MASK] .", return_tensors="pt")
            at = ids["input_ids"][0].tolist().index(tokenizer.mask_token_id)
            with torch.no_grad():
                guess = model(**ids).logits[0, at, words].argmax()
            right.append(sorted(SENTIMENT)[int(guess)] == row["label"])
    return sum(right) / len(right)


def _write_plan(folder: Path, said: dict[str, Any]) -> None:
    (folder / "PLAN.md").write_text(f"# A plan\n\n```toml\n{_toml(said)}```\n", encoding="utf-8")


def _toml(said: dict[str, Any]) -> str:
    parts = [f"text = {json.dumps(said['text'])}\n"]
    for name in ("models", "common"):
        own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in said[name].items())
        parts.append(f"[{name}]\n{own}")
    for name in ("studies", "comparisons"):
        for one in said[name]:
            own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in one.items())
            parts.append(f"[[{name}]]\n{own}")
    return "\n".join(parts)
