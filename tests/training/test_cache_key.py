"""Laws of what is recorded: what another computation gave is never used, what the same one gave always is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cached_runs import HEAD, TOP, assert_same, job_of, outcome, planned
from datasets import Dataset
from tiny_runs import make_data, train

from hf_sft.training import activation_cache


def changed_text(rows: Dataset) -> Dataset:
    texts = list(rows["text"])
    return rows.remove_columns("text").add_column("text", ["film film film", *texts[1:]])


def brighter(rows: Dataset) -> Dataset:
    def first(row: dict[str, Any], index: int) -> dict[str, Any]:
        return {"image": row["image"].point(lambda value: min(255, value + 9)) if index == 0 else row["image"]}

    return rows.map(first, with_indices=True)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"processor": {"max_length": 9}}),
        ("bert", {"tuning": {**TOP, "cache_dtype": "float16"}}),
        ("bert", {"tuning": HEAD}),
        ("bert", {"model": {"config": {"layer_norm_eps": 1e-6}}}),
        ("bert", {"run": {"precision": "bf16"}}),
        ("resnet", {"processor": {"size": 40}}),
        ("resnet", {"processor": {"image_mean": [0.1, 0.2, 0.3]}}),
        ("timm_resnet", {"processor": {"image_mean": [0.1, 0.2, 0.3]}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_another_setting_computes_is_recorded_apart(
    family: str, changes: dict[str, Any], models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    train(job_of(family, models, tmp_path / "first", TOP))
    settings = {"tuning": TOP, **changes}
    assert planned(job_of(family, models, tmp_path / "other", **settings)).missing == 38
    assert planned(job_of(family, models, tmp_path / "again", TOP)).missing == 0
    assert sum(recorded) == 38


def test_what_other_frozen_weights_compute_is_recorded_apart(models: Path, tmp_path: Path) -> None:
    train(job_of("bert", models, tmp_path / "first", TOP))
    work = job_of("bert", models, tmp_path / "other", TOP)
    with torch.no_grad():
        work.built.model.bert.encoder.layer[0].output.dense.weight[0, 0] += 1e-3
    assert planned(work).missing == 38


def test_what_another_tokenizer_makes_of_a_text_is_recorded_apart(models: Path, tmp_path: Path) -> None:
    train(job_of("bert", models, tmp_path / "first", TOP))
    work = job_of("bert", models, tmp_path / "other", TOP)
    work.built.processor.add_tokens(["splendid"])
    assert planned(work).missing == 38


def test_how_a_tokenizer_was_last_used_changes_nothing(models: Path, tmp_path: Path) -> None:
    train(job_of("bert", models, tmp_path / "first", TOP))
    work = job_of("bert", models, tmp_path / "other", TOP)
    for settings in ({"truncation": False}, {"truncation": True, "max_length": 7, "padding": "max_length"}):
        work.built.processor(["good film"], **settings)
        assert planned(work).missing == 0


@pytest.mark.parametrize(("family", "change"), [("bert", changed_text), ("resnet", brighter)])
def test_a_row_that_changed_is_recorded_anew_and_it_alone(
    family: str, change: Any, models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    train(job_of(family, models, tmp_path / "first", TOP))
    data = make_data(family, train=28, validation=10)
    train(job_of(family, models, tmp_path / "other", TOP, data={**data, "train": change(data["train"])}))
    assert sum(recorded) == 39


def test_other_rates_seeds_labels_and_samples_record_nothing_anew(
    models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    data = make_data("bert", train=28, validation=10)
    train(job_of("bert", models, tmp_path / "first", TOP, data=data))
    assert sum(recorded) == 38
    swapped = {"train": data["train"].select(range(9, 28)), "validation": data["train"].select(range(9))}
    for number, changes in enumerate(
        (
            {"training": {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 4}},
            {"seed": 7},
            {"dataset": {"max_samples": {"train": 11}}},
            {"data": swapped},
            {"problem": "multi_label"},
            {"problem": "regression"},
        )
    ):
        train(job_of("bert", models, tmp_path / str(number), TOP, **{"data": None, **changes}))
    assert sum(recorded) == 38


def test_other_labels_of_a_timm_model_record_nothing_anew(models: Path, tmp_path: Path, recorded: list[int]) -> None:
    train(job_of("timm_resnet", models, tmp_path / "first", TOP))
    train(job_of("timm_resnet", models, tmp_path / "other", TOP, problem="multi_label"))
    assert sum(recorded) == 38


@pytest.mark.parametrize(
    ("family", "entry"), [("bert", {"word_dropout": {"p": 0.4}}), ("resnet", {"color_jitter": {"brightness": 0.5}})]
)
def test_views_are_recorded_so_often_and_validation_is_not_augmented(
    family: str, entry: dict[str, Any], models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    tuning, changes = {**TOP, "cache_views": 2}, {"augment": [entry]}
    first = outcome(job_of(family, models, tmp_path / "first", tuning, **changes))
    assert sum(recorded) == 2 * 28 + 10
    assert_same(outcome(job_of(family, models, tmp_path / "again", tuning, **changes)), first)
    assert sum(recorded) == 2 * 28 + 10
    for number, other in enumerate(({"augment": [entry, entry]}, {**changes, "seed": 1})):
        assert planned(job_of(family, models, tmp_path / str(number), tuning, **other)).missing >= 2 * 28 - 10
    plan = planned(job_of(family, models, tmp_path / "plain", {**TOP}))
    assert plan.missing >= 28 - 10 and len(plan.keys["validation"].keys) == 1


def test_a_view_is_drawn_by_seed_epoch_and_row(models: Path, tmp_path: Path) -> None:
    work = job_of("bert", models, tmp_path / "run", {**TOP, "cache_views": 3}, augment=[{"word_dropout": {"p": 0.4}}])
    with activation_cache.replaying(work, planned(work)) as replayed:
        rows: Any = replayed.inputs["train"].rows
        views = [[rows._view((epoch, int(row))) for row in rows.row_ids] for epoch in range(4)]
        assert {view for epoch in views for view in epoch} == {0, 1, 2} and len({tuple(epoch) for epoch in views}) == 4
        for epoch, drawn in enumerate(views):
            feature = rows[5 + 2 * epoch * 28]
            own = work.inputs["train"].rows[5 + 2 * drawn[5] * 28]
            assert feature["input_ids"] == own["input_ids"] and len(feature["recorded_0"]) == len(own["input_ids"])
