"""The architecture: which way imports go, and that none goes in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import REPOSITORY

FLOORS = ("kernels", "bridges", "pets")
"""From the ground up: each imports itself and what is below it."""
ROOMS = {
    "bridges": ("storage", "latent", "processes", "model", "fitting", "cost", "testing"),
    "pets": (
        "methods",
        "tasks",
        "regularizers",
        "plug",
        "tuning",
        "anytime",
        "inside",
        "study",
        "demo",
        "commands",
    ),
}
"""In their order: each imports from itself, from earlier ones, and from the files beside them."""
BESIDE_ALL = {"bridges": ("__init__",), "pets": ("__init__", "cli")}
"""Files that gather the whole floor, which nothing in its rooms imports."""


def modules() -> dict[str, Path]:
    """Every module of the three floors, by name."""
    paths = [path for floor in FLOORS for path in (REPOSITORY / floor).rglob("*.py")]
    return {_name(path): path for path in paths}


def _name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = modules()


def imports(module: str) -> set[str]:
    """What a module imports of the three floors, inside functions and for type checkers too."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for name in _named(node)} - {module}


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        candidates = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports here are absolute"
        each = [f"{node.module}.{alias.name}" for alias in node.names]
        candidates = [name if name in MODULES else str(node.module) for name in each]
    else:
        return
    yield from (name for name in candidates if name in MODULES)


GRAPH = {module: imports(module) for module in MODULES}


def floor(module: str) -> int:
    return FLOORS.index(module.partition(".")[0])


def test_the_door_beside_the_floors_opens_before_any_of_them() -> None:
    """bridge_pets.py says whose packages these are; only then may anything of them be imported."""
    tree = ast.parse((REPOSITORY / "bridge_pets.py").read_text(encoding="utf-8"))
    assert [name for node in tree.body for name in _named(node)] == []
    assert {name for node in ast.walk(tree) for name in _named(node)} == {"pets.cli"}


def test_every_floor_is_there() -> None:
    for name in FLOORS:
        assert sum(module.startswith(f"{name}.") for module in MODULES) > 10


def test_imports_go_down() -> None:
    up = [(a, b) for a, used in GRAPH.items() for b in used if floor(b) > floor(a)]
    assert not up


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_from_earlier_rooms(name: str) -> None:
    order = ROOMS[name]
    rooms = {path.name for path in (REPOSITORY / name).iterdir() if any(path.glob("*.py"))}
    assert rooms == set(order), "a room has no place in the order above"

    def place(module: str) -> int | None:
        parts = module.split(".")
        return (
            order.index(parts[1]) if parts[0] == name and len(parts) > 1 and parts[1] in order else None
        )

    back = [
        (a, b)
        for a, used in GRAPH.items()
        for b in used
        if (here := place(a)) is not None and (there := place(b)) is not None and there > here
    ]
    assert not back


@pytest.mark.parametrize("name", ROOMS)
def test_no_room_imports_what_gathers_the_floor(name: str) -> None:
    whole = {name if file == "__init__" else f"{name}.{file}" for file in BESIDE_ALL[name]}
    below = {a: used & whole for a, used in GRAPH.items() if a.startswith(f"{name}.")}
    assert not {a: used for a, used in below.items() if used and a not in whole}


def test_no_imports_go_in_a_circle() -> None:
    assert not circles(GRAPH)


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    reach = {name: reached(name) for name in graph}
    loops = {
        tuple(sorted({name, *(o for o in reach[name] if name in reach[o])}))
        for name in graph
        if name in reach[name]
    }
    return [list(loop) for loop in sorted(loops)]
