"""A Hub over loopback for the real client, and one finished run to push."""

from __future__ import annotations

import shutil
import time
import types
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import transformers
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http
from loopback_hub import LoopbackHub
from tiny import save_text_model, texts

from hf_sft import hub_access
from hf_sft.cli import run_command
from hf_sft.hub import connection

WRITER, READER, OTHER = ("hf_" + letter * 30 for letter in "wro")
RECIPE = """
task: text-classification
model: {{name: {model}}}
dataset: {{path: csv, data_files: {{train: rows/train.csv, validation: rows/validation.csv}}}}
training: {{num_train_epochs: 2, per_device_train_batch_size: 8, learning_rate: 0.01}}
run: {{precision: fp32}}
output_dir: runs/tiny
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """The libraries are online at it, with empty caches and a token that may write."""
    server = LoopbackHub()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    hub_access.hub_obstacle.cache_clear()
    monkeypatch.setattr(hub_access, "PATIENCE", 60.0)  # of a busy machine
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hf_api.api, "endpoint", server.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it keeps the address of the test before
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    yield server
    hub_access.hub_obstacle.cache_clear()
    _http.close_session()
    server.go_away()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited between tries, of which none pass."""
    found: list[float] = []
    monkeypatch.setattr(connection, "pause", found.append)
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    return found


def write_project(folder: Path, more: str = "") -> Path:
    """A recipe with its rows and its model."""
    save_text_model("bert", folder / "base")
    for role, number in (("train", 24), ("validation", 12)):
        (folder / "rows").mkdir(exist_ok=True)
        rows = texts(number, seed=number)
        rows.to_csv(folder / "rows" / f"{role}.csv", index=False)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=folder / "base") + more)
    return recipe


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run has finished, without a Hub."""
    folder = tmp_path_factory.mktemp("project")
    recipe = write_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        transformers.logging.disable_progress_bar()
        assert run_command([str(recipe)]) == 0
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of one's own: its folder."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "tiny"
