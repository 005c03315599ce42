"""What is said of bad input: one printable line of bounded length, whatever it quotes."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from tiny import tiny_bert

import bridges
import pets
from bridges import BadInput, FitSettings, RunningCost
from bridges.errors import check_counts, check_flags, check_seeds, listed, one_line, shown, unknown
from pets import methods, regularizers, tasks
from pets.tasks import splits
from pets.tasks.base import Example
from pets.tuning.settings import TuneSettings

HUGE = "x" * 1_000_000
DIGITS = 10**5000  # more than Python writes
MOST = 1500


def test_a_message_is_one_printable_line() -> None:
    error = BadInput("first\n  second \x1b[31m\u2028third \udcff")
    assert str(error) == r"first second \x1b[31m third \udcff"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_long_message_keeps_its_start_and_its_end() -> None:
    message = str(BadInput(f"{HUGE!r} is wrong: {'do this':>2000}"))
    assert len(message) == MOST
    assert message.startswith("'xxx")
    assert message.endswith("do this")
    assert "characters] ..." in message


@pytest.mark.parametrize("text", ["", "a", "a" * 100, "\x00" * 5000, "\n" * 5000])
def test_a_line_is_never_longer_than_asked_for(text: str) -> None:
    for most in (100, 101, 5000):
        assert len(one_line(text, most)) <= most


def test_a_value_is_shown_whole_where_it_is_short() -> None:
    for value in ("text", "it's", "\n", 12, 2.5, None, True, [1, "a"], {"a": 1}, 10**30):
        assert shown(value) == repr(value)


def test_a_value_is_cut_where_it_is_long_or_deep() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (HUGE, HUGE.encode(), [HUGE] * 100, deep, {HUGE: HUGE}, DIGITS, [DIGITS], {1: DIGITS}):
        assert len(shown(value)) <= 130
    assert shown(DIGITS) == "a number of 16610 bits"
    assert listed(list(range(100)), 3) == "0, 1, 2 and 97 more"
    assert listed(["a", "b"]) == "a, b"


def test_a_name_that_is_unknown_may_be_of_any_size_and_type() -> None:
    for name in (HUGE, DIGITS, None, [HUGE]):
        assert len(str(unknown("bridge", name, {"ou"}))) < 300


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3", None, math.nan, 2**31, 10**30])
def test_a_count_is_a_whole_number_of_31_bits_above_0(value: object) -> None:
    with pytest.raises(BadInput, match=r"steps=.*: expected a whole number above 0, at most 2147483647"):
        check_counts(steps=value)


@pytest.mark.parametrize("value", [-1, True, 2.0, "3", None, 2**64, 10**30])
def test_a_seed_is_a_whole_number_of_64_bits(value: object) -> None:
    with pytest.raises(
        BadInput, match=r"seed=.*: expected a whole number from 0 to 18446744073709551615"
    ):
        check_seeds(seed=value)
    check_seeds(seed=2**64 - 1)


def test_a_flag_is_no_number() -> None:
    check_flags(a=True, b=False)
    with pytest.raises(BadInput, match="a=1: expected True or False"):
        check_flags(a=1)


NEVER_RIGHT: tuple[Any, ...] = (
    math.nan, math.inf, -1, -(10**30), 10**30, DIGITS, True, 1e200,
    "x", b"x", HUGE, [[]], {"a": 1}, object(),
)  # fmt: skip
"""No number, count, seed, share or name is any of these."""
EXAMPLES = [Example(str(i), i % 2) for i in range(40)]
SST2 = tasks.get("sst2")


def _settings(kind: Any, *names: str) -> dict[str, Any]:
    return {f"{kind.__name__}.{name}": lambda v, name=name: kind(**{name: v}) for name in names}


def _parameters() -> dict[str, Any]:
    return {
        f"{bridge}.{name}": lambda v, bridge=bridge, name=name: bridges.get(bridge, **{name: v})
        for bridge in bridges.available()
        for name in bridges.info(bridge).defaults
    }


ARGUMENTS: dict[str, Any] = {
    **_settings(FitSettings, "max_steps", "batch_size", "max_length", "learning_rate", "warmup"),
    **_settings(FitSettings, "mask_share", "held_out", "eval_every", "patience", "seed"),
    **_settings(FitSettings, "updates", "dtype"),
    **_settings(TuneSettings, "pet", "regularizer", "shots", "seed", "restart", "max_steps"),
    **_settings(TuneSettings, "batch_size", "learning_rate", "weight_decay", "eval_every", "max_length"),
    **_parameters(),
    "get": bridges.get,
    "info": bridges.info,
    "parse": bridges.parse,
    "for_model.bridge": lambda v: RunningCost.for_model(tiny_bert(), v),
    "for_model.latent_dim": lambda v: RunningCost.for_model(tiny_bert(), latent_dim=v),
    "for_model.seed": lambda v: RunningCost.for_model(tiny_bert(), seed=v),
    "for_model.widths": lambda v: RunningCost.for_model(tiny_bert(), widths=v),
    "for_model.widths[0]": lambda v: RunningCost.for_model(tiny_bert(), widths=[v, 8]),
    "for_model.widths[1]": lambda v: RunningCost.for_model(tiny_bert(), widths=[8, v]),
    "pets.get": pets.get,
    "lora.r": lambda v: pets.get("lora", r=v),
    "lora.lora_alpha": lambda v: pets.get("lora", lora_alpha=v),
    "lora.lora_dropout": lambda v: pets.get("lora", lora_dropout=v),
    "adapter.r": lambda v: pets.get("adapter", r=v),
    "adapter.dropout": lambda v: pets.get("adapter", dropout=v),
    "adapter.activation": lambda v: pets.get("adapter", activation=v),
    "prefix.num_virtual_tokens": lambda v: pets.get("prefix", num_virtual_tokens=v),
    "prompt.num_virtual_tokens": lambda v: pets.get("prompt", num_virtual_tokens=v),
    "learning_rate": methods.learning_rate,
    "task": tasks.get,
    "with_words": SST2.with_words,
    "few_shot.shots": lambda v: splits.few_shot(EXAMPLES, SST2, v, 0),
    "few_shot.seed": lambda v: splits.few_shot(EXAMPLES, SST2, 2, v),
    "hold_out.seed": lambda v: splits.hold_out(EXAMPLES, SST2, v),
    "hold_out.fraction": lambda v: splits.hold_out(EXAMPLES, SST2, 0, fraction=v),
    "hold_out.most": lambda v: splits.hold_out(EXAMPLES, SST2, 0, most=v),
    "regularizer": lambda v: regularizers.get(v, weight=0.1),
    "strengths": lambda v: regularizers.strengths("r-drop", v),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_what_no_argument_can_be_is_refused_in_a_line(argument: str) -> None:
    for value in NEVER_RIGHT:
        with pytest.raises(BadInput) as caught:
            ARGUMENTS[argument](value)
        assert len(str(caught.value)) <= MOST


@pytest.mark.parametrize("text", ["sde:target=" * 500 + "ou", "student:base=" * 9 + "ou"])
def test_bridges_nested_in_bridges_have_an_end(text: str) -> None:
    with pytest.raises(BadInput, match="expected"):
        bridges.parse(text)


def test_a_bridge_needs_its_required_parameters() -> None:
    class Needy(bridges.GaussianBridge, name="needy"):
        def __init__(self, speed: float, **options: Any) -> None:
            super().__init__(**options)
            self.speed = speed

        def marginal(self, t: Any) -> Any:
            return t, t * (1 - t)

    with pytest.raises(
        BadInput, match="bridge 'needy' needs 'speed'; it takes speed, likelihood, learn"
    ):
        bridges.get("needy")


@pytest.mark.parametrize("sigma", [1e-13, 1e13, 1e200, 1e-200, 10**30])
def test_a_scale_has_a_square(sigma: float) -> None:
    with pytest.raises(BadInput, match=r"sigma=.*: expected a number from 1e-12 to 1e\+12"):
        bridges.get("brownian", sigma=sigma)
    assert bridges.get("ou", theta=1e-160).theta == 1e-160
