"""Splits: disjoint by text, balanced, and a function of their arguments alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridges.errors import BadInput
from pets import tasks
from pets.tasks.base import Example
from pets.tasks.splits import few_shot, hold_out

SST2 = tasks.get("sst2")
MNLI = tasks.get("mnli")


def examples(*sizes: int) -> list[Example]:
    """`sizes[k]` examples of class k, all texts different."""
    return [Example(f"{k} {i}", k) for k, size in enumerate(sizes) for i in range(size)]


# Few texts, so that copies, also under two labels, are common.
drawn = st.lists(
    st.builds(Example, st.integers(0, 60).map(str), st.integers(0, 1)), min_size=20, max_size=120
)


@given(pool=drawn, shots=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_few_shot_is_balanced_and_disjoint(pool: list[Example], shots: int, seed: int) -> None:
    firsts = {example.text: example.label for example in reversed(pool)}
    assume(min(Counter(firsts.values())[k] for k in (0, 1)) >= 2 * shots)
    train, dev = few_shot(pool, SST2, shots, seed)
    for part in (train, dev):
        assert Counter(example.label for example in part) == {0: shots, 1: shots}
        assert set(part) <= set(pool)
    texts = [example.text for example in train + dev]
    assert len(set(texts)) == len(texts) == 4 * shots


def test_few_shot_depends_on_examples_shots_and_seed_alone() -> None:
    pool = examples(40, 50, 60)
    random.seed(1)
    first = few_shot(pool, MNLI, 4, 42)
    random.seed(2)
    assert few_shot(tuple(pool), MNLI.with_words(("a", "b", "c")), 4, 42) == first
    assert few_shot(pool, MNLI, 4, 43) != first
    # Written down once: the split of a seed must not move with a release.
    assert [example.text for example in few_shot(examples(4, 4), SST2, 1, 42)[0]] == [
        "1 2",
        "0 0",
    ]


def test_few_shot_order_is_shuffled() -> None:
    train, dev = few_shot(examples(100, 100), SST2, 16, 42)
    for part in (train, dev):
        labels = [example.label for example in part]
        assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_few_shot_needs_twice_the_shots_of_every_class() -> None:
    few_shot(examples(8, 8), SST2, 4, 0)
    with pytest.raises(
        BadInput, match=r"sst2, class 'positive': 7 examples .* 4 shots .* need 8; take fewer"
    ):
        few_shot(examples(8, 7), SST2, 4, 0)


def test_few_shot_counts_copies_once() -> None:
    with pytest.raises(BadInput, match="class 'negative': 1 examples with different texts"):
        few_shot([Example("same", 0)] * 9 + examples(0, 9), SST2, 1, 0)


@pytest.mark.parametrize("shots", [0, -1])
def test_few_shot_needs_a_positive_number(shots: int) -> None:
    with pytest.raises(BadInput, match=f"shots {shots} is too small; expected at least 1"):
        few_shot(examples(8, 8), SST2, shots, 0)


@given(
    pool=drawn,
    seed=st.integers(0, 2**32),
    fraction=st.floats(0.01, 0.5),
    most=st.integers(2, 30),
)
def test_hold_out_is_a_disjoint_partition(
    pool: list[Example], seed: int, fraction: float, most: int
) -> None:
    try:
        train, dev = hold_out(pool, SST2, seed, fraction, most)
    except BadInput:
        copies = Counter(example.text for example in pool)
        single = Counter(example.label for example in pool if copies[example.text] == 1)
        assert min(single[k] for k in (0, 1)) <= max(1, fraction * len(pool))
        return
    assert Counter(train + dev) == Counter(pool)
    assert not {example.text for example in train} & {example.text for example in dev}
    assert len(dev) <= max(most, 2)
    assert {example.label for example in train} == {example.label for example in dev} == {0, 1}
    assert (train, dev) == hold_out(pool, SST2, seed, fraction, most)


def test_hold_out_is_stratified_and_capped() -> None:
    train, dev = hold_out(examples(300, 700), SST2, 0)
    assert Counter(example.label for example in dev) == {0: 30, 1: 70}
    assert len(train) == 900
    _, dev = hold_out(examples(3000, 7000), SST2, 0, most=100)
    assert Counter(example.label for example in dev) == {0: 30, 1: 70}


def test_hold_out_keeps_rare_classes_within_the_cap() -> None:
    _, dev = hold_out(examples(9990, 5, 5), MNLI, 0, most=10)
    assert Counter(example.label for example in dev) == {0: 8, 1: 1, 2: 1}


def test_hold_out_differs_by_seed() -> None:
    pool = examples(50, 50)
    assert hold_out(pool, SST2, 1) != hold_out(pool, SST2, 2)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_hold_out_fraction_is_checked(fraction: float) -> None:
    with pytest.raises(BadInput, match=f"dev fraction {fraction} is out of range"):
        hold_out(examples(9, 9), SST2, 0, fraction)


def test_hold_out_size_is_checked() -> None:
    with pytest.raises(BadInput, match=r"dev size 2 is too small; .* each of the 3 classes of mnli"):
        hold_out(examples(9, 9, 9), MNLI, 0, most=2)


@pytest.mark.parametrize("pool", [[], examples(9, 1), [Example("x", 0)] * 20 + examples(0, 9)])
def test_hold_out_needs_enough_of_every_class(pool: list[Example]) -> None:
    with pytest.raises(BadInput, match=r"task sst2, class '\w+': \d+ examples, .* pass more data"):
        hold_out(pool, SST2, 0)
