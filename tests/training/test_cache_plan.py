"""Laws of deciding: frozen layers are recorded where that saves work and can be, else it is said why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cached_runs import HEAD, TOP, job_of, planned
from tiny_runs import train

from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.training import cache_plan
from hf_sft.training.cache_plan import decide


def test_augmentation_without_views_computes_frozen_layers_anew(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augment = ["horizontal_flip"]
    assert decide(job_of("resnet", models, tmp_path / "auto", {**TOP, "cache": "auto"}, augment=augment)) is None
    assert "tuning.cache_views: 4" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="cache_views"):
        decide(job_of("resnet", models, tmp_path / "on", TOP, augment=augment))


@pytest.mark.parametrize("cache", ["auto", "on"])
def test_a_disk_without_room_is_known_before_anything_is_written(
    cache: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = job_of("bert", models, tmp_path / "run", {**HEAD, "cache": cache})
    monkeypatch.setattr(cache_plan.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 900})())
    if cache == "on":
        with pytest.raises(EnvironmentProblem, match=r"under 1 MB free[^$]*hf-sft cache list"):
            decide(work)
    else:
        assert decide(work) is None and "under 1 MB free" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_to_is_known_before(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache_plan.os, "access", lambda folder, mode: False)
    with pytest.raises(EnvironmentProblem, match="cannot be written to"):
        decide(job_of("bert", models, tmp_path / "on", HEAD))
    assert decide(job_of("bert", models, tmp_path / "auto", {**HEAD, "cache": "auto"})) is None
    assert "cannot be written to" in capsys.readouterr().out
    (tmp_path / "cache").write_text("a file in its place")
    monkeypatch.undo()
    with pytest.raises(EnvironmentProblem, match="cache_dir"):
        train(job_of("bert", models, tmp_path / "late", HEAD))


def test_a_disk_that_fills_up_while_recording_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(EnvironmentProblem, match="cache_dir"):
        train(job_of("bert", models, tmp_path / "run", TOP))


@pytest.mark.parametrize("tuning", [{"strategy": "full"}, {"strategy": "layer_decay", "layer_decay": 0.8}])
def test_nothing_is_tried_where_nothing_is_frozen(
    tuning: dict[str, Any], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("find_cut", "key_rows", "describe_computation", "probe_features"):
        monkeypatch.setattr(cache_plan, name, None)
    assert decide(job_of("bert", models, tmp_path / "run", {**tuning, "cache": "auto"})) is None
    with pytest.raises(RecipeError, match="every weight trains"):
        decide(job_of("bert", models, tmp_path / "on", tuning))


def test_rows_are_not_read_where_nothing_can_be_saved(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = {"num_train_epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(cache_plan, "key_rows", None)
        assert decide(job_of("bert", models, tmp_path / "run", {**HEAD, "cache": "auto"}, training=once)) is None
    assert "would not pay in 1 epoch" in capsys.readouterr().out
    train(job_of("bert", models, tmp_path / "other", HEAD))
    plan = planned(job_of("bert", models, tmp_path / "run", {**HEAD, "cache": "auto"}, training=once))
    assert plan.missing == plan.writes == 0 and "all there already" in str(plan)


@pytest.mark.parametrize(
    ("family", "words"),
    [("bert_tags", "read in windows"), ("segformer", "read with the image"), ("rt_detr", "read with the image")],
)
def test_tasks_whose_rows_cannot_be_replayed_say_so(
    family: str, words: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = job_of(family, models, tmp_path / "auto", {**HEAD, "cache": "auto"})
    assert decide(auto) is None and words in capsys.readouterr().out
    with pytest.raises(RecipeError, match=words):
        decide(job_of(family, models, tmp_path / "on", HEAD))


def test_views_of_a_task_whose_rows_cannot_be_replayed_are_named(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = {**HEAD, "cache": "auto", "cache_views": 2}
    assert decide(job_of("segformer", models, tmp_path, tuning, augment=["horizontal_flip"])) is None
    said = " ".join(capsys.readouterr().out.split())
    assert "read with the image are not recorded; without effect: tuning.cache_dir and tuning.cache_views" in said


def test_gradual_says_that_the_boundary_moves(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuning = {"strategy": "gradual", "gradual": {"every": 1, "unit": "steps"}}
    words = "moves the boundary as blocks are unfrozen"
    assert decide(job_of("bert", models, tmp_path / "auto", {**tuning, "cache": "auto"})) is None
    assert words in " ".join(capsys.readouterr().out.split())
    with pytest.raises(RecipeError, match=words):
        decide(job_of("bert", models, tmp_path / "on", tuning))


@pytest.mark.parametrize(
    ("training", "environment", "words"),
    [
        ({"torch_compile": True}, {}, "torch_compile"),
        ({"activation_checkpointing": True}, {}, "computes layers twice"),
        ({}, {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, "several machines"),
    ],
)
def test_what_does_not_go_with_it_is_said(
    training: dict[str, Any],
    environment: dict[str, str],
    words: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = job_of("bert", models, tmp_path / "run", {**HEAD, "cache": "auto"}, training=training)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert decide(work) is None and words in capsys.readouterr().out


def test_the_decision_is_one_line(models: Path, tmp_path: Path) -> None:
    plan = planned(job_of("bert", models, tmp_path / "run", TOP, training={"num_train_epochs": 10}))
    assert str(plan).startswith("frozen up to block.0: 38 rows cached (under 1 MB), about 1.")
    assert str(plan).endswith(" times less work over 10 epochs")
