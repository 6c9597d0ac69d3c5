"""Laws of runs of which something is missing, damaged or small: what is left is shown, with the true reason."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from analysis_runs import finish_text
from typer.testing import CliRunner

from hf_sft import RunRecord, evaluate, inspect
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import read_predictions
from hf_sft.analysis.report import Report, describe_cost
from hf_sft.cli import app
from hf_sft.errors import DataError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    training = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    return Path(finish_text(folder, inspect={"record": True}, training=training).output_dir)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def sentences(report: Report) -> dict[str, str]:
    assert report.ok, [section.sentence for section in report.sections if section.failed]
    return {section.name: section.sentence for section in report.sections}


def test_a_damaged_predictions_file_is_named_with_the_command_that_writes_it_again(run: Path) -> None:
    file = run / "predictions" / "test.parquet"
    cut(file)
    with pytest.raises(DataError) as caught:
        inspect(run, only="errors")
    (finding,) = caught.value.findings
    command = f"hf-sft evaluate {run} --split test -o {file} --overwrite"
    assert finding.place == str(file) and command in finding.fix
    result = CliRunner().invoke(app, ["inspect", str(run), "--only", "errors"])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    evaluate(run, split="test").write_predictions(file, overwrite=True)
    assert read_predictions(RunRecord.load(run))["test"].right.shape == (40,)


def test_predictions_that_are_gone_are_called_gone_and_what_needs_none_is_shown(run: Path) -> None:
    shutil.rmtree(run / "predictions")
    report = inspect(run, rows=24, only=["errors", "confidence", "attribution", "activations"])
    found = sentences(report)
    for name in ("errors", "confidence", "attribution"):
        assert "test.parquet is not there any more" in found[name] and "hf-sft evaluate" in found[name]
    assert any("test.parquet is not there any more" in fact for fact in report.facts)
    assert next(section for section in report.sections if section.name == "activations").parts


@pytest.mark.parametrize(
    ("file", "damage", "gradients", "rows"),
    [
        ("rows.parquet", Path.unlink, True, False),
        ("rows.parquet", cut, True, False),
        ("gradient_norms.parquet", Path.unlink, False, True),
        ("gradient_norms.parquet", cut, False, True),
        ("about.json", Path.unlink, False, False),
        ("about.json", lambda path: path.write_text("{"), False, False),
        ("about.json", lambda path: path.write_text("{}"), False, False),
    ],
)
def test_a_recording_that_is_not_whole_is_named(
    run: Path, file: str, damage: object, gradients: bool, rows: bool
) -> None:
    path = run / "report" / "recorded" / file
    damage(path)  # type: ignore[operator]
    found = sentences(inspect(run, only=["gradients", "cartography"]))
    for name, shown in (("gradients", gradients), ("cartography", rows)):
        assert (f"{path} is missing or damaged" in found[name]) is not shown, found[name]


def test_a_recording_that_was_removed_whole_is_not_called_never_made(run: Path) -> None:
    shutil.rmtree(run / "report" / "recorded")
    for sentence in sentences(inspect(run, only=["gradients", "cartography"])).values():
        assert "is missing or damaged" in sentence


def test_the_cost_is_that_of_the_rows_that_there_are(run: Path) -> None:
    names = ["errors", "attribution", "activations"]
    slow = RunRecord.load(run)
    slow.timings["evaluate"] = 40.0  # a second for each of its 40 rows of test, and 4 of validation

    def announced(rows: int) -> float:
        told = describe_cost(FinishedRun(record=slow, rows=rows), names).rpartition("about ")[2]
        return float(told.split()[0]) * (60 if "min" in told else 1)

    whole = announced(256)
    assert announced(10_000) == whole == pytest.approx(announced(44), rel=0.25)
    assert announced(8) < whole / 2
    shutil.rmtree(run / "predictions")
    assert announced(256) == whole


@pytest.mark.parametrize("rows", [2, 12])
def test_few_rows_are_the_reason_for_what_few_rows_do_not_allow(run: Path, rows: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        (activations,) = inspect(run, only="activations", rows=rows).sections
    assert not activations.failed, activations.sentence
    assert f"no map and no probe: {rows} rows are too few (20 at least)" in activations.notes
    assert not any("one label each" in note for note in activations.notes)
