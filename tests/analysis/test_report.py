"""Laws of the report: one file that needs nothing, in which text stays text, and no section takes others down."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis_runs import SCRIPT_TAG, finish_text
from typer.testing import CliRunner

from hf_sft import RunRecord, inspect, predict
from hf_sft.analysis import ANALYSES, Analysis
from hf_sft.analysis.page import SCRIPT
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.section import Absent, Section
from hf_sft.cli import app
from hf_sft.errors import DataError, HfSftError, ModelError, RecipeError
from hf_sft.metrics.temperature import SMALLEST

NEEDS_NO_MODEL = ["confidence"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(finish_text(tmp_path_factory.mktemp("run")).output_dir)


class _Read(HTMLParser):
    """Scripts, addresses and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_errors_and_confidence_of_a_run_are_one_page_with_its_figures_and_data(run: Path) -> None:
    report = inspect(run, only=["errors", "confidence"], rows=32)
    assert report.ok and [section.name for section in report.sections] == ["errors", "confidence"]
    folder = run / "report"
    assert str(folder / "errors_confidence.html") in str(report)
    page = (folder / "errors_confidence.html").read_text(encoding="utf-8")
    found = _Read(page)
    assert found.scripts == 1 and page.count(SCRIPT) == 1
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in found.addresses)
    assert SCRIPT_TAG in found.words and SCRIPT_TAG not in page and "<script>alert" not in page
    assert "default-src 'none'" in page
    for section in report.sections:
        assert not section.notes or all("cannot" not in note for note in section.notes)
        for figure in section.figures:
            assert (folder / f"{section.name}_{figure.name}.png").read_bytes() == figure.png
        for table in section.tables:
            assert len(pd.read_parquet(folder / f"{section.name}_{table.name}.parquet")) == len(table.rows)
    record = RunRecord.load(run)
    assert record.inspection["errors"]["wrong"] == report.sections[0].key_figures["wrong"]
    assert json.loads((folder / "errors.json").read_text())["key_figures"] == record.inspection["errors"]
    assert "hf-sft-report" in report._repr_html_() and "<script>" not in report._repr_html_()


def test_the_worst_rows_are_those_with_the_greatest_loss_and_a_row_of_train_is_found_in_test(run: Path) -> None:
    (errors,) = inspect(run, only="errors", rows=32).sections
    tables = {table.name: table for table in errors.tables}
    written = pd.read_parquet(run / "predictions" / "test.parquet").sort_values("loss", ascending=False)
    assert [row[0] for row in tables["worst_rows"].rows[:5]] == written["row_id"].tolist()[:5]
    texts = pd.read_csv(run.parent / "data" / "test.csv")["text"]
    assert all(row[1] == texts[row[0]] for row in tables["worst_rows"].rows)
    assert errors.key_figures["equal_rows_in_train"] == 1
    likeness, splits, text, _, other, _ = tables["duplicates"].rows[0]
    assert likeness == 1 and splits == "train, test" and text == other == texts[1]
    assert {row[1] for row in tables["slices"].rows if row[0] == "domain"} == {"film", "book"}


def test_only_names_what_is_looked_at_and_a_wrong_name_is_told_before_anything_is_read(run: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'errors'"):
        inspect(run, only="error")
    with pytest.raises(DataError):
        inspect(run.parent, only="errors")
    result = CliRunner().invoke(app, ["inspect", str(run), "--only", "confidence", "--json"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)) == {"confidence"}


def test_a_page_of_some_sections_and_a_section_without_figures_leave_what_was_found(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(run: Any, predictions: Mapping[str, Predictions]) -> Section:
        raise Absent("the data are gone")

    inspect(run, only="confidence")
    before = RunRecord.load(run).inspection["confidence"]
    (run / "report" / "index.html").write_text("the whole page")
    monkeypatch.setitem(ANALYSES, "confidence", Analysis("Confidence", absent))
    inspect(run, only="confidence")
    assert (run / "report" / "index.html").read_text() == "the whole page"
    assert "the data are gone" in (run / "report" / "confidence.html").read_text()
    assert RunRecord.load(run).inspection["confidence"] == before


def test_what_fails_says_so_and_takes_nothing_else_down(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Any, predictions: Mapping[str, Predictions]) -> Section:
        raise ValueError("<b>no</b> such thing")

    def absent(run: Any, predictions: Mapping[str, Predictions]) -> Section:
        raise Absent("this task has no such thing")

    monkeypatch.setitem(ANALYSES, "errors", Analysis("Errors", fail))
    monkeypatch.setitem(ANALYSES, "missing", Analysis("Missing", absent))
    report = inspect(run, only=["errors", "confidence", "missing"])
    errors, confidence, missing = report.sections
    assert not report.ok and errors.failed and "no such thing" in errors.sentence.replace("<b>no</b>", "no")
    assert "Traceback" in (run / "report" / "errors_traceback.txt").read_text()
    assert not confidence.failed and confidence.parts
    assert not missing.failed and missing.sentence == "Not shown: this task has no such thing."
    assert "<b>no</b>" not in (run / "report" / "errors_confidence_missing.html").read_text()
    result = CliRunner().invoke(app, ["inspect", str(run), "--only", "errors"])
    assert result.exit_code == 1


def test_rows_that_cannot_be_read_again_cost_their_texts_alone(tmp_path: Path) -> None:
    run = Path(finish_text(tmp_path).output_dir)
    (tmp_path / "data" / "test.csv").write_text("text,label,domain\nother text,positive,film\n")
    (errors,) = inspect(run, only="errors").sections
    assert not errors.failed and any("slices: the rows of test cannot be read again" in note for note in errors.notes)
    worst = next(table for table in errors.tables if table.name == "worst_rows")
    assert str(worst.rows[0][1]).startswith("row ") and "cannot be shown" in worst.caption


def test_calibrated_predictions_divide_logits_by_the_temperature_that_was_fitted(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_sft.analysis.confidence.doubt", lambda temperature, rows: "")
    (confidence,) = inspect(run, only="confidence").sections
    temperature = confidence.key_figures["temperature"]
    assert json.loads((run / "model" / "config.json").read_text())["hf_sft_temperature"] == temperature
    plain, calibrated = (predict(run, ["good film", "bad meal"], calibrated=which).rows for which in (False, True))
    for before, after in zip(plain, calibrated, strict=True):
        powers = {
            name: max(float(str(value)), SMALLEST) ** (1 / float(str(temperature)))
            for name, value in before.items()
            if name.startswith("score_")
        }
        for name, value in powers.items():
            assert after[name] == pytest.approx(value / sum(powers.values()))
        assert after["prediction"] == before["prediction"]


def test_calibrated_predictions_without_a_temperature_name_the_command_that_fits_it(tmp_path: Path) -> None:
    from tiny_saved import save

    with pytest.raises(ModelError, match=re.escape("hf-sft inspect RUN --only confidence")):
        predict(save("bert", tmp_path / "model"), ["good film"], calibrated=True)
    assert issubclass(ModelError, HfSftError)
