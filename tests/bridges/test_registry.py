"""Names of bridges: what is listed, found, refused, and what other packages can add."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import processes
import pytest
from torch import Tensor

import bridges
from bridges.registry import Registry

OPTIONS = {"likelihood": "marginal", "learn": ""}
"""What every Gaussian bridge takes, with its defaults."""


class Flat(bridges.GaussianBridge):
    """A constant mean.

    More of the docstring.
    """

    formula = "m(t) = 1"

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t**0, t * (1 - t)


def test_available_is_sorted_and_takes_wildcards() -> None:
    class Zigzag(Flat, name="zigzag-1"):
        pass

    class Alpha(Flat, name="a_zigzag"):
        pass

    names = bridges.available()
    assert names == sorted(names)
    assert {"brownian", "ou", "sde", "zigzag-1", "a_zigzag"} <= set(names)
    assert bridges.available("*zig*") == ["a_zigzag", "zigzag-1"]
    assert bridges.available("zig?ag-1") == ["zigzag-1"]
    assert bridges.available("nothing*") == []


def test_get_builds_the_class_with_its_parameters() -> None:
    bridge = bridges.get("ou", theta=2.0, sigma=0.5)
    assert type(bridge) is bridges.OUBridge
    assert (bridge.theta, bridge.sigma) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "brownain",
            r"unknown bridge 'brownain'; did you mean 'brownian'\? \(known: .*brownian.*ou.*\)",
        ),
        ("xyzzy-42", r"unknown bridge 'xyzzy-42' \(known: .*brownian.*ou.*\)"),
        ("", r"unknown bridge '' \(known: "),
    ],
)
def test_an_unknown_name_is_a_value_error_that_lists_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bridges.get(name)
    with pytest.raises(bridges.BadInput, match=message):
        bridges.info(name)


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        bridges.BadInput, match="'ou' has no parameter 'speed', 'zeta'; it takes theta, sigma"
    ):
        bridges.get("ou", zeta=1, speed=2, theta=1.0)


def test_a_name_taken_twice_names_both_classes() -> None:
    class First(Flat, name="taken"):
        pass

    with pytest.raises(
        bridges.BadInput, match=r"'taken' is taken by .*\.First; .*\.Second needs another name"
    ):

        class Second(Flat, name="taken"):
            pass

    assert type(bridges.get("taken")) is First


def test_the_same_class_again_is_a_clash_outside_a_notebook_and_none_inside() -> None:
    def define(module: str) -> type[Flat]:
        body = {"__module__": module, "__qualname__": "Cell"}
        return type("Cell", (Flat,), body, name=f"cell-{module.strip('_')}")

    define("some_module")
    with pytest.raises(bridges.BadInput, match=r"taken by some_module\.Cell; some_module\.Cell"):
        define("some_module")
    define("__main__")
    again = define("__main__")
    assert type(bridges.get("cell-main")) is again


@pytest.mark.parametrize("name", ["", "Big", "two words", "a:b", "a,b", "*"])
def test_a_bad_name_is_refused(name: str) -> None:
    before = bridges.available()
    with pytest.raises(bridges.BadInput, match="use lower-case letters, digits, '-' and '_'"):
        type("Bad", (Flat,), {}, name=name)
    assert bridges.available() == before


def test_a_class_without_a_name_is_not_registered() -> None:
    before = bridges.available()

    class Named(Flat, name="named"):
        pass

    class Unnamed(Named):
        pass

    assert bridges.available() == sorted([*before, "named"])
    assert Unnamed.registered_name is None
    assert type(bridges.get("named")) is Named


def test_info_is_a_frozen_record_of_what_is_known() -> None:
    record = bridges.info("ou")
    assert record.cls is bridges.OUBridge
    assert record.name == "ou"
    assert (
        record.description
        == "Ornstein-Uhlenbeck process, dX = -theta X dt + sigma dW, conditioned to end at v."
    )
    assert record.formula == bridges.OUBridge.formula
    assert dict(record.defaults) == {"theta": 1.0, "sigma": 1.0, **OPTIONS}
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        record.defaults["theta"] = 2.0  # type: ignore[index]


def test_info_describes_by_the_first_line_of_the_docstring() -> None:
    class Described(Flat, name="described"):
        """One line.

        Another.
        """

        def __init__(self, speed: float, scale: float = 2.0) -> None:
            super().__init__()

    record = bridges.info("described")
    assert record.description == "One line."
    assert dict(record.defaults) == {"speed": inspect.Parameter.empty, "scale": 2.0}


def test_a_bridge_without_a_constructor_takes_the_options_alone() -> None:
    class Bare(Flat, name="bare"):
        pass

    assert dict(bridges.info("bare").defaults) == OPTIONS
    assert bridges.get("bare").hyperparameters == OPTIONS
    assert repr(bridges.get("bare")) == "Bare(likelihood=marginal)"
    with pytest.raises(
        bridges.BadInput, match="'bare' has no parameter 'x'; it takes likelihood, learn"
    ):
        bridges.get("bare", x=1)


def test_a_constructor_that_hands_options_on_takes_them_too() -> None:
    class Open(Flat, name="open"):
        def __init__(self, speed: float = 2.0, **options: str) -> None:
            super().__init__(**options)
            self.speed = speed

    class Closed(Open, name="closed"):
        def __init__(self) -> None:
            super().__init__(speed=3.0)

    assert dict(bridges.info("open").defaults) == {"speed": 2.0, **OPTIONS}
    assert bridges.get("open", likelihood="marginal").hyperparameters == {"speed": 2.0, **OPTIONS}
    assert dict(bridges.info("closed").defaults) == {}
    with pytest.raises(bridges.BadInput, match="'closed' has no parameter 'speed'; it takes none"):
        bridges.get("closed", speed=1.0)


@pytest.mark.parametrize("name", bridges.available())
def test_every_bridge_is_described(name: str) -> None:
    record = bridges.info(name)
    assert len(record.description) > 10
    assert "\n" not in record.description + record.formula
    assert record.formula


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("brownian", "brownian", {"sigma": 1.0, **OPTIONS}),
        ("ou:theta=2,sigma=0.5", "ou", {"theta": 2.0, "sigma": 0.5, **OPTIONS}),
        ("ou:sigma=1e-3", "ou", {"theta": 1.0, "sigma": 1e-3, **OPTIONS}),
        ("ou: theta = 2 , sigma = 3", "ou", {"theta": 2.0, "sigma": 3.0, **OPTIONS}),
        (
            "ou:theta=2,likelihood=path,learn=sigma+theta",
            "ou",
            {"theta": 2.0, "sigma": 1.0, "likelihood": "path", "learn": "theta+sigma"},
        ),
        ("sde:target=ou", "sde", {"target": "ou", "steps": 24, "reads": "both"}),
        ("sde:target=ou:theta=2", "sde", {"target": "ou:theta=2", "steps": 24, "reads": "both"}),
        ("sde:reads=state", "sde", {"target": "brownian", "steps": 24, "reads": "state"}),
        ("sde:steps=30", "sde", {"target": "brownian", "steps": 30, "reads": "both"}),
        (
            "sde: steps = 30, target = ou:theta=2",
            "sde",
            {"target": "ou:theta=2", "steps": 30, "reads": "both"},
        ),
    ],
)
def test_parse_reads_a_name_and_values(text: str, name: str, parameters: dict[str, object]) -> None:
    """Each value as its parameter's default is: a number, a whole number or a text."""
    bridge = bridges.parse(text)
    assert bridge.registered_name == name
    assert bridge.hyperparameters == parameters
    assert [type(v) for v in bridge.hyperparameters.values()] == [type(v) for v in parameters.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ou:theta", r"bridge 'ou:theta': 'theta' is not key=number, as in ou:theta=2,sigma=1"),
        ("ou:theta=fast", r"'theta=fast' is not key=number"),
        ("ou:theta=", r"'theta=' is not key=number"),
        ("ou:theta=1,2", r"'2' is not key=number"),
        ("ou:speed=1", r"'ou' has no parameter 'speed'"),
        ("ou:theta=-1", r"theta=-1.0: expected a finite number above 0"),
        ("uo:theta=1", r"unknown bridge 'uo'"),
        ("sde:steps=many", r"'steps=many' is not key="),
        ("sde:steps=2.5", r"'steps=2.5' is not key="),
        ("sde:steps=0", r"steps=0: expected a whole number above 0"),
        ("sde:target", r"'target' is not key="),
        ("sde:target=uo", r"unknown bridge 'uo'"),
        ("sde:target=ou:theta=x", r"bridge 'ou:theta=x': 'theta=x' is not key="),
    ],
)
def test_parse_refuses_what_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(bridges.BadInput, match=message):
        bridges.parse(text)


@pytest.fixture(scope="module")
def plugged_in(tmp_path_factory: pytest.TempPathFactory) -> processes.Done:
    """A process beside a distribution that offers one good entry point among broken ones."""
    site = tmp_path_factory.mktemp("site")
    (site / "plugin_bridges.py").write_text(
        "import bridges\n"
        "class Plugged(bridges.GaussianBridge, name='plugged'):\n"
        "    def marginal(self, t):\n"
        "        return t, t * (1 - t)\n"
    )
    (site / "broken_bridges.py").write_text("raise RuntimeError('half installed')\n")
    (site / "leaving_bridges.py").write_text("import sys; sys.exit('no licence')\n")
    (site / "long_bridges.py").write_text("raise ValueError('x' * 1000000)\n")
    meta = site / "plugin_bridges-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-bridges\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[bridges]\n"
        "a-broken = broken_bridges\n"
        "b-leaving = leaving_bridges\n"
        "c-long = long_bridges\n"
        "plugged = plugin_bridges:Plugged\n"
        "z-gone = no_such_module\n"
    )
    program = (
        "import bridges; print(bridges.available()); print(bridges.get('plugged')); bridges.available()"
    )
    return processes.run(["-c", program], cwd=site, PYTHONPATH=str(site))


def test_an_installed_package_can_offer_a_bridge(plugged_in: processes.Done) -> None:
    assert plugged_in.returncode == 0, plugged_in.stderr
    names, bridge = plugged_in.stdout.splitlines()
    assert {"brownian", "ou", "plugged"} <= set(ast.literal_eval(names))
    assert bridge == "Plugged(likelihood=marginal)"


def test_a_broken_entry_point_warns_once_and_takes_nothing_down(
    plugged_in: processes.Done,
) -> None:
    assert plugged_in.returncode == 0, plugged_in.stderr
    for warning in (
        "entry point 'a-broken' of plugin-bridges (broken_bridges) failed to load: half installed",
        "'b-leaving' of plugin-bridges (leaving_bridges) failed to load: SystemExit no licence",
        "entry point 'c-long' of plugin-bridges (long_bridges) failed to load: xxxxxxx",
        "entry point 'z-gone' of plugin-bridges (no_such_module) failed to load: No module named",
    ):
        assert plugged_in.stderr.count(warning) == 1
    assert len(plugged_in.stderr) < 5000


def test_a_purpose_is_the_class_s_own() -> None:
    class Shape:
        purpose = ""

    shapes: Registry[Shape] = Registry("shape", group="none.such", home="json", example="round")
    round_ = type("Round", (Shape,), {"purpose": "Wheels."})
    shapes.register("round", round_)
    shapes.register("oval", type("Oval", (round_,), {}))
    assert (shapes.info("round").purpose, shapes.info("oval").purpose) == ("Wheels.", "")
