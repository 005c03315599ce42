"""The report's page in headless Chromium: as wide as a phone and a desk, as a picture, printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import Truth, write_runs

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
BLUE = (0x00, 0x72, 0xB2)  # of the first arm in every picture
# The page itself holds no script: it is measured from around it.
AROUND = """<!DOCTYPE html><body style="margin:0">
<iframe width="390" height="800" src="report.html"></iframe>
<iframe width="1200" height="800" src="report.html"></iframe>
<pre id="found"></pre>
<script>addEventListener("load", () => {
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const boxes = [...page.querySelectorAll(".scroll, .drawing, p, h2, nav")];
    found.push({
      page: root.scrollWidth, seen: root.clientWidth,
      right: Math.max(...boxes.map(box => box.getBoundingClientRect().right)),
      inside: Math.max(...boxes.map(box => box.scrollWidth)),
      pictures: [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width),
      text: parseFloat(page.defaultView.getComputedStyle(page.querySelector("p")).fontSize),
    });
  }
  document.getElementById("found").textContent = JSON.stringify(found);
})</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_runs(
        folder, Truth(settings=(("sst2", 16),), failed={("sst2", 16, "lora", "sde", 44): "x" * 300})
    )
    write_report(folder)
    return folder


def browse(page: Path, profile: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(BROWSER), *QUIET, f"--user-data-dir={profile}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_it_fits_a_phone_and_a_desk(folder: Path, tmp_path: Path) -> None:
    """Nothing but the boxes of tables and pictures is wider than the screen."""
    around = folder / "around.html"
    around.write_text(AROUND, encoding="utf-8")
    shown = browse(around, tmp_path, "--allow-file-access-from-files", "--dump-dom")
    (text,) = re.findall(r'<pre id="found">(.*)</pre>', shown)
    phone, desk = json.loads(text)
    assert phone["seen"] == 390
    assert desk["seen"] == 1200
    for found in (phone, desk):
        assert found["page"] <= found["seen"]
        assert found["right"] <= found["seen"]
        assert found["text"] >= 16
        assert len(found["pictures"]) > 8
        assert min(found["pictures"]) > 300
    assert phone["inside"] > 600  # the main table, which is scrolled in its box


def test_pictures_are_seen(folder: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "page.png"
    browse(folder / "report.html", tmp_path / "p", "--window-size=1200,9000", f"--screenshot={picture}")
    pixels = (imread(picture)[..., :3] * 255).round().astype(int)
    blue = np.abs(pixels - BLUE).max(-1) < 8
    assert pixels.shape[:2] == (9000, 1200)
    lines = np.flatnonzero(blue.any(1))
    assert len(lines) > 300  # in many pictures, from the first to the learning curves
    assert lines[-1] - lines[0] > 3000


def test_it_prints(folder: Path, tmp_path: Path) -> None:
    printed = tmp_path / "page.pdf"
    browse(folder / "report.html", tmp_path / "p", "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    boxes = set(re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content))
    assert {(round(float(w)), round(float(h))) for w, h in boxes} == {(595, 842)}  # A4
    assert len(re.findall(rb"/Type /Page\b", content)) > 5
