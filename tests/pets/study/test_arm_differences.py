"""Comparisons from a table: pairing, families, pooling over clusters, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pets.study.cells.rows import Row
from pets.study.statistics.arm_differences import compare_arms
from pets.study.statistics.paired import ERROR, difference, holm
from pets.study.statistics.setting import Setting

LORA, BITFIT = Setting("sst2", 16, "lora"), Setting("sst2", 16, "bitfit")


def row(setting: Setting, arm: str, seed: int, score: float, metric: str = "accuracy") -> Row:
    where = {"task": setting.task, "shots": setting.shots, "pet": setting.pet}
    rest = {"metric": metric, "model": "m", "code": "c", "device": "cpu", "versions": {}}
    rest |= {"bridge": None, "control": None, "fit": None, "settings": {}}
    return Row(**where, **rest, status="done", arm=arm, seed=seed, score=score)


def table(
    settings: list[Setting], arms: list[str], seeds: int, score: Callable[[Setting, str, int], float]
) -> list[Row]:
    return [row(s, a, k, score(s, a, k)) for s in settings for a in arms for k in range(seeds)]


def noisy(settings: list[Setting], arms: list[str], seeds: int = 5, seed: int = 0) -> list[Row]:
    generator = np.random.default_rng(seed)
    return table(settings, arms, seeds, lambda *_: float(generator.normal(0.7, 0.05)))


def scores(rows: list[Row], setting: Setting, arm: str) -> list[float]:
    return [r.score for r in rows if (r.pet, r.shots, r.arm) == (setting.pet, setting.shots, arm)]


def test_each_arm_against_vanilla_and_each_control() -> None:
    arms = ["vanilla", "brownian", "weight-decay", "regression"]
    rows = noisy([LORA, BITFIT], arms)
    found = compare_arms(rows, controls={"regression", "kinetic"})
    assert set(found.scores) == {(s, a) for s in (LORA, BITFIT) for a in arms}
    against_vanilla = {(s, a, "vanilla") for s in (LORA, BITFIT) for a in arms[1:]}
    against_control = {(s, a, "regression") for s in (LORA, BITFIT) for a in arms[1:3]}
    assert set(found.single) == against_vanilla | against_control
    assert set(found.pooled) == {("accuracy", a, b) for _, a, b in against_vanilla | against_control}
    one = found.single[LORA, "brownian", "regression"]
    expected = difference(scores(rows, LORA, "brownian"), scores(rows, LORA, "regression"), (0.0, 1.0))
    assert one.difference == expected
    assert found.scores[LORA, "brownian"].mean == pytest.approx(np.mean(scores(rows, LORA, "brownian")))


def test_kinetic_is_no_control_of_the_brownian_path_which_it_is() -> None:
    """The two have the same gradients: their difference says nothing, and weighs on no correction."""
    path = "brownian:likelihood=path"
    others = [
        "brownian",
        "ou:likelihood=path",
        "brownian:likelihood=path,learn=sigma",
        f"{path}@shuffled-ends",
    ]
    arms = ["vanilla", path, "brownian:sigma=2,likelihood=path", *others, "regression", "kinetic"]
    controls = {"regression", "kinetic", f"{path}@shuffled-ends"}
    found = compare_arms(noisy([LORA], arms), controls)
    against = {arm for _, arm, baseline in found.single if baseline == "kinetic"}
    assert against == set(others[:3])
    for control in ("regression", f"{path}@shuffled-ends"):
        assert {arm for _, arm, b in found.single if b == control} == {*arms[1:3], *others[:3]}
    family = [c for c in found.single.values() if c.baseline == "kinetic"]
    assert [c.adjusted_p for c in family] == pytest.approx(holm([c.difference.p for c in family]))


def test_a_family_is_all_comparisons_with_one_baseline() -> None:
    found = compare_arms(noisy([LORA, BITFIT], ["vanilla", "ou", "sde", "regression"]), {"regression"})
    for baseline, size in (("vanilla", 6), ("regression", 4)):
        family = [c for c in found.single.values() if c.baseline == baseline]
        assert len(family) == size
        assert [c.adjusted_p for c in family] == pytest.approx(holm([c.difference.p for c in family]))
        pooled = [c for c in found.pooled.values() if c.baseline == baseline]
        assert [c.adjusted_p for c in pooled] == pytest.approx(holm([c.difference.p for c in pooled]))


def test_the_order_of_rows_does_not_matter() -> None:
    rows = noisy([LORA, BITFIT, Setting("rte", None, "lora")], ["vanilla", "ou", "regression"])
    shuffled = random.Random(3).sample(rows, len(rows))
    first, second = compare_arms(rows, ["regression"]), compare_arms(shuffled, ["regression"])
    assert first == second
    assert list(first.single) == list(second.single)


def test_missing_runs_leave_the_seeds_that_both_have() -> None:
    rows = noisy([LORA], ["vanilla", "ou"])
    rows[1] = replace(rows[1], status="failed", score=math.nan)
    del rows[-1]
    found = compare_arms(rows).single[LORA, "ou", "vanilla"]
    assert found.difference.count == 3
    expected = [rows[5 + k].score - rows[k].score for k in (0, 2, 3)]
    assert found.difference.mean == pytest.approx(np.mean(expected))


def test_a_single_seed_has_no_interval_and_does_not_enter_the_family() -> None:
    rows = noisy([LORA], ["vanilla", "ou"]) + noisy([BITFIT], ["vanilla", "ou"], seeds=1)
    found = compare_arms(rows)
    alone = found.single[BITFIT, "ou", "vanilla"]
    assert math.isnan(alone.adjusted_p)
    assert math.isnan(alone.difference.low)
    assert not alone.significant
    assert str(alone).endswith("(n 1)")
    other = found.single[LORA, "ou", "vanilla"]
    assert other.adjusted_p == other.difference.p
    assert ", p " in str(other)


def test_without_a_common_seed_there_is_no_comparison() -> None:
    found = compare_arms([row(LORA, "vanilla", 1, 0.5), row(LORA, "ou", 2, 0.6)])
    assert found.single == {}
    assert found.pooled == {}
    assert found.scores[LORA, "ou"].count == 1
    assert compare_arms([]).scores == {}


def test_pooling_is_over_tasks_and_seeds() -> None:
    """Three PETs and two shots under a seed of a task are one number."""
    settings = [
        Setting(task, shots, pet)
        for task in ("sst2", "rte")
        for shots in (4, 16)
        for pet in ("lora", "bitfit", "adapter")
    ]
    rows = noisy(settings, ["vanilla", "ou"])
    found = compare_arms(rows).pooled["accuracy", "ou", "vanilla"].difference
    value = {r.key: r.score for r in rows}
    means = [
        np.mean(
            [
                value[task, s.shots, s.pet, "ou", seed] - value[task, s.shots, s.pet, "vanilla", seed]
                for s in settings
                if s.task == task
            ]
        )
        for task in ("rte", "sst2")
        for seed in range(5)
    ]
    assert found.count == 10
    assert found.mean == pytest.approx(np.mean(means))
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_pooled_test_has_its_size_where_a_naive_one_has_not() -> None:
    """No true difference, but every split has an effect on an arm that its three PETs share."""
    repetitions, seeds, pets = 150, 5, 3
    generator = np.random.default_rng(8)
    settings = [Setting(task, 16, f"pet{i}") for task in ("sst2", "rte") for i in range(pets)]
    shared = generator.normal(size=(repetitions, 2, seeds, 1))
    effect = (shared + 0.5 * generator.normal(size=(repetitions, 2, seeds, pets))) * 0.02
    naive = stats.ttest_1samp(effect.reshape(repetitions, -1), 0, axis=1).pvalue
    pooled, covered = [], []
    for drawn in effect:
        rows = table(settings, ["vanilla"], seeds, lambda *_: 0.6)
        for i, setting in enumerate(settings):
            rows += [row(setting, "ou", k, 0.6 + drawn[i // pets, k, i % pets]) for k in range(seeds)]
        found = compare_arms(rows).pooled["accuracy", "ou", "vanilla"].difference
        pooled.append(found.p)
        covered.append(found.low <= 0 <= found.high)
    error = 4 * math.sqrt(0.05 * 0.95 / repetitions)
    assert np.mean(naive < 0.05) > 0.2
    assert abs(np.mean(np.array(pooled) < 0.05) - 0.05) < error
    assert abs(np.mean(covered) - 0.95) < error


def test_a_true_difference_is_significant_and_its_null_neighbours_are_not() -> None:
    generator = np.random.default_rng(2)
    better = {"vanilla": 0.0, "ou": 0.1, "sde": 0.0}
    rows = table(
        [LORA], list(better), 20, lambda _, arm, __: 0.6 + better[arm] + generator.normal(0, 0.04)
    )
    found = compare_arms(rows).single
    assert found[LORA, "ou", "vanilla"].significant
    assert not found[LORA, "sde", "vanilla"].significant


def test_only_settings_of_one_metric_are_pooled_and_only_several() -> None:
    """Matthews and accuracy are never averaged, and what ran in one setting is not called pooled."""
    cola, rte = Setting("cola", 16, "lora"), Setting("rte", 16, "lora")
    generator = np.random.default_rng(4)
    rows = [
        row(s, arm, k, generator.normal(0.6, 0.02), "matthews" if s == cola else "accuracy")
        for s in (LORA, rte, cola)
        for arm in ("vanilla", "ou", *(["sde"] if s == rte else []))
        for k in range(5)
    ]
    found = compare_arms(rows)
    assert found.metrics == {LORA: "accuracy", rte: "accuracy", cola: "matthews"}
    assert set(found.pooled) == {("accuracy", "ou", "vanilla")}
    pooled = found.pooled["accuracy", "ou", "vanilla"]
    assert set(pooled.settings) == {LORA, rte}
    assert pooled.where == "rte and sst2, 2 settings together"
    assert pooled.difference.count == 10
    assert pooled.difference.mean == pytest.approx(
        np.mean([found.single[s, "ou", "vanilla"].difference.mean for s in (LORA, rte)])
    )
    assert pooled.adjusted_p == pooled.difference.p
    assert found.single[cola, "ou", "vanilla"].where == "cola, 16 shots, lora"
    with pytest.raises(ValueError, match=r"lora is scored by accuracy and by matthews: expected one"):
        compare_arms([*rows, row(LORA, "sde", 1, 0.5, "matthews")])


def test_intervals_are_cut_to_what_the_metric_can_be() -> None:
    values = {"vanilla": [0.98, 0.99, 0.9], "ou": [1.0, 0.97, 1.0]}
    for metric, cut in (("accuracy", True), ("matthews", True), ("my own", False)):
        rows = [row(LORA, arm, k, v, metric) for arm, each in values.items() for k, v in enumerate(each)]
        found = compare_arms(rows).single[LORA, "ou", "vanilla"].difference
        assert (found.high < 2 * found.mean - found.low) == cut
        assert found.span == {"accuracy": (0, 1), "matthews": (-1, 1)}.get(metric)


def test_simultaneous_intervals_are_of_the_whole_family() -> None:
    found = compare_arms(noisy([LORA, BITFIT], ["vanilla", "ou", "sde"]))
    one = found.single[LORA, "ou", "vanilla"]
    assert one.family == 4
    assert one.simultaneous == one.difference.interval(ERROR / 4)
    assert one.simultaneous[1] > one.difference.high


def test_settings_in_words() -> None:
    assert str(LORA) == "sst2, 16 shots, lora"
    assert str(Setting("rte", None, "lora")) == "rte, full set, lora"


def test_errors() -> None:
    twice = [row(LORA, "ou", 1, 0.5), row(LORA, "ou", 1, 0.6)]
    with pytest.raises(ValueError, match="sst2, 16 shots, lora, ou, seed 1 is in the table twice"):
        compare_arms(twice)
    with pytest.raises(ValueError, match="score None, expected a finite number"):
        compare_arms([replace(row(LORA, "ou", 1, 0.5), score=None)])
