"""Laws of what fine-tuning does over the depth: frozen blocks stay, new ones differ, runs are told apart."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import finish_images, finish_text
from record_fixture import make_record
from tiny_runs import make_data, make_recipe

from hf_sft import RunRecord, fine_tune, inspect
from hf_sft.analysis.blocks_seen import BlocksSeen
from hf_sft.analysis.comparison import told_apart
from hf_sft.analysis.depth import kind_of, probe_r2, show_depth
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.report import Report
from hf_sft.analysis.section import Absent, Interval, Section, Table
from hf_sft.errors import DataError

BLOCKS = ["embeddings", "block.0", "block.1", "final"]


def again(record: RunRecord, folder: Path, **changes: Any) -> RunRecord:
    """The run's recipe with other sections, into another folder."""
    kept = {key: record.recipe[key] for key in ("task", "model", "dataset", "training", "metrics")}
    return fine_tune({**kept, **changes, "output_dir": str(folder)})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """Head only, fully tuned and from random weights; the first two in folders of one name."""
    folder = tmp_path_factory.mktemp("runs")
    head = finish_text(folder, tuning={"strategy": "head"}, output_dir=str(folder / "head" / "out"))
    scratch = {**head.recipe["model"], "weights": "random"}
    return [head, again(head, folder / "full" / "out"), again(head, folder / "scratch", model=scratch)]


@pytest.fixture(scope="module")
def report(runs: list[RunRecord]) -> Report:
    return inspect(*(run.output_dir for run in runs), rows=32)


def table(section: Section, name: str) -> Table:
    return next(part for part in section.tables if part.name == name)


def column(section: Section, head: str) -> list[Any]:
    part = table(section, "per_block")
    return [row[list(part.heads).index(head)] for row in part.rows]


def test_frozen_blocks_stay_as_they_were_and_random_weights_see_other_things(report: Report) -> None:
    section = report.sections[0]
    assert section.title == "What fine-tuning does" and column(section, "block") == BLOCKS
    assert column(section, "CKA, head/out") == pytest.approx([1.0] * len(BLOCKS), abs=1e-6)
    assert max(column(section, "CKA, scratch")) < 0.98
    assert column(section, "CKA, full/out")[-1] < 0.999
    assert column(section, "probe, head/out") == column(section, "probe, pretrained model")


def test_each_run_stands_with_what_it_is_and_how_good_it_is(report: Report, runs: list[RunRecord]) -> None:
    first, *rows = table(report.sections[0], "runs").rows
    assert first[:3] == ["pretrained model", "before training", None]
    named = [("head/out", "head only"), ("full/out", "fully tuned"), ("scratch", "random weights")]
    assert [tuple(row[:2]) for row in rows] == named
    for row, run in zip(rows, runs, strict=True):
        assert row[2] == Interval(run.metrics["test"]["accuracy"], *run.intervals["test"]["accuracy"])


def test_runs_of_one_name_are_told_apart_wherever_they_are_named(
    runs: list[RunRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect(runs[1].output_dir, runs[0].output_dir, rows=24)
    assert "inspect full/out against head/out" in capsys.readouterr().out
    assert found.title == found.sections[1].title == "full/out and head/out"
    assert {fact.partition(":")[0] for fact in found.facts} == {"head/out", "full/out"}


def test_names_are_as_long_as_it_takes_to_tell_runs_apart() -> None:
    folders = ("/a/x/out", "/b/x/out", "/b/y/out", "/b/other", "/b/other")
    named = told_apart([FinishedRun(record=make_record(output_dir=folder)) for folder in folders])
    assert named == ["a/x/out", "b/x/out", "y/out", "other", "other (2)"]


def test_key_figures_stand_in_the_record_and_in_files(report: Report, runs: list[RunRecord]) -> None:
    figures = RunRecord.load(Path(runs[0].output_dir)).inspection["depth"]
    assert figures == json.loads((report.folder / "depth.json").read_text())["key_figures"]
    assert figures["rows"] == 32 and figures["probe_best_from_head/out"] in BLOCKS
    assert figures["cka_last_block_head/out"] == pytest.approx(1) and figures["cka_last_block_scratch"] < 0.98
    assert {"depth_blocks.png", "depth_runs.parquet", "depth_per_block.parquet"} <= {
        file.name for file in report.folder.iterdir()
    }


def test_it_says_where_training_rows_or_pretrained_weights_are_others(runs: list[RunRecord]) -> None:
    other = replace(runs[1], data={**runs[1].data, "train": {**runs[1].data["train"], "fingerprint": "another"}})
    pair = [FinishedRun(record=record, rows=24) for record in (runs[2], other)]
    pair[1].__dict__["_built_before"] = pair[0]._built_before
    names = ["scratch", "full"]
    assert any("other training rows" in note for note in show_depth(pair, names, BlocksSeen(pair[0], "test")).notes)
    section = show_depth(pair[:1], names[:1], BlocksSeen(pair[0], "test"))
    assert any("scratch: no CKA" in note for note in section.notes) and "CKA" not in section.sentence
    assert len(section.figures) == 1


def test_models_of_other_blocks_are_not_laid_beside_each_other(runs: list[RunRecord], tmp_path: Path) -> None:
    model = {**runs[0].recipe["model"], "config": {"num_hidden_layers": 1}}
    shallow = again(runs[0], tmp_path / "shallow", model=model, tuning={"strategy": "head"})
    section, pair = inspect(runs[2].output_dir, shallow.output_dir, rows=24).sections
    assert section.sentence.startswith("Not shown: block stands beside block only where the models have the same ones")
    assert "scratch has 4 (embeddings to final), shallow 3" in section.sentence and pair.parts


def test_pictures_are_laid_beside_each_other_too(tmp_path: Path) -> None:
    full = finish_images(tmp_path, output_dir=str(tmp_path / "full"))
    head = again(full, tmp_path / "head", tuning={"strategy": "head"})
    section = inspect(full.output_dir, head.output_dir, rows=24).sections[0]
    assert column(section, "CKA, head") == pytest.approx([1.0] * len(column(section, "block")), abs=1e-6)
    assert column(section, "CKA, full")[-1] < 0.999


@pytest.mark.parametrize(
    ("family", "problem", "probed"),
    [("bert_tags", "single_label", False), ("bert", "multi_label", False), ("bert", "regression", True)],
)
def test_it_is_told_of_every_problem_whose_rows_are_compared(
    family: str, problem: str, probed: bool, tmp_path: Path
) -> None:
    data = make_data(family, problem, train=24, validation=12, test=24)
    record = fine_tune(make_recipe(family, tmp_path, tmp_path / "out"), data=data)
    same = shutil.copytree(record.output_dir, tmp_path / "same")
    section = inspect(record, same, data=data, rows=24).sections[0]
    assert column(section, "CKA, out") == column(section, "CKA, same") and len(section.figures) == 1
    assert ("probe, same" in table(section, "per_block").heads) == probed
    assert any("no probe" in note for note in section.notes) != probed
    assert ("R2 of a linear probe" in section.figures[0].caption) == probed
    gone = inspect(record, same).sections[0]
    assert gone.sentence.startswith("Not shown: the rows of test cannot be read again")


def test_a_run_without_rows_to_compare_is_refused_in_words(runs: list[RunRecord], tmp_path: Path) -> None:
    bare = shutil.copytree(runs[0].output_dir, tmp_path / "bare")
    shutil.rmtree(bare / "predictions")
    with pytest.raises(DataError, match="compared one by one"):
        inspect(bare, runs[1].output_dir)


@pytest.mark.parametrize(
    ("weights", "strategy", "kind"),
    [
        (None, "full", "fully tuned"),
        (None, "head", "head only"),
        (None, "layer_decay", "layer decay"),
        ("random", "full", "random weights"),
        ("random", "head", "random weights, head only"),
    ],
)
def test_a_run_is_called_what_its_recipe_says(weights: str | None, strategy: str, kind: str) -> None:
    record = make_record()
    model = {**record.recipe["model"], "weights": weights}
    tuning = {**record.recipe["tuning"], "strategy": strategy}
    assert kind_of(replace(record, recipe={**record.recipe, "model": model, "tuning": tuning})) == kind


def test_a_probe_of_numbers_explains_what_is_linear_and_nothing_of_noise() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(80, 5))
    assert probe_r2(features, features @ np.arange(5.0), 0) > 0.95
    assert probe_r2(features, generator.normal(size=80), 0) < 0.2
    assert np.isnan(probe_r2(features, np.ones(80), 0))


def test_no_block_with_one_output_per_row_is_a_reason(runs: list[RunRecord]) -> None:
    seen = BlocksSeen(FinishedRun(record=runs[0]), "test")
    seen.after = lambda run: {}  # type: ignore[method-assign]
    with pytest.raises(Absent, match="no block"):
        show_depth([seen.first], ["one"], seen)
