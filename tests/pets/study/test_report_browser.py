"""The report's page in headless Chromium: on a phone, a tablet and a desk, folded, opened, printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_runs import LARGE, SMALL, Truth, write_runs

from pets.study.report.writing import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = (390, 820, 1440)
BLUE = (0x00, 0x72, 0xB2)  # of the first arm in every picture
# The page itself holds no script: it is measured from around it, folded and then with all opened.
FRAMES = "".join(f'<iframe width="{width}" height="900" src="report.html"></iframe>' for width in WIDTHS)
AROUND = f"""<!DOCTYPE html><body style="margin:0">{FRAMES}
<pre id="found"></pre>
<script>addEventListener("load", () => {{
  const measured = page => {{
    const root = page.documentElement, right = box => box.getBoundingClientRect().right;
    const all = [...page.querySelectorAll("body *")].filter(box => !box.closest("table, svg, img"));
    const boxes = [...page.querySelectorAll(".scroll")].filter(box => box.checkVisibility());
    return {{
      page: root.scrollWidth, seen: root.clientWidth, height: page.body.getBoundingClientRect().height,
      right: Math.max(...all.map(right)),
      tables: boxes.map(box => [box.scrollWidth, box.clientWidth]),
      pictures: [...page.querySelectorAll("svg, img")].map(box => box.getBoundingClientRect().width),
      used: Math.max(...[...page.querySelectorAll(".top .drawing")].map(right)),
      text: parseFloat(page.defaultView.getComputedStyle(page.querySelector("p")).fontSize),
    }};
  }};
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, folded = measured(page);
    for (const part of page.querySelectorAll("details")) part.open = true;
    found.push([folded, measured(page)]);
  }}
  document.getElementById("found").textContent = JSON.stringify(found);
}})</script>"""


def made(folder: Path, truth: Truth) -> Path:
    write_runs(folder, truth)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("large"), LARGE)


def browse(page: Path, profile: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(BROWSER), *QUIET, f"--user-data-dir={profile}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def measure(folder: Path, profile: Path) -> list[list[dict[str, Any]]]:
    """For every width the page folded and opened."""
    around = folder / "around.html"
    around.write_text(AROUND, encoding="utf-8")
    shown = browse(around, profile, "--allow-file-access-from-files", "--dump-dom")
    (text,) = re.findall(r'<pre id="found">(.*)</pre>', shown)
    found: list[list[dict[str, Any]]] = json.loads(text)
    return found


def pixels(page: Path, folder: Path, width: int, height: int) -> np.ndarray:
    """The page as a picture [height, width, 3], 0 to 255; in a frame, as windows cannot be narrow."""
    from matplotlib.image import imread

    frame, picture = page.with_name("frame.html"), folder / "page.png"
    inside = f'<iframe style="border:0" width="{width}" height="{height}" src="{page.name}"></iframe>'
    frame.write_text(f'<!DOCTYPE html><body style="margin:0">{inside}', encoding="utf-8")
    size = (f"--window-size={max(width, 600)},{height}", "--force-device-scale-factor=1")
    browse(frame, folder / "profile", *size, f"--screenshot={picture}")
    return (imread(picture)[:, :width, :3] * 255).round().astype(int)


def check_fit(found: list[list[dict[str, Any]]]) -> None:
    """Nothing but the boxes of tables and pictures is wider than the screen."""
    for width, states in zip(WIDTHS, found, strict=True):
        for state in states:
            assert state["seen"] == width
            assert state["page"] <= width
            assert state["right"] <= width
            assert state["text"] >= 16
    phone, _, desk = found
    assert max(inside for inside, _ in phone[0]["tables"]) > 390  # the first table scrolls in its box
    (glance,) = desk[0]["tables"]
    assert glance[0] == glance[1]  # and needs not on a desk
    assert desk[0]["used"] > 1200  # the picture is right of it


def test_a_small_report_fits_every_screen_and_is_one_page(small: Path, tmp_path: Path) -> None:
    found = measure(small, tmp_path)
    check_fit(found)
    phone, _, desk = found
    assert desk[0]["height"] < 900
    assert phone[0]["height"] < 1800
    assert min(width for width in phone[1]["pictures"]) > 300
    assert (small / "report.html").stat().st_size < 0.6e6


def test_the_largest_is_two_screens_and_small_enough_to_send(large: Path, tmp_path: Path) -> None:
    found = measure(large, tmp_path)
    check_fit(found)
    folded, opened = found[2]
    assert folded["height"] < 2000
    assert opened["height"] > 4 * folded["height"]
    assert (large / "report.html").stat().st_size < 1.5e6
    assert len(list((large / "report-figures").iterdir())) <= 12


def test_a_table_that_is_wider_than_its_box_has_a_shade_at_its_edge(small: Path, tmp_path: Path) -> None:
    """On a phone the first table's right edge is darker than paper all the way down, on a desk not."""
    dark = {}
    for width in (390, 1440):
        shown = pixels(small / "report.html", tmp_path, width, 900).mean(axis=2)
        margin = 0.025 * width if width > 390 else 14.4
        edge = shown[:, round(width - margin) - 4 : round(width - margin) - 1].max(axis=1)
        dark[width] = int((edge < 240).sum())
    assert dark[390] > 100
    assert dark[1440] < 20


def test_pictures_are_seen_when_opened(small: Path, tmp_path: Path) -> None:
    text = (small / "report.html").read_text(encoding="utf-8")
    opened = small / "opened.html"
    opened.write_text(text.replace("<details ", "<details open "), encoding="utf-8")
    folded, all_ = (
        np.flatnonzero((np.abs(pixels(small / name, tmp_path, 1440, 5000) - BLUE).max(-1) < 8).any(1))
        for name in ("report.html", "opened.html")
    )
    assert 5 < len(folded) < 60  # brownian's interval, of the one picture at the top
    assert folded[-1] < 900
    assert len(all_) > 300  # in many pictures, down to those of the inside of the model
    assert all_[-1] - all_[0] > 2500


def test_it_prints_with_everything_unfolded(small: Path, tmp_path: Path) -> None:
    printed = {}
    for name in ("report", "without"):
        page = small / f"{name}.html"
        if name == "without":
            text = (small / "report.html").read_text(encoding="utf-8")
            page.write_text(re.sub(r"<main>.*</main>", "", text, flags=re.DOTALL), encoding="utf-8")
        out = tmp_path / f"{name}.pdf"
        browse(page, tmp_path / "p", "--no-pdf-header-footer", f"--print-to-pdf={out}")
        content = printed[name] = out.read_bytes()
        assert content.startswith(b"%PDF")
        boxes = set(re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content))
        assert {(round(float(w)), round(float(h))) for w, h in boxes} == {(595, 842)}  # A4
    pages = {name: len(re.findall(rb"/Type /Page\b", content)) for name, content in printed.items()}
    assert pages["without"] == 1
    assert pages["report"] > 4
