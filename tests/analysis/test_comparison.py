"""Laws of comparing runs: the same rows, and what changed between them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from analysis_runs import finish_text
from record_fixture import make_record

from hf_sft import RunRecord, inspect
from hf_sft.analysis.comparison import told_apart
from hf_sft.analysis.finished import FinishedRun
from hf_sft.errors import DataError, RecipeError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(finish_text(tmp_path_factory.mktemp("run")).output_dir)


def changed_copy(run: Path, folder: Path, flipped: list[int]) -> Path:
    """The run with other predictions of test: of the rows at those positions."""
    shutil.copytree(run, folder)
    path = folder / "predictions" / "test.parquet"
    frame = pd.read_parquet(path)
    other = {"positive": "negative", "negative": "positive"}
    frame.loc[flipped, "prediction"] = frame.loc[flipped, "prediction"].map(other)
    frame.loc[flipped, ["score_negative", "score_positive"]] = frame.loc[
        flipped, ["score_positive", "score_negative"]
    ].to_numpy()
    frame.loc[flipped, "loss"] += 1.0
    frame.to_parquet(path, index=False)
    return folder


def test_a_run_beside_itself_changes_nothing(run: Path, tmp_path: Path) -> None:
    _, section = inspect(run, changed_copy(run, tmp_path / "same", []), rows=24).sections
    assert section.key_figures["only_first_right"] == section.key_figures["only_second_right"] == 0
    assert section.key_figures["mcnemar_p"] == 1 and section.key_figures["gain"] == 0
    assert section.key_figures["cka_last_blocks"] == pytest.approx(1)
    assert next(table for table in section.tables if table.name == "changed_rows").rows == []


def test_rows_that_changed_sides_are_counted_and_shown(run: Path, tmp_path: Path) -> None:
    flipped = [0, 3, 4, 10, 11, 20, 33]
    _, section = inspect(run, changed_copy(run, tmp_path / "other", flipped), rows=24).sections
    before = pd.read_parquet(run / "predictions" / "test.parquet")
    right = (before["reference"] == before["prediction"])[flipped]
    assert section.key_figures["only_first_right"] == right.sum()
    assert section.key_figures["only_second_right"] == (~right).sum()
    table = next(table for table in section.tables if table.name == "changed_rows")
    assert {row[0] for row in table.rows} == set(before["row_id"][flipped])
    difference = next(table for table in section.tables if table.name == "difference").rows[-1]
    assert difference[2] - difference[1] == pytest.approx(7 / 40)
    assert (run / "report" / "comparison" / "index.html").is_file()
    assert RunRecord.load(run).inspection["comparisons"]["other"]["rows"] == 40


def test_runs_of_one_name_are_told_apart_without_the_folders_above() -> None:
    runs = [FinishedRun(record=make_record(output_dir=f"/srv/me/{name}")) for name in ("a/out", "b/out", "other")]
    assert told_apart(runs) == ["a/out", "b/out", "other"]


def test_runs_on_other_rows_are_not_compared(run: Path, tmp_path: Path) -> None:
    other = finish_text(tmp_path, dataset={"path": str(tmp_path / "data"), "max_samples": {"test": 20}})
    with pytest.raises(DataError, match="judged on the same rows of test"):
        inspect(run, other.output_dir)
    with pytest.raises(RecipeError, match="only"):
        inspect(run, run, only="errors")
