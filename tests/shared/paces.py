"""The pace of a comparison, in numbers that can be reckoned with by hand."""

from __future__ import annotations

from pets.study.compare.plan import Pace, TaskPace

PACE = Pace(
    setup=1.0,
    steps={
        ("lora", "vanilla"): 2.0,
        ("lora", "brownian"): 3.0,
        ("lora", "brownian@random-map"): 5.0,
    },
    tasks={"sst2": TaskPace(2.0, 0.5, {4: 8}, 10), "cola": TaskPace(4.0, 0.25, {4: 20}, 100)},
    fits=100.0,
    after=7.0,
)
