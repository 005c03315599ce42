"""Seeded splits of a train set; the reported set plays no part in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random

from bridges.errors import BadInput, check_seeds, is_number, is_whole, shown
from pets.tasks.base import Example, Task, same_text


def few_shot(
    examples: Sequence[Example], task: Task, shots: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """K examples per class for train and K others per class for dev, both shuffled.

    A function of (examples, shots, seed) alone. Each text is drawn at most once (its first
    occurrence counts), so no text is in both parts, whatever its case and spaces.

    Returns:
        (train, dev), each of `shots * len(task.strata)` examples.

    Raises:
        BadInput: `shots` is not positive, or a class has fewer than 2K different texts.
    """
    if not is_whole(shots, 1, 2**31):
        raise BadInput(f"shots {shown(shots)} is too small; expected at least 1 example per class")
    check_seeds(seed=seed)
    return _apart(lambda same: _drawn(examples, task, shots, seed, same))


def _drawn(
    examples: Iterable[Example], task: Task, shots: int, seed: int, same: Callable[[str], str]
) -> tuple[list[Example], list[Example]]:
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(same(example.text), example)
    random = Random(seed)
    train: list[Example] = []
    dev: list[Example] = []
    for name, members in zip(task.strata, _by_class(first.values(), task), strict=True):
        if len(members) < 2 * shots:
            advice = "take fewer shots" if len(members) > 1 else "give it more, or its rows no label"
            raise BadInput(
                f"task {task.name}, class {name!r}: {len(members)} examples with different "
                f"texts, {shots} shots for each of train and dev need {2 * shots}; {advice}"
            )
        drawn = random.sample(members, 2 * shots)
        train += drawn[:shots]
        dev += drawn[shots:]
    random.shuffle(train)
    random.shuffle(dev)
    return train, dev


def hold_out(
    examples: Sequence[Example], task: Task, seed: int, fraction: float = 0.1, most: int = 2000
) -> tuple[list[Example], list[Example]]:
    """Split a dev set off a full train set, stratified by class; both parts are shuffled.

    Every example lands in exactly one part. Only texts that occur once are candidates for dev, so
    no text is in both parts, whatever its case and spaces.

    Args:
        fraction: the share of every class that goes to dev, in (0, 1), before the cap.
        most: at most this many dev examples in all; every class keeps at least one.

    Returns:
        (train, dev).

    Raises:
        BadInput: an argument is out of range, or a class has too few examples.
    """
    check_seeds(seed=seed)
    if not is_number(fraction) or not 0 < fraction < 1:
        raise BadInput(f"dev fraction {shown(fraction)} is out of range; expected 0 < fraction < 1")
    if not is_whole(most, len(task.strata), 2**31):
        raise BadInput(
            f"dev size {shown(most)} is too small; expected at least one example for each of the "
            f"{len(task.strata)} classes of {task.name}"
        )
    classes = _by_class(examples, task)
    share = min(fraction, most / max(len(examples), 1))
    sizes = [max(1, int(share * len(members))) for members in classes]
    while sum(sizes) > most:  # only where rounding a tiny class up to one example went over
        sizes[sizes.index(max(sizes))] -= 1
    return _apart(lambda same: _held(examples, classes, task, sizes, seed, same))


def _held(
    examples: Sequence[Example],
    classes: Sequence[Sequence[Example]],
    task: Task,
    sizes: Sequence[int],
    seed: int,
    same: Callable[[str], str],
) -> tuple[list[Example], list[Example]]:
    copies = Counter(same(example.text) for example in examples)
    random = Random(seed)
    held: set[str] = set()
    dev: list[Example] = []
    for name, members, size in zip(task.strata, classes, sizes, strict=True):
        single = [example for example in members if copies[same(example.text)] == 1]
        if len(single) < size or len(members) <= size:
            raise BadInput(
                f"task {task.name}, class {name!r}: {len(members)} examples, of which "
                f"{len(single)} have a text that occurs once; {size} of these are needed for dev "
                "and at least one example for train; pass more data"
            )
        drawn = random.sample(single, size)
        dev += drawn
        held.update(same(example.text) for example in drawn)
    train = [example for example in examples if same(example.text) not in held]
    random.shuffle(train)
    random.shuffle(dev)
    return train, dev


def _apart(
    split: Callable[[Callable[[str], str]], tuple[list[Example], list[Example]]],
) -> tuple[list[Example], list[Example]]:
    """A split with no text on both sides, whatever its case and spaces.

    Texts are told apart exactly, and by what they have in common only where some meet in that split: so
    the split of a seed is what it was before case was looked at, in all other tasks.
    """
    train, dev = split(str)
    if {same_text(example.text) for example in train} & {same_text(example.text) for example in dev}:
        train, dev = split(same_text)
    return train, dev


def set_aside(
    examples: Sequence[Example], task: Task, share: float = 0.25, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Put a share of every class aside to report on, of a task that comes without such a split.

    Texts are drawn, not examples: all examples of a text, whatever its case and spaces, are on one side.
    Both sides keep the order of the examples.

    Args:
        share: of the texts of each class, in (0, 1); of two or more one at least is on either side.

    Returns:
        (train, reported).

    Raises:
        BadInput: an argument is out of range, or no class has two texts.
    """
    check_seeds(seed=seed)
    if not is_number(share) or not 0 < share < 1:
        raise BadInput(f"share {shown(share)} is out of range; expected 0 < share < 1")
    keys = [same_text(example.text) for example in examples]
    first: dict[str, Example] = {}
    for key, example in zip(keys, examples, strict=True):
        first.setdefault(key, example)
    texts: list[list[str]] = [[] for _ in task.strata]
    for key, example in first.items():
        texts[_stratum(example, task)].append(key)
    random = Random(seed)
    aside: set[str] = set()
    for members in texts:
        size = min(max(1, round(share * len(members))), len(members) - 1)
        aside.update(random.sample(members, max(size, 0)))
    if not aside:
        raise BadInput(
            f"task {task.name}: {len(first)} different texts, too few to put some aside to report on; "
            "expected at least two of a class, or a split of its own to report on"
        )
    sides = list(zip(keys, examples, strict=True))
    train = [example for key, example in sides if key not in aside]
    return train, [example for key, example in sides if key in aside]


def _by_class(examples: Iterable[Example], task: Task) -> list[list[Example]]:
    classes: list[list[Example]] = [[] for _ in task.strata]
    for example in examples:
        classes[_stratum(example, task)].append(example)
    return classes


def _stratum(example: Example, task: Task) -> int:
    return example.label if task.labels else 0
