"""The table of presets in docs/howto/compare.md is what the presets are."""

from __future__ import annotations

from typing import Any

from places import REPOSITORY

from pets.study.compare.presets import PRESETS

PAGE = REPOSITORY / "docs" / "howto" / "compare.md"
HEAD = "| preset | arms beside vanilla | PETs | shots | seeds | strengths | steps of a batch, rate |"


def row(name: str, options: dict[str, Any]) -> str:
    def code(values: Any) -> str:
        return ", ".join(f"`{value}`" for value in values)

    what = "ratio" if "ratios" in options else "weight"
    strengths = ", ".join(f"{value:g}" for value in options.get("ratios", options["weights"]))
    rate = f"{options['lr']:g}" if "lr" in options else "the PET's"
    shots = ", ".join(str(count or "all") for count in options["shots"])
    cells = [
        f"`{name}`",
        code(options["arms"]),
        ", ".join(options["pets"]),
        shots,
        str(len(options["seeds"])),
        f"{what} {strengths}",
        f"{options['steps']:,} of {options['batch_size']}, {rate}",
    ]
    return f"| {' | '.join(cells)} |"


def test_every_preset_has_its_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    wanted = "\n".join([HEAD, "| " + "--- | " * 7, *(row(*item) for item in PRESETS.items())])
    assert wanted.replace("--- | \n", "--- |\n") in text
