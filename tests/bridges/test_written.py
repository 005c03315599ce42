"""Parameters in one word: what is read back, and what commas, brackets and parentheses mean."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridges
from bridges.registry import Registry
from bridges.written import literal, number_like, pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a=1", [("a", "1")]),
        ("a=1,b=x", [("a", "1"), ("b", "x")]),
        (" a = 1 , b = 2 ", [("a", "1"), ("b", "2")]),
        ("a=[1,2],b=3", [("a", "[1,2]"), ("b", "3")]),
        ("a=(ou:theta=2,sigma=1),b=3", [("a", "(ou:theta=2,sigma=1)"), ("b", "3")]),
        ("a=[(x,y),z],b=[[1,2],3]", [("a", "[(x,y),z]"), ("b", "[[1,2],3]")]),
        ("a=b=c", [("a", "b=c")]),
        ("a,b=", [("a", None), ("b", "")]),
        (",,a=1,,", [("a", "1")]),
        ("a=[1,2", [("a", "[1,2")]),
    ],
)
def test_commas_in_brackets_separate_nothing(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert [(key, value) for key, value, _ in pairs(text)] == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-3", -3),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("none", None),
        ("all-linear", "all-linear"),
        ("[query,value]", ["query", "value"]),
        ("[1,2.5,x]", [1, 2.5, "x"]),
        ("[]", []),
        ("(a,b)", "a,b"),
        ("0.5.1", "0.5.1"),
    ],
)
def test_a_literal_is_what_it_looks_like(text: str, value: object) -> None:
    got = literal(text)
    assert got == value
    assert type(got) is type(value)


def test_nothing_is_no_literal() -> None:
    with pytest.raises(ValueError, match="no value"):
        literal("")


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("2", 1.0, 2.0),
        ("2", 1, 2),
        ("2", "x", "2"),
        ("[1,2]", 1.0, [1.0, 2.0]),
        ("[1,0.5]", 8, [1, 0.5]),
        ("true", False, True),
        ("2", None, 2),
        ("(ou:theta=2,sigma=1)", "brownian", "ou:theta=2,sigma=1"),
    ],
)
def test_a_value_is_read_as_its_default_is(text: str, default: object, value: object) -> None:
    got = number_like(text, default)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "default"), [("2.5", 1), ("x", 1.0), ("", 1.0), ("[1,x]", 1.0), ("[x]", 8)]
)
def test_what_is_no_such_number_is_an_error(text: str, default: object) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|could not convert"):
        number_like(text, default)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.floats(allow_nan=False)))
def test_numbers_come_back(parameters: dict[str, float]) -> None:
    text = ",".join(f"{key}={value!r}" for key, value in parameters.items())
    assert {key: literal(value or "") for key, value, _ in pairs(text)} == parameters


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=5))
def test_a_list_of_a_bridge_comes_back(values: list[float]) -> None:
    bridge = bridges.parse(f"ou:sigma=[{','.join(map(repr, values))}],learn=[theta]")
    assert bridge.hyperparameters["sigma"] == values
    assert bridge.hyperparameters["learn"] == "theta"


def test_a_list_in_the_place_of_a_whole_number_is_read() -> None:
    clock = bridges.parse("clock:clock=[0.2,0.6,2,1.2]").hyperparameters["clock"]
    assert clock == pytest.approx([0.2, 0.6, 2.0, 1.2])


def test_a_bridge_in_a_bridge_keeps_all_its_parameters() -> None:
    bridge = bridges.parse("random:target=(ou:theta=2,sigma=0.5),keep=0.8")
    assert bridge.hyperparameters == {"target": "ou:theta=2,sigma=0.5", "keep": 0.8}
    inside = bridge.process
    assert isinstance(inside, bridges.OUBridge)
    assert (inside.theta, inside.sigma) == (2.0, 0.5)
    again = bridges.get("random", **bridge.hyperparameters)
    assert again.hyperparameters == bridge.hyperparameters


class Shape:
    """Of things that have an area."""


shapes: Registry[Shape] = Registry("shape", "no.such.group", "math", "circle:r=2")


class Circle(Shape):
    """Round.

    More of it.
    """

    formula = "pi r^2"

    def __init__(self, r: float, tags: list[str] | None = None) -> None:
        self.r, self.tags = r, tags


def test_a_registry_is_for_any_kind_of_class() -> None:
    with shapes.restored():
        shapes.register("circle", Circle)
        assert shapes.available() == ["circle"]
        record = shapes.info("circle")
        assert (record.cls, record.description, record.formula) == (Circle, "Round.", "pi r^2")
        made = shapes.parse("circle:r=2,tags=[a,b]")
        assert isinstance(made, Circle)
        assert (made.r, made.tags) == (2.0, ["a", "b"])
        with pytest.raises(bridges.BadInput, match="shape 'circle' needs 'r'; it takes r, tags"):
            shapes.get("circle")
        with pytest.raises(bridges.BadInput, match="'r=' is not key=value, as in circle:r=2"):
            shapes.parse("circle:r=")
        for unknown in ("s=x", "s=[1,2]"):
            with pytest.raises(bridges.BadInput, match="no parameter 's'; it takes r, tags"):
                shapes.parse(f"circle:r=1,{unknown}")
    assert shapes.available() == []
    with pytest.raises(bridges.BadInput, match="unknown shape 'circle'"):
        shapes.get("circle", r=math.pi)


def test_a_registry_may_read_values_as_what_they_look_like() -> None:
    plain: Registry[Shape] = Registry("shape", "no.such.group", "math", "circle:r=2", by_default=False)
    plain.register("circle", Circle)
    assert plain.split("circle:r=2,tags=x") == ("circle", {"r": 2, "tags": "x"})
    with pytest.raises(bridges.BadInput, match="'r=' is not key=value"):
        plain.parse("circle:r=")


def test_a_home_that_fails_to_import_is_an_error_every_time() -> None:
    broken: Registry[Shape] = Registry("shape", "no.such.group", "no_such_home", "x")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_home"):
            broken.available()
