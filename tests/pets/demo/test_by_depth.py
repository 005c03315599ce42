"""The demo's sentence on the layer before the last, in every case."""

from __future__ import annotations

import pytest

from pets.demo.by_depth import sentence
from pets.study.report.depth import Depth, Depths

FULL = {42: 0.60, 43: 0.62, 44: 0.58, 45: 0.60}


def layers(gap: float, *, jitter: float = 0.002, seeds: tuple[int, ...] = (42, 43, 44, 45)) -> Depths:
    """Probes of layer 2 of 3 that far from the whole model."""

    def depth(seed: int, more: float) -> Depth:
        probe = [0.25, 0.3, FULL[seed] + gap + more + jitter * (-1) ** seed, FULL[seed]]
        return Depth(FULL[seed], {"probe": probe, "exit": None, "head": None})

    arms = {"vanilla": 0.0, "brownian": 0.01}
    made = {arm: {seed: depth(seed, more) for seed in seeds} for arm, more in arms.items()}
    return Depths("docstrings", "accuracy", made)


@pytest.mark.parametrize(
    ("gap", "jitter", "said"),
    [
        (-0.1, 0.002, "a part of the answer comes with the last layer"),
        (0.1, 0.002, "+0.104]): the answer is there before the last layer."),
        (0.0, 0.02, "4 seeds do not tell the two apart, so the answer seems to be there"),
    ],
)
def test_it_says_whether_the_answer_is_there_before_the_last_layer(
    gap: float, jitter: float, said: str
) -> None:
    text = sentence(layers(gap, jitter=jitter))
    assert said in text
    assert "At layer 2 of 3" in text
    assert f"right in {0.6 + gap:.3f}, the whole model in 0.600" in text
    assert "Minus vanilla's the probe has +0.010 [+0.010, +0.010] with brownian." in text


def test_one_seed_tells_nothing() -> None:
    assert "one seed cannot tell" in sentence(layers(0.1, seeds=(42,)))
