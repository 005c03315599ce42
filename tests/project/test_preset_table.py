"""The table of presets in docs/howto/compare.md is what the presets are."""

from __future__ import annotations

from typing import Any

from places import REPOSITORY

from pets.study.compare.presets import PRESETS

PAGE = REPOSITORY / "docs" / "howto" / "compare.md"
HEAD = "| preset | arms beside vanilla | on what, and how |"


def row(name: str, options: dict[str, Any]) -> str:
    arms = ", ".join(f"`{arm}`" for arm in options["arms"])
    shots = ", ".join(str(count or "all") for count in options["shots"])
    what = "ratio" if "ratios" in options else "weight"
    strengths = ", ".join(f"{value:g}" for value in options.get("ratios", options["weights"]))
    rate = f"{options['lr']:g}" if "lr" in options else "the PET's"
    told = (
        f"{shots} shots, {len(options['seeds'])} seeds; {', '.join(options['pets'])}; "
        f"{what} {strengths}; {options['steps']:,} steps of {options['batch_size']}, rate {rate}"
    )
    return f"| `{name}` | {arms} | {told} |"


def test_every_preset_has_its_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    wanted = "\n".join([HEAD, "| --- | --- | --- |", *(row(*item) for item in PRESETS.items())])
    assert wanted in text
