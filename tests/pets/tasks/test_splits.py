"""Splits: disjoint by text, balanced, and a function of their arguments alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridges.errors import BadInput
from pets import tasks
from pets.tasks.base import Example, same_text
from pets.tasks.splits import few_shot, hold_out, set_aside

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
    with pytest.raises(
        BadInput, match=r"'negative': 1 examples with different .*; give it more, or its"
    ):
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


# Some texts, written in two ways each, under any label.
written = st.lists(
    st.builds(
        lambda number, spaced, label: Example(f" Text  {number}" if spaced else f"text {number}", label),
        st.integers(0, 30),
        st.booleans(),
        st.integers(0, 1),
    ),
    min_size=8,
    max_size=60,
)


@given(pool=written, share=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_what_is_set_aside_has_no_text_of_the_rest(pool: list[Example], share: float, seed: int) -> None:
    assume(len({same_text(example.text) for example in pool}) > 3)
    train, reported = set_aside(pool, SST2, share, seed)
    assert not {same_text(e.text) for e in train} & {same_text(e.text) for e in reported}
    sides = {same_text(example.text) for example in reported}
    assert [e for e in pool if same_text(e.text) in sides] == reported
    assert [e for e in pool if same_text(e.text) not in sides] == train
    assert (train, reported) == set_aside(pool, SST2, share, seed)


def test_what_is_set_aside_is_a_share_of_each_class() -> None:
    pool = examples(40, 8, 2) * 3
    train, reported = set_aside(pool, MNLI, 0.25, 1)
    assert Counter(example.label for example in reported) == {0: 30, 1: 6, 2: 3}
    assert len(train) + len(reported) == len(pool)
    assert set_aside(pool, MNLI, 0.25, 2)[1] != reported
    # Written down once: what is reported must not move with a release.
    assert [e.text for e in set_aside(examples(4, 4), SST2, 0.25, 0)[1]] == ["0 3", "1 3"]


def test_a_class_of_one_text_is_trained_on() -> None:
    train, reported = set_aside(examples(1, 5), SST2, 0.9, 0)
    assert Counter(e.label for e in train) == {0: 1, 1: 1}
    assert Counter(e.label for e in reported) == {1: 4}


def test_there_has_to_be_something_to_set_aside() -> None:
    with pytest.raises(BadInput, match="sst2: 2 different texts, too few to put some aside"):
        set_aside([*examples(1, 1), Example(" 0  0", 0)], SST2)
    for share in (0, 1, 2.0, float("nan"), True):
        with pytest.raises(BadInput, match=r"share .* is out of range"):
            set_aside(examples(9, 9), SST2, share)


cased = st.lists(
    st.builds(
        Example, st.sampled_from(["a", "A", " a", "b", "B c", "b  c", *"defghijklmn"]), st.integers(0, 1)
    ),
    min_size=12,
    max_size=60,
)


@given(pool=cased, seed=st.integers(0, 2**32))
def test_texts_that_differ_in_case_and_spaces_alone_are_on_one_side(
    pool: list[Example], seed: int
) -> None:
    for split in (lambda: few_shot(pool, SST2, 1, seed), lambda: hold_out(pool, SST2, seed, 0.3)):
        try:
            train, dev = split()
        except BadInput:
            continue  # too few that are different
        assert not {same_text(e.text) for e in train} & {same_text(e.text) for e in dev}


def test_other_splits_stay_what_they_were_where_only_others_differ_in_case() -> None:
    pool = [*examples(4, 5), Example("0 A", 0), Example("0 a", 0)]
    met = 0
    for seed in range(200):
        train, dev = few_shot(pool, SST2, 1, seed)
        drawn = random.Random(seed)
        classes = [[e for e in pool if e.label == k] for k in (0, 1)]
        before = [drawn.sample(members, 2) for members in classes]
        same = [{e.text for e in part} for part in (train, dev)] == [
            {b[i].text for b in before} for i in (0, 1)
        ]
        meet = same_text(before[0][0].text) == same_text(before[0][1].text)
        met += meet
        assert same != meet
    assert met
