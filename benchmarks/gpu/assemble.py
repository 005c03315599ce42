"""The result file, made of the rows that are there."""

from __future__ import annotations

from typing import Any

from benchmarks.environment import without_path
from benchmarks.gpu.added import adds, state_gradients
from benchmarks.gpu.aims import aims
from benchmarks.gpu.plan import PARTS
from benchmarks.gpu.rows import Row

NOT_RUN = "not asked for, or not begun"


def record(rows: list[Row], *, label: str = "", commit: str = "") -> dict[str, Any]:
    """What `benchmarks.readme` renders, and a reader reads.

    Args:
        label, commit: in the place of what the command was given.

    ``wrong`` counts what is wrong: results, costs, parts that ended by themselves or were stopped, and
    what a sanitizer found. ``finished`` says that every part of the plan ended as it should;
    ``skipped`` what there is no number of, and why.
    """
    head = _last(rows, "command")
    environment = _last(rows, "environment")
    ends = {row["part"]: row for row in rows if row["kind"] == "end"}
    parts = [_part(part.name, ends.get(part.name)) for part in PARTS]
    made: dict[str, Any] = {
        "gpu": head.get("device", "cpu"),
        "label": label or head.get("label", ""),
        "device": head.get("device", "cpu"),
        "environment": {
            "command": _lines(rows),
            "commit": commit or head.get("commit"),
            **environment.get("environment", UNKNOWN),
        },
        "clocks": environment.get("clocks"),
        "clocks_after": _last(rows, "clocks after").get("clocks"),
        "quick": head.get("quick", False),
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "parts": parts,
        "finished": all(part["status"] == "done" for part in parts),
        "skipped": _skipped(rows, parts),
        "ceilings": {
            "bandwidth": _of(rows, "bandwidth"),
            "products": _of(rows, "products"),
        },
        "check": _check(rows, parts),
        "training": _training(rows),
        "pooling": _all(rows, "pooling"),
        "times": _all(rows, "times"),
        "sanitizer": _all(rows, "sanitizer"),
    }
    made["aims"] = aims(made)
    made["wrong"] = _wrong(made, rows)
    return made


UNKNOWN: dict[str, Any] = {
    "cpu": "unknown",
    "threads": 0,
    "gpu": None,
    "system": "unknown",
    "versions": {},
}
"""Where the part that looks at the machine did not end."""


def _lines(rows: list[Row]) -> str | None:
    """Of each command of which a part is left, and of the last, as a shell runs them in turn.

    Without a machine's paths, whatever wrote the rows.
    """
    said: dict[str, None] = {}  # in their order
    for k, row in enumerate(rows):
        of_none = k + 1 < len(rows) and rows[k + 1]["kind"] == "command"
        if row["kind"] == "command" and not of_none:
            said[" ".join(without_path(word) for word in row["line"].split(" "))] = None
    return " && ".join(said) or None


def _plain(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("part", "kind", "at")}


def _all(rows: list[Row], kind: str) -> list[Row]:
    return [{"part": row["part"], **_plain(row)} for row in rows if row["kind"] == kind]


def _last(rows: list[Row], kind: str) -> Row:
    found = [row for row in rows if row["kind"] == kind]
    return _plain(found[-1]) if found else {}


def _of(rows: list[Row], kind: str) -> Row | None:
    return _last(rows, kind) or None


def _part(name: str, end: Row | None) -> dict[str, Any]:
    if end is None:
        return {"part": name, "status": "skipped", "reason": NOT_RUN, "seconds": 0.0}
    return {"part": name, **{key: end[key] for key in ("status", "reason", "seconds")}}


def _skipped(rows: list[Row], parts: list[dict[str, Any]]) -> list[dict[str, str]]:
    whole = [{"part": p["part"], "reason": p["reason"]} for p in parts if p["status"] != "done"]
    inner = [
        {"part": f"{row['part']}, {row['what']}", "reason": row["reason"]}
        for row in rows
        if row["kind"] in ("skipped", "failed")
    ]
    sanitizers = [
        {"part": row["part"], "reason": row["reason"]}
        for row in rows
        if row["kind"] == "sanitizer" and row["errors"] is None
    ]
    return whole + inner + sanitizers


def _check(rows: list[Row], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """``wrong`` is None where some comparison was not made and none was wrong: that is not right."""
    made = _all(rows, "check")
    wrong = sum(row["ok"] is False for row in made)
    done = {part["part"] for part in parts if part["status"] == "done"}
    return {"wrong": wrong if wrong or {"odd", "large"} <= done else None, "rows": made}


def _training(rows: list[Row]) -> list[dict[str, Any]]:
    found = []
    for workload in _all(rows, "workload"):
        name = workload["workload"]
        errors = [row for row in _all(rows, "error") if row["workload"] == name]
        arms = {row["arm"]: row for row in _all(rows, "training") if row["workload"] == name}
        vanilla = arms.get("vanilla")
        found.append(
            {
                **workload,
                "state_gradients_mebibytes": round(state_gradients(workload["sizes"]), 3),
                "errors": {row["arm"]: row for row in errors},
                "alone": {row["arm"]: row for row in _all(rows, "alone") if row["workload"] == name},
                "arms": {
                    arm: {**row, "adds": adds(row, vanilla) if vanilla else None}
                    for arm, row in arms.items()
                },
            }
        )
    return found


def _wrong(made: dict[str, Any], rows: list[Row]) -> list[str]:
    said = [f"{p['part']}: {p['reason']}" for p in made["parts"] if p["status"] in ("failed", "stopped")]
    said += [
        f"{row['operation']}, {row['shape']}, {row['backend']}, {row['states']} states: {row['reason']}"
        for row in made["check"]["rows"]
        if row["ok"] is False
    ]
    said += [
        f"{work['workload']}, {name}: {row['reason']}"
        for work in made["training"]
        for name, row in work["errors"].items()
        if not row["ok"]
    ]
    said += [
        f"{group['operation']}, {group['shape']}, {name}: {arm['reason']}"
        for group in made["times"]
        for name, arm in group["arms"].items()
        if arm["status"] == "wrong"
    ]
    said += [f"{row['part']}, {row['what']}: {row['reason']}" for row in rows if row["kind"] == "failed"]
    said += [f"{row['tool']}: {row['errors']} errors" for row in made["sanitizer"] if row["errors"]]
    return said
