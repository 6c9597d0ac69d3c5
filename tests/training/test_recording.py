"""What inspect.record keeps is what a plain loop sees, on any number of processes, interrupted or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
from tiny_runs import (
    NO_DROPOUT,
    StopAfter,
    gradients,
    largest_difference,
    logged,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from transformers import TrainerCallback

from hf_sft.errors import RecipeError
from hf_sft.evaluation import model_inputs
from hf_sft.job import Job
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory
from hf_sft.training import row_course
from hf_sft.training.block_norms import block_norms
from hf_sft.training.recording import STATE
from hf_sft.training.row_course import RowCourse
from hf_sft.training.trainer import refuse_sharded

RECORD = {"record": True}
EACH_STEP = {"logging_steps": 1}
EACH_TWO_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}


def job_of(family: str, models: Path, folder: Path, *, double: bool = True, rows: int = 44, **changes: Any) -> Job:
    """A job that records; without dropout unless the model's config is given. Batches of 8."""
    problem = changes.pop("problem", "single_label")
    data = changes.pop("data", None) or make_data(family, problem, train=rows, validation=8)
    changes = {"inspect": RECORD, "model": {"config": NO_DROPOUT if family.startswith("bert") else {}}, **changes}
    return prepare(make_recipe(family, models, folder, **changes), data, double=double)


def found_in(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, Any]]:
    """Norms, rows (None where none were recorded), and what was recorded."""
    run = RunDirectory(folder)
    rows = run.recorded("rows")
    about = json.loads(run.recorded("about").with_suffix(".json").read_text(encoding="utf-8"))
    return pd.read_parquet(run.recorded("gradient_norms")), pd.read_parquet(rows) if rows.is_file() else None, about


def by_epoch(rows: pd.DataFrame, column: str = "probability") -> np.ndarray:
    """[rows, epochs]"""
    return np.array([[np.nan if value is None else float(value) for value in row] for row in rows[column]])


@pytest.mark.parametrize(("family", "most"), [("bert", 0.0), ("bert", 1e-3), ("vit", 1.0)])
def test_the_norms_of_the_first_step_are_those_of_a_plain_loop(family, most, models, tmp_path):
    """Before clipping, whatever max_grad_norm."""
    work = job_of(family, models, tmp_path, training={**EACH_STEP, "max_grad_norm": most, "max_steps": 1})
    model, rows = work.built.model, work.inputs["train"]
    start = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[list[int]] = []
    inner = rows.rows.__class__.__getitems__

    def note(self: Any, indices: Any) -> Any:
        if self is rows.rows:
            seen.append([index % len(self) for index in indices])
        return inner(self, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows.rows.__class__, "__getitems__", note)
        train(work)
    model.load_state_dict(start)
    model.train()
    batch = work.collate(inner(rows.rows, seen[0]))
    logits = model(
        **model_inputs(
            {key: value for key, value in batch.items() if key not in ("labels", "weight")}, torch.device("cpu"), False
        )
    ).logits
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
    expected = {
        block.name: float(
            np.sqrt(sum((gradients(model)[name] ** 2).sum() for name in block.parameters if name in gradients(model)))
        )
        for block in find_blocks(model)
    }
    norms, _, _ = found_in(tmp_path)
    assert len(norms) == 1 and norms["step"].tolist() == [1]
    for name, value in expected.items():
        assert norms[name][0] == pytest.approx(value, rel=1e-6), name


def test_the_norms_of_all_blocks_make_up_the_norm_that_is_logged(models, tmp_path):
    work = job_of("bert", models, tmp_path, training={"logging_steps": 2})
    found = train(work)
    norms, _, about = found_in(tmp_path)
    whole = np.sqrt((norms.drop(columns=["step", "epoch"]) ** 2).sum(axis=1))
    np.testing.assert_allclose(whole, logged(found, "grad_norm")[:, 0], rtol=1e-6)
    assert norms["step"].tolist() == logged(found, "step")[:, 0].tolist() == [2, 4, 6, 8, 10, 12]
    assert sum(about["parameters"].values()) == work.parameters["trainable"]


def recorded(models: Path, folder: Path, training: dict[str, Any]) -> list[Any]:
    train(job_of("bert", models, folder, training={**EACH_STEP, **training}, rows=38))
    norms, rows, _ = found_in(folder)
    assert rows is not None
    return [
        norms.drop(columns="epoch").to_numpy(float),
        rows["row_id"].tolist(),
        by_epoch(rows),
        by_epoch(rows, "correct"),
    ]


def test_one_big_batch_accumulation_and_two_processes_record_the_same(models, tmp_path):
    """38 rows: the last step is ragged, and of two processes one takes rows that fill its batch and do not count."""
    whole = recorded(models, tmp_path / "whole", {"per_device_train_batch_size": 16})
    parts = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    shared = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    others = [recorded(models, tmp_path / "parts", parts)]
    others += in_two_processes(recorded, models, tmp_path / "two", shared)
    assert not np.isnan(whole[2]).any() and whole[2].shape == (38, 2)
    for norms, row_ids, probability, correct in others:
        np.testing.assert_allclose(norms, whole[0], rtol=1e-6)
        assert row_ids == whole[1]
        np.testing.assert_allclose(probability, whole[2], rtol=1e-5)
        np.testing.assert_array_equal(correct, whole[3])


def test_frozen_blocks_have_no_norm_and_those_that_join_have_one_from_then_on(models, tmp_path):
    train(job_of("bert", models, tmp_path / "top", tuning={"strategy": "top_layers", "layers": 1, "cache": "off"}))
    norms, _, about = found_in(tmp_path / "top")
    frozen = ["embeddings", "block.0"]
    assert norms[frozen].isna().all().all() and (norms.drop(columns=frozen) > 0).all().all()
    assert about["parameters"]["embeddings"] == about["parameters"]["block.0"] == 0
    tuning = {"strategy": "gradual", "gradual": {"every": 3, "unit": "steps"}}
    train(job_of("bert", models, tmp_path / "gradual", tuning=tuning, training=EACH_STEP))
    norms, _, _ = found_in(tmp_path / "gradual")
    assert norms["head"].notna().all()
    assert norms["step"][norms["block.1"].notna()].tolist() == list(range(4, 13))
    assert norms["step"][norms["block.0"].notna()].tolist() == list(range(7, 13))


@pytest.mark.parametrize("tuning", [{}, {"strategy": "head", "cache": "on"}, {"strategy": "lora"}])
def test_a_model_that_stays_as_it_is_gives_each_row_the_probability_that_it_predicts(tuning, models, tmp_path):
    """Also where frozen layers are replayed; row ids are those of the data, of which a sample is trained on."""
    if tuning.get("cache"):
        tuning = {**tuning, "cache_dir": str(tmp_path / "cache")}
    data = make_data("bert", train=60, validation=8)
    work = job_of(
        "bert", models, tmp_path / "run", double=False, data=data, tuning=tuning,
        dataset={"max_samples": {"train": 30}}, training={"learning_rate": 0.0, "num_train_epochs": 3},
    )  # fmt: skip
    train(work)
    inputs = work.inputs["train"]
    scores = work.evaluator.predict(work.built.model, inputs.rows, inputs.lengths, work.labels)["scores"]
    _, rows, about = found_in(tmp_path / "run")
    assert rows is not None and about["rows"] == about["rows_of_train"] == 30
    assert rows["row_id"].tolist() == inputs.row_ids.tolist() != list(range(30))
    assert rows["label"].tolist() == [data["train"][row]["label"] for row in rows["row_id"]]
    own = scores[np.arange(30), inputs.targets]
    np.testing.assert_allclose(by_epoch(rows), np.repeat(own[:, None], 3, axis=1), rtol=1e-4)
    right = scores.argmax(1) == inputs.targets
    np.testing.assert_array_equal(by_epoch(rows, "correct"), np.repeat(right[:, None], 3, axis=1))
    other = {"positive": "negative", "negative": "positive"}
    given = [[None if well else other[label]] * 3 for label, well in zip(rows["label"], right, strict=True)]
    assert [list(row) for row in rows["answered"]] == given and 0 < right.sum() < 30


def files(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((folder / "report" / "recorded").iterdir())]


@pytest.mark.parametrize(
    "stops, training",
    [
        pytest.param([("on_step_end", 5)], EACH_TWO_STEPS, id="inside an epoch"),
        pytest.param([("on_step_end", 3), ("on_save", 6)], EACH_TWO_STEPS, id="twice", marks=pytest.mark.slow),
        pytest.param([("on_train_end", 12)], {}, id="after the last step", marks=pytest.mark.slow),
        pytest.param(
            [("on_step_end", 5)],
            {**EACH_TWO_STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 3},
            id="accumulating",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_resumed_run_records_what_an_uninterrupted_one_does(stops, training, models, tmp_path):
    """To the last bit, dropout on."""

    def run(name: str, *callbacks: TrainerCallback) -> None:
        work = job_of("bert", models, tmp_path / name, double=False, model={"config": {}}, training=training)
        train(work, callbacks)

    run("whole")
    for event, step in stops:
        with pytest.raises(KeyboardInterrupt):
            run("parts", StopAfter(step, event))
        assert not (tmp_path / "parts" / "report").exists()
    run("parts")
    assert files(tmp_path / "parts") == files(tmp_path / "whole") and len(files(tmp_path / "whole")) == 3


def interrupted_and_resumed(models: Path, folder: Path) -> bool:
    training = {**EACH_TWO_STEPS, "per_device_train_batch_size": 4}
    train(job_of("bert", models, folder / "whole", double=False, model={"config": {}}, training=training))
    try:
        train(
            job_of("bert", models, folder / "parts", double=False, model={"config": {}}, training=training),
            [StopAfter(5)],
        )
    except KeyboardInterrupt:
        train(job_of("bert", models, folder / "parts", double=False, model={"config": {}}, training=training))
    return files(folder / "whole") == files(folder / "parts")


@pytest.mark.slow
def test_two_processes_resume_what_they_record(models, tmp_path):
    make_recipe("bert", models, tmp_path)
    assert in_two_processes(interrupted_and_resumed, models, tmp_path) == [True, True]


def test_recording_changes_nothing_that_is_learned_and_off_leaves_nothing(models, tmp_path):
    kept = {}
    for name, record in (("on", True), ("off", False)):
        training = {"eval_strategy": "no"}
        work = job_of(
            "bert",
            models,
            tmp_path / name,
            double=False,
            model={"config": {}},
            inspect={"record": record},
            training=training,
        )
        train(work)
        kept[name] = weights(work)
        assert (
            bool(list((tmp_path / name).rglob(STATE))) == (tmp_path / name / "report" / "recorded").exists() == record
        )
    assert largest_difference(kept["on"], kept["off"]) == 0.0


@pytest.mark.parametrize(
    ("family", "problem"),
    [("bert", "multi_label"), ("bert", "regression"), ("bert_tags", "tags"), ("segformer", "pixels")],
)
def test_rows_without_one_true_class_have_norms_alone_and_the_reason_is_kept(family, problem, models, tmp_path):
    train(job_of(family, models, tmp_path, problem=problem, double=False, rows=16))
    norms, rows, about = found_in(tmp_path)
    assert len(norms) and rows is None and problem in about["rows_left_out"]


def test_of_many_rows_a_seeded_sample_is_watched(models, tmp_path, monkeypatch):
    monkeypatch.setattr(row_course, "MOST_ROWS", 10)
    found = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        train(job_of("bert", models, tmp_path / name, seed=seed, training={"num_train_epochs": 1}))
        _, rows, about = found_in(tmp_path / name)
        assert rows is not None and about["rows"] == len(rows) == 10 and about["rows_of_train"] == 44
        assert not np.isnan(by_epoch(rows)).any()
        found[name] = rows["row_id"].tolist()
    assert found["one"] == found["again"] != found["other"]


def test_of_mixed_images_those_count_that_are_mostly_the_rows_own(models, tmp_path):
    train(job_of("vit", models, tmp_path, objective={"mixup": 0.5}, training={"num_train_epochs": 4}, double=False))
    _, rows, about = found_in(tmp_path)
    assert rows is not None and about["mixed"]
    unseen = np.isnan(by_epoch(rows)).mean()
    assert 0.1 < unseen < 0.4, "a quarter: half of the shares are below a half, half of the partners another class"


def test_a_course_counts_what_it_saw_and_nothing_else():
    """A filler, a row that is not watched, a mixed row, and one that is drawn twice in an epoch."""
    course = RowCourse(np.array([0, 1, 1, 0]), seed=0)
    outputs = {"logits": torch.log(torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]]))}
    batch = {"weight": torch.tensor([1.0, 1.0, 1.0, 0.0]), "labels": torch.tensor([0, 1, 1, 0])}
    course.see(1, torch.tensor([0, 2, 2, 3]), outputs, batch)
    table = course.table(course.state(None), np.array([10, 11, 12, 13]), ["no", "yes"])
    assert table["row_id"] == [10, 11, 12, 13] and table["label"] == ["no", "yes", "yes", "no"]
    probability = [[None if value is None else round(value, 5) for value in row] for row in table["probability"]]
    assert probability == [[None, 0.7], [None, None], [None, 0.6], [None, None]]
    assert table["correct"] == [[None, True], [None, None], [None, False], [None, None]]
    assert table["answered"] == [[None, None], [None, None], [None, "no"], [None, None]]
    again = RowCourse(np.array([0, 1, 1, 0]), seed=0)
    again.restore(course.state(None), main=True)
    assert again.table(again.state(None), np.arange(4), "ab") == course.table(course.state(None), np.arange(4), "ab")


def test_norms_are_scaled_back_and_infinite_where_float16_overflowed():
    one, other, frozen = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    one.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    torch.nn.utils.clip_grad_norm_([one, other], 1e-3)
    blocks = {"one": [one], "other": [other], "frozen": [frozen]}
    np.testing.assert_allclose(block_norms(blocks, torch.tensor(5.0)), [3.0, 4.0, np.nan], rtol=1e-5)
    assert block_norms(blocks, torch.tensor(float("inf"))).tolist()[:2] == [float("inf")] * 2
    one.grad.zero_(), other.grad.zero_()
    assert block_norms(blocks, torch.tensor(0.0)).tolist()[:2] == [0.0, 0.0]


def test_planted_wrong_labels_are_the_hardest_rows(models, tmp_path):
    rows = make_data("bert", train=120)["train"].to_pandas()
    wrong = np.random.default_rng(0).choice(120, size=8, replace=False)
    rows.loc[wrong, "label"] = rows.loc[wrong, "label"].map({"positive": "negative", "negative": "positive"})
    data = {"train": Dataset.from_pandas(rows), "validation": make_data("bert", validation=16)["validation"]}
    train(job_of("bert", models, tmp_path, data=data, training={"num_train_epochs": 6, "learning_rate": 5e-3}))
    _, found, _ = found_in(tmp_path)
    assert found is not None
    hardest = found["row_id"].to_numpy()[np.argsort(by_epoch(found).mean(axis=1))[:8]]
    assert len(set(hardest) & set(wrong)) >= 7, (sorted(hardest), sorted(wrong))


def test_what_cannot_be_recorded_is_refused(models, tmp_path):
    content = make_recipe("bert", models, tmp_path).to_dict()
    with pytest.raises(RecipeError, match=r"inspect\.record"):
        Recipe.from_dict({**content, "tuning": {"strategy": "head", "solver": "logistic"}, "inspect": RECORD})
    with pytest.raises(RecipeError, match=r"inspect\.record"):
        refuse_sharded(make_recipe("bert", models, tmp_path, inspect=RECORD))
