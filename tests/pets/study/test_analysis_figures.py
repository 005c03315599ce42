"""Pictures of the analyses: they show the records' numbers, and every arm looks the same in all."""

from __future__ import annotations

import copy
import io
import statistics
from typing import Any

import pytest
from matplotlib.colors import same_color

from bridges import BadInput
from pets.study.report.analysis_figures import analysis_figures
from pets.study.report.document import Picture

pytestmark = pytest.mark.slow

WORDS = ["no", "yes"]


def record(arm: str, *, shift: float = 0.0, words: list[str] = WORDS, **changes: Any) -> dict[str, Any]:
    """Three states, two examples a label; numbers that tell arm, label and layer apart."""
    path = {
        word: {
            "mean": [0.1 + k + shift, 0.2 + k + shift, 0.3 + k + shift],
            "low": [0.0, 0.1, 0.2],
            "high": [0.2, 0.3, 0.4],
            "examples": [[0.1, 0.2, 0.3], [0.0, 0.2, 0.4]],
        }
        for k, word in enumerate(words)
    }
    found = {
        "task": "rte",
        "shots": 16,
        "pet": "lora",
        "arm": arm,
        "seed": 42,
        "reader": "brownian",
        "labels": words,
        "times": [0.25, 0.5, 0.75],
        "tube": {"t": [0.0, 0.5, 1.0], "mean": [0.0, 0.5, 1.0], "deviation": [0.0, 0.5, 0.0]},
        "progress": path,
        "contrast": {word: {"end": 0.4, **path[word]} for word in words},
        "distance": {
            word: {end: [1.0, 0.9, 0.8 + 0.1 * (end != word) + shift] for end in words} for word in words
        },
        "separability": {
            "probe": [0.5, 0.6 + shift, 0.7 + shift],
            "probe_deviation": [0.0, 0.05, 0.1],
            "silhouette": [0.0, 0.01, 0.02 + shift],
            "chance": 0.5,
        },
        "lens": {
            "metric": "accuracy",
            "score": [0.5, 0.55 + shift, 0.6 + shift],
            "probability": {word: [1e-5, 1e-3, 0.1 + shift] for word in words},
        },
        "examples": 120,
    }
    return found | changes


def three(**changes: Any) -> list[dict[str, Any]]:
    return [
        record("frozen", **changes),
        record("brownian", shift=0.2, **changes),
        record("vanilla", shift=0.1, **changes),
    ]


def drawn(axis: Any) -> dict[str, list[float]]:
    """Lines by the name they have in the legend."""
    return {
        line.get_label(): list(line.get_ydata())
        for line in axis.get_lines()
        if not line.get_label().startswith("_")
    }


def shown(picture: Picture) -> list[Any]:
    return [axis for axis in picture.figure.axes if axis.get_visible()]


def test_four_pictures_of_a_pet_that_can_be_drawn() -> None:
    pictures = analysis_figures(three())
    assert [picture.title for picture in pictures] == [
        "rte, 16 shots, lora: latent trajectories read by brownian",
        "rte, 16 shots, lora: distance to each label's end point, read by brownian",
        "rte, 16 shots, lora: separability of the labels by layer",
        "rte, 16 shots, lora: the language-model head read at every layer",
    ]
    for picture in pictures:
        file = io.BytesIO()
        picture.figure.savefig(file, format="png", dpi=30)
        assert file.getvalue().startswith(b"\x89PNG")
        assert picture.caption.endswith(".")
        assert "120 examples from the train set, none of them tuned on" in picture.caption


def test_trajectories_run_in_the_tube_arm_by_arm() -> None:
    picture = analysis_figures(three())[0]
    axes = shown(picture)
    assert [axis.get_title() for axis in axes[:3]] == ["frozen", "vanilla", "brownian"]
    above, below = axes[2], axes[5]
    assert drawn(above)["yes"] == pytest.approx([1.3, 1.4, 1.5])
    assert drawn(above)["bridge, mean"] == [0.0, 0.5, 1.0]
    # Two labels share an axis below: the first one's side is the lower.
    assert drawn(below)["no"] == pytest.approx([-0.3, -0.4, -0.5])
    assert drawn(below)["yes"] == pytest.approx([1.3, 1.4, 1.5])
    assert len({axis.get_ylim() for axis in axes[:3]}) == 1
    assert len({axis.get_ylim() for axis in axes[3:]}) == 1
    assert (
        "the bridge is at 0.75 ± 0.25 above and, below, at -0.300 for “no” and +0.300 for “yes”"
        in picture.caption
    )
    assert "for “no” 0.30 (frozen), 0.40 (vanilla), 0.50 (brownian) above" in picture.caption
    assert "-0.300 (frozen), -0.400 (vanilla), -0.500 (brownian) below" in picture.caption


def test_more_labels_have_an_axis_each_and_more_arms_more_rows() -> None:
    words = ["maybe", "no", "yes"]
    arms = ["frozen", "vanilla", "a", "b", "c", "d"]
    pictures = analysis_figures([record(arm, words=words) for arm in arms])
    axes = shown(pictures[0])
    assert len(axes) == 12
    assert all(axis.get_xlabel() for axis in axes[10:])
    assert drawn(axes[4])["maybe"] == pytest.approx([0.1, 0.2, 0.3])
    assert "0.30 to 0.30 (the 4 other arms)" in pictures[0].caption
    assert len(shown(pictures[1])) == 6
    assert "the nearest other label's" in pictures[1].caption


def test_without_a_tube_there_is_none() -> None:
    picture = analysis_figures(three(tube=None))[0]
    assert set(drawn(shown(picture)[0])) == {"no", "yes"}
    assert "bridge" not in picture.caption


def test_distances_probe_and_lens_are_the_records() -> None:
    _, distances, separability, lens = analysis_figures(three())
    own, _, nearer, _ = shown(distances)
    assert drawn(own)["brownian"] == pytest.approx([1.0, 0.9, 1.0])
    assert drawn(nearer)["vanilla"] == pytest.approx([0.0, 0.0, 0.1])
    probe, silhouette = shown(separability)
    assert drawn(probe)["brownian"] == pytest.approx([0.5, 0.8, 0.9])
    assert drawn(silhouette)["frozen"] == pytest.approx([0.0, 0.01, 0.02])
    assert "its best layer has 0.70 (frozen), 0.80 (vanilla), 0.90 (brownian)" in separability.caption
    assert "Bars: one standard deviation over the five folds." in separability.caption
    frozen = probe.collections[0].get_segments()
    assert [list(bar[:, 1]) for bar in frozen][2] == pytest.approx([0.6, 0.8])
    score, _, yes = shown(lens)
    assert score.get_ylabel() == "accuracy"
    assert drawn(score)["vanilla"] == pytest.approx([0.5, 0.65, 0.7])
    assert drawn(yes)["frozen"] == pytest.approx([1e-5, 1e-3, 0.1])
    assert yes.get_yscale() == "log"
    assert "0.60 (frozen), 0.70 (vanilla), 0.80 (brownian) at the end" in lens.caption


def test_several_seeds_are_their_mean_and_deviation() -> None:
    shifts = {42: 0.0, 43: 0.02, 44: 0.1}
    records = [record("vanilla", shift=shift, seed=seed) for seed, shift in reversed(shifts.items())]
    trajectories, distances, separability, lens = analysis_figures(records)
    assert trajectories.caption.endswith(
        "Seed 42; 120 examples from the train set, none of them tuned on."
    )
    assert drawn(shown(trajectories)[0])["no"] == pytest.approx([0.1, 0.2, 0.3])
    values = [0.7 + shift for shift in shifts.values()]
    probe = shown(separability)[0]
    assert drawn(probe)["vanilla"][2] == pytest.approx(statistics.mean(values))
    low, high = probe.collections[0].get_segments()[2][:, 1]
    assert (high - low) / 2 == pytest.approx(statistics.stdev(values))
    for picture in (distances, separability, lens):
        assert "Bars: one standard deviation over the seeds." in picture.caption
        assert picture.caption.endswith("means over seeds 42, 43, 44.")


def test_an_arm_looks_the_same_in_every_picture_and_no_other_like_it() -> None:
    arms = ["frozen", "vanilla", *(f"arm {k}" for k in range(14))]
    records = [record(arm) for arm in arms]
    records += [record(arm, task="sst2") for arm in ("arm 9", "arm 13")]
    pictures = [p for p in analysis_figures(records) if "trajectories" not in p.title]
    looks: dict[str, set[Any]] = {}
    for picture in pictures:
        for axis in shown(picture):
            for line in axis.get_lines():
                if line.get_label() in arms:
                    look = (line.get_color(), line.get_marker(), str(line._dash_pattern))
                    looks.setdefault(line.get_label(), set()).add(look)
    assert set(looks) == set(arms)
    assert all(len(found) == 1 for found in looks.values())
    assert len(set.union(*looks.values())) == len(arms)
    vanilla = next(iter(looks["vanilla"]))
    assert same_color(vanilla[0], "black")


def test_every_reader_has_its_trajectories_and_all_arms_their_probe() -> None:
    """Each bridge's arm read by its own cost; frozen and vanilla by both."""
    records = [
        record("frozen"),
        record("vanilla"),
        record("brownian"),
        record("frozen", reader="ou"),
        record("vanilla", reader="ou"),
        record("ou", reader="ou"),
    ]
    pictures = analysis_figures(records)
    assert [picture.title.split(": ")[1][:21] for picture in pictures] == [
        "latent trajectories r",
        "distance to each labe",
        "latent trajectories r",
        "distance to each labe",
        "separability of the l",
        "the language-model he",
    ]
    assert [a.get_title() for a in shown(pictures[2])[:3]] == ["frozen", "vanilla", "ou"]
    assert set(drawn(shown(pictures[4])[0])) - {"most frequent label"} == {
        "frozen",
        "vanilla",
        "brownian",
        "ou",
    }
    assert "over the seeds" not in pictures[4].caption  # two readers are not two seeds


def test_tasks_shots_and_pets_are_kept_apart_and_share_a_frozen_model() -> None:
    records = [
        record("frozen", pet=None, shots=None),
        record("vanilla"),
        record("vanilla", pet="bitfit"),
        record("vanilla", shots=None),
        record("vanilla", task="cola"),
    ]
    titles = [p.title.split(":")[0] for p in analysis_figures(records)]
    assert titles[::4] == [
        "rte, 16 shots, lora",
        "rte, 16 shots, bitfit",
        "rte, full train set, lora",
        "cola, 16 shots, lora",
    ]
    pictures = analysis_figures(records)
    assert [a.get_title() for a in shown(pictures[4])[:2]] == ["frozen", "vanilla"]
    assert [a.get_title() for a in shown(pictures[12])[:1]] == ["vanilla"]


def test_arms_without_a_lens_are_left_out() -> None:
    records = three()
    records[1]["lens"] = None
    assert set(drawn(shown(analysis_figures(records)[3])[0])) == {"frozen", "vanilla"}
    assert len(analysis_figures(three(lens=None))) == 3


def test_no_record_no_picture() -> None:
    assert analysis_figures([]) == []
    (alone,) = {p.title.split(":")[0] for p in analysis_figures([record("frozen")])}
    assert alone == "rte, 16 shots, lora"


def test_a_record_that_lacks_something_is_refused() -> None:
    records = three()
    before = copy.deepcopy(records)
    analysis_figures(records)
    assert records == before
    del records[1]["tube"], records[1]["contrast"]
    with pytest.raises(BadInput, match="record 1 of the analyses lacks tube, contrast"):
        analysis_figures(records)
