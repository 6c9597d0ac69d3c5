"""kill -9 at any moment: the same command again ends as if nothing had happened, and nobody ever reads half a file."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState
from forked import PATIENCE
from safetensors.numpy import load_file
from tiny_runs import NO_DROPOUT, make_data, make_recipe

from hf_sft import RunRecord, fine_tune
from hf_sft.recipe import Recipe
from hf_sft.training.checkpoints import COMPLETE

SAVED_OFTEN = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
POINTS, ALL_POINTS = 3, 20


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def start(recipe: Recipe, processes: int) -> list[Any]:
    """`fine_tune(recipe)` in that many ranks, forked from here."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_run, args=(recipe, rank, processes, port)) for rank in range(processes)]
    for rank in ranks:
        rank.start()
    return ranks


def _run(recipe: Recipe, rank: int, processes: int, port: int) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what the test's process knew of itself
    GradientState._reset_state()
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    fine_tune(recipe)
    os._exit(0)


def finish(ranks: Sequence[Any]) -> None:
    for rank in ranks:
        rank.join(PATIENCE)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert codes == [0] * len(codes)


def kill(ranks: Sequence[Any]) -> None:
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.join()


def assert_nothing_is_half_written(folder: Path) -> None:
    """What a reader may open at this moment is whole."""
    if (folder / "record.json").exists():
        json.loads((folder / "record.json").read_text())
        assert (folder / "model" / "README.md").is_file()
    if (folder / "model").exists():
        load_file(folder / "model" / "model.safetensors")
        json.loads((folder / "model" / "config.json").read_text())
    for mark in folder.glob(f"checkpoints/*/{COMPLETE}"):
        load_file(mark.parent / "model.safetensors")
        json.loads((mark.parent / "trainer_state.json").read_text())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("points", [POINTS, pytest.param(ALL_POINTS, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_anywhere_ends_as_one_that_was_not(
    points: int, family: str, processes: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = tmp_path_factory.mktemp("models")
    data = datasets.DatasetDict(make_data(family, train=44, validation=12, test=12))
    data.save_to_disk(str(tmp_path / "data"))

    def recipe(name: str) -> Recipe:
        changes: dict[str, Any] = {"training": {**SAVED_OFTEN, "per_device_train_batch_size": 8 // processes}}
        changes["dataset"] = {"path": str(tmp_path / "data")}
        changes["augment"] = [{"word_dropout": {"p": 0.2}}] if family == "bert" else ["horizontal_flip"]
        changes["tuning"] = {"ema": "auto"}
        if processes > 1:  # ranks draw their own dropout
            config = NO_DROPOUT
            changes["model"] = {"config": config}
        return make_recipe(family, models, tmp_path / name, **changes)

    whole = recipe("whole")
    started = time.perf_counter()
    finish(start(whole, processes))
    duration = time.perf_counter() - started
    expected = RunRecord.load(whole.output_dir)
    weights = load_file(Path(whole.output_dir) / "model" / "model.safetensors")
    generator = np.random.default_rng(0)
    disturbed = 0
    for point in range(points):
        again = recipe(f"killed-{point}")
        ranks = start(again, processes)
        time.sleep(duration * (point + generator.random()) / points)
        disturbed += any(rank.is_alive() for rank in ranks)
        kill(ranks)
        assert_nothing_is_half_written(Path(again.output_dir))
        finish(start(again, processes))
        record = RunRecord.load(again.output_dir)
        assert record.metrics == expected.metrics and record.history == expected.history
        found = load_file(Path(again.output_dir) / "model" / "model.safetensors")
        assert all(np.array_equal(found[name], weights[name]) for name in weights)
        assert not list(Path(again.output_dir).glob("checkpoints/*")) and not (tmp_path / "model.partial").exists()
    assert disturbed, "every run had finished before it was killed"
