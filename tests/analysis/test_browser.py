"""The page in a real browser: no errors, all sections there, tables sort, points tell their row."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from analysis_runs import finish_text

from hf_sft import inspect
from hf_sft.analysis import ANALYSES

BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
ASK = """
const told = [];
for (const section of document.querySelectorAll("details.section")) told.push(section.id);
const table = [...document.querySelectorAll(".table")].find(t => t.textContent.includes("rows that cost most"));
const column = [...table.querySelectorAll("th")].findIndex(h => h.textContent.trim() === "loss");
const values = () => [...table.querySelectorAll("tbody tr")].map(row => parseFloat(row.cells[column].dataset.v));
const button = table.querySelectorAll("th button")[column];
button.click(); const up = values(); button.click(); const down = values();
const sorted = order => (a, i, all) => !i || order * (all[i - 1] - a) <= 0;
told.push(up.every(sorted(1)) && down.every(sorted(-1)) ? "sorts" : "does not sort");
const point = document.querySelector(".cloud circle");
point.dispatchEvent(new MouseEvent("click", {bubbles: true}));
told.push(document.querySelector(".told").textContent.startsWith("row ") ? "tells" : "is silent");
told.push(document.documentElement.scrollWidth <= window.innerWidth ? "fits" : "is too wide");
document.title = "told: " + told.join(" ");
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_works_in_a_browser(width: int, tmp_path: Path) -> None:
    run = Path(finish_text(tmp_path).output_dir)
    inspect(run, rows=30)
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    plain = _open(run / "report" / "index.html", width, tmp_path)
    assert "CONSOLE" not in plain.stderr
    asking = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it lets no script in but its own
    copy = tmp_path / "asking.html"
    copy.write_text(asking.replace("</body>", f"<script>{ASK}</script></body>"), encoding="utf-8")
    found = _open(copy, width, tmp_path)
    assert "CONSOLE" not in found.stderr
    (title,) = re.findall(r"<title>told: (.*?)</title>", html.unescape(found.stdout))
    assert title.split()[: len(ANALYSES)] == list(ANALYSES)
    assert title.endswith("sorts tells fits")


def _open(page: Path, width: int, folder: Path) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'browser'}", f"--window-size={width},900", "--virtual-time-budget=3000"]
    return subprocess.run([BROWSER, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
