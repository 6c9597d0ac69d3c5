"""Every task and problem has a report: what makes no sense for it is absent with a reason, and nothing fails."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny_runs import make_data, make_recipe

from hf_sft import fine_tune, inspect
from hf_sft.analysis import ANALYSES
from hf_sft.analysis.predictions import PICTURED, WORDS

KINDS = [
    ("bert_tags", "single_label"),
    ("bert", "multi_label"),
    ("bert", "regression"),
    ("segformer", "pixels"),
    ("rt_detr", "boxes"),
]
ABSENT = {
    "single_label": {"confidence", "attribution"},  # of words with tags
    "multi_label": {"attribution"},
    "regression": {"confidence", "attribution"},
    "pixels": {"confidence", "attribution"},
    "boxes": {"confidence", "attribution"},
}
NOT_RECORDED = {"gradients", "cartography"}


@pytest.mark.parametrize(("family", "problem"), KINDS)
def test_every_problem_has_a_report(family: str, problem: str, tmp_path: Path) -> None:
    data = make_data(family, problem, train=24, validation=12, test=24)
    recipe = make_recipe(family, tmp_path, tmp_path / "out")
    record = fine_tune(recipe, data=data)
    report = inspect(record, data=data, rows=24)
    assert report.ok, [section.sentence for section in report.sections if section.failed]
    assert [section.name for section in report.sections] == list(ANALYSES)
    absent = {section.name for section in report.sections if section.sentence.startswith("Not shown: ")}
    assert absent == ABSENT[problem] | NOT_RECORDED
    errors = report.sections[0]
    assert "worst_rows" in {table.name for table in errors.tables}
    if problem in PICTURED:
        assert {"worst", "per_class", "worst_rows"} <= {part.name for part in errors.parts}
        assert set(record.labels["names"]) == {row[0] for row in errors.tables[0].rows}
        written = pd.read_parquet(record.directory.predictions("test"))
        by = "mean_iou" if problem == "pixels" else "loss"
        worst = written.sort_values(by, ascending=problem == "pixels", kind="stable")
        assert [row[0] for row in errors.tables[1].rows] == worst["row_id"].tolist()
        for section in report.sections[1:3]:
            assert WORDS[problem] in section.sentence or "detector" in section.sentence
        activations = next(section for section in report.sections if section.name == "activations")
        assert activations.key_figures["rows"] == 24


def test_a_run_whose_data_are_gone_is_told_from_its_predictions(tmp_path: Path) -> None:
    data = make_data("bert", train=24, validation=12, test=24)
    record = fine_tune(make_recipe("bert", tmp_path, tmp_path / "out"), data=data)
    report = inspect(record)
    found = {section.name: section for section in report.sections}
    assert report.ok and found["errors"].parts and found["confidence"].parts and found["weights"].parts
    assert "rows of test cannot be read again" in found["activations"].sentence
