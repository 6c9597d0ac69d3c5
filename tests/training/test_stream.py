"""Streamed training: the rows that a plain reading gives, shared without overlap, gone on from at the right row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forked import in_two_processes
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe, train, weights

from hf_sft import environment, job
from hf_sft.errors import DataError
from hf_sft.job import Job

ROWS, STEPS = 40, 14  # of 8 rows: the stream begins anew within the sixth


class Recorder:
    """A collator that notes the texts it is given, as token ids."""

    def __init__(self, collate: Any):
        self.collate, self.seen = collate, []

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        self.seen += [tuple(feature["input_ids"]) for feature in features]
        return dict(self.collate(features))


def prepare(models: Path, folder: Path, **training: Any) -> tuple[Job, Recorder]:
    for role, number in (("train", ROWS), ("validation", 8)):
        rows = [{"text": f"{row['text']} {index}", "label": row["label"]} for index, row in
                enumerate(make_data("bert", **{role: number})[role])]  # fmt: skip
        (models / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = make_recipe(
        "bert",
        models,
        folder,
        model={"config": NO_DROPOUT},
        dataset={
            "path": "json",
            "data_files": {role: str(models / f"{role}.jsonl") for role in ("train", "validation")},
            "splits": {"train": "train", "validation": "validation"},
            "labels": ["negative", "positive"],
            "streaming": True,
        },
        training={"max_steps": STEPS, "eval_steps": 4, "save_steps": 4, "logging_steps": 1, **training},
    )
    work = job.prepare(recipe, environment.prepare_environment(recipe))
    recorder = Recorder(work.collate)
    return replace(work, collate=recorder), recorder


def rows_and_weights(models: Path, folder: Path, batch: int) -> tuple[list[Any], dict[str, Any], list[Any]]:
    work, recorder = prepare(models, folder, per_device_train_batch_size=batch)
    found = train(work)
    return recorder.seen, weights(work), [entry["loss"] for entry in found.log if "loss" in entry]


def test_an_epoch_of_the_stream_is_every_row_once(models: Path, tmp_path: Path) -> None:
    seen, _, _ = rows_and_weights(models, tmp_path, 8)
    first, second = seen[:ROWS], seen[ROWS : 2 * ROWS]
    assert len(set(seen)) <= ROWS and sorted(first) == sorted(second) and first != second


def test_two_processes_share_the_stream_of_one(models: Path, tmp_path: Path) -> None:
    one, kept, losses = rows_and_weights(models, tmp_path / "one", 8)
    ranks = in_two_processes(rows_and_weights, models, tmp_path / "two", 4)
    wanted = STEPS * 8
    for step in range(STEPS):
        together = [row for seen, _, _ in ranks for row in seen[4 * step : 4 * step + 4]]
        assert sorted(together) == sorted(one[8 * step : 8 * step + 8])
    assert sum(len(seen[: STEPS * 4]) for seen, _, _ in ranks) == wanted
    for _, theirs, their_losses in ranks:
        assert largest_difference(kept, theirs) < 1e-5 and their_losses == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_stream_goes_on_at_the_row_where_it_stopped(stop: int, models: Path, tmp_path: Path) -> None:
    seen, kept, losses = rows_and_weights(models, tmp_path / "whole", 8)
    work, _ = prepare(models, tmp_path / "parts", per_device_train_batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        train(work, [StopAfter(stop)])
    work, recorder = prepare(models, tmp_path / "parts", per_device_train_batch_size=8)
    found = train(work)
    assert recorder.seen[-8:] == seen[-8:]
    assert largest_difference(kept, weights(work)) == 0.0
    assert [entry["loss"] for entry in found.log if "loss" in entry] == losses


@pytest.mark.parametrize("row", [{"text": "unlabelled", "label": None}, {"text": None, "label": "positive"}])
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_rows_without_a_label_or_a_text_are_refused_or_skipped_while_they_stream(
    on_bad_row: str, row: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    work, recorder = prepare(models, tmp_path, per_device_train_batch_size=8, max_steps=2)
    lines = (models / "train.jsonl").read_text().splitlines()
    lines[3] = json.dumps(row)
    (models / "train.jsonl").write_text("\n".join(lines) + "\n")
    work.inputs["train"].rows.settings = work.recipe.dataset.model_copy(update={"on_bad_row": on_bad_row})
    if on_bad_row == "error":
        with pytest.raises(DataError, match="in every row"):
            train(work)
    else:
        train(work)
        assert len(recorder.seen) >= 16
