"""Laws of confidence: a calibrated model is called calibrated, an overconfident one is found out and mended."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from analysis_runs import drawn_scores, single
from record_fixture import make_record

from hf_sft.analysis.confidence import bins_of, calibration_error, confidence_and_right, show_confidence
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Interval
from hf_sft.metrics.temperature import fit_temperature, tempered

ROWS = 3_000


@pytest.mark.parametrize(("sharpness", "temperature"), [(1.0, 1.0), (2.5, 2.5), (0.5, 0.5)])
def test_the_temperature_undoes_what_made_the_model_too_sure(sharpness: float, temperature: float) -> None:
    references, scores = drawn_scores(ROWS, 4, sharpness=sharpness)
    assert fit_temperature(references, scores) == pytest.approx(temperature, rel=0.08)


def test_an_overconfident_model_lies_below_the_diagonal_and_a_calibrated_one_on_it() -> None:
    for sharpness, calibrated in ((1.0, True), (3.0, False)):
        part = single(*drawn_scores(ROWS, 4, sharpness=sharpness))
        bins = [one for one in bins_of(*confidence_and_right(part, part.scores)) if one[2] > 60]
        held = [share.low <= sure <= share.high for sure, share, _ in bins]
        below = [share.high < sure for sure, share, _ in bins]
        assert len(bins) > 6
        assert sum(held) >= len(bins) - 2 if calibrated else sum(below) >= len(bins) - 1


def test_the_calibration_error_falls_by_a_temperature_fitted_on_other_rows() -> None:
    validation = single(*drawn_scores(ROWS, 4, sharpness=3.0, seed=1), split="validation")
    test = single(*drawn_scores(ROWS, 4, sharpness=3.0, seed=2))
    section = show_confidence(FinishedRun(record=make_record()), {"validation": validation, "test": test})
    found = section.key_figures
    assert found["temperature"] == pytest.approx(3.0, rel=0.1)
    assert float(str(found["ece"])) > 0.1 > 0.03 > float(str(found["ece_after_temperature"]))
    assert float(str(found["ece_low"])) < float(str(found["ece"])) < float(str(found["ece_high"]))
    assert [part.name for part in section.parts] == ["reliability", "coverage", "coverage"]


def test_tempered_scores_keep_their_order_and_sum_to_one() -> None:
    _, scores = drawn_scores(50, 5)
    found = tempered(scores, 2.3)
    assert np.array_equal(found.argsort(axis=1), scores.argsort(axis=1))
    assert found.sum(axis=1) == pytest.approx(1) and tempered(scores, 1.0) == pytest.approx(scores)
    assert np.isfinite(tempered(np.array([[1.0, 0.0]]), 2.0)).all()


def test_accuracy_grows_where_the_model_may_keep_silent_and_thresholds_count_rows() -> None:
    part = single(*drawn_scores(ROWS, 2))
    section = show_confidence(FinishedRun(record=make_record()), {"test": part})
    assert "no temperature" in section.notes[0] and "temperature" not in section.key_figures
    tables = {table.name: table for table in section.tables}
    accuracies = [row[3].value for row in tables["coverage"].rows if isinstance(row[3], Interval)]
    assert accuracies[0] == pytest.approx(part.right.mean())
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(accuracies))
    half = next(row for row in tables["thresholds"].rows if row[0] == 0.5)
    said = part.scores[:, 1] >= 0.5
    assert half[1] == said.sum() and half[5] == pytest.approx(part.right.mean())
    assert isinstance(half[2], Interval) and half[2].value == pytest.approx(part.references[said].mean())


@pytest.mark.parametrize("rows", [24, 100, 600])
@pytest.mark.parametrize("sharpness", [1.0, 1.5, 4.0])
def test_the_interval_holds_the_calibration_error_of_the_sample_and_of_endless_rows(
    sharpness: float, rows: int
) -> None:
    references, scores = drawn_scores(60_000, 3, sharpness=sharpness)
    every = single(references, scores)
    bins = bins_of(*confidence_and_right(every, scores))
    true = 0.0 if sharpness == 1 else sum(abs(sure - share.value) * size for sure, share, size in bins) / len(every)
    held = 0
    for trial in range(60):
        chosen = slice(trial * rows, (trial + 1) * rows)
        part = single(references[chosen], scores[chosen])
        found = calibration_error(part, part.scores, seed=trial)
        assert 0 <= found.low <= found.value <= found.high <= 1
        held += found.low <= true <= found.high
    assert held >= 0.93 * 60


def test_the_interval_tells_an_overconfident_model_from_a_calibrated_one() -> None:
    for sharpness, calibrated in ((1.0, True), (3.0, False)):
        part = single(*drawn_scores(600, 3, sharpness=sharpness, seed=3))
        found = calibration_error(part, part.scores, seed=0)
        assert (found.low == 0) == calibrated and found.high - found.low < 0.12


def test_a_temperature_of_few_rows_or_at_its_limit_is_not_kept_and_one_that_harms_is_told() -> None:
    run, test = FinishedRun(record=make_record()), single(*drawn_scores(ROWS, 4, seed=2))
    few = single(*drawn_scores(49, 4, seed=1), split="validation")
    solved = single(test.scores.argmax(axis=1), test.scores, split="validation")
    for validation, why in ((few, "49 rows of validation"), (solved, "limit")):
        section = show_confidence(run, {"validation": validation, "test": test})
        assert "temperature" not in section.key_figures and why in section.notes[0]
    other = single(*drawn_scores(ROWS, 4, sharpness=3.0, seed=1), split="validation")
    assert "does not mend it" in show_confidence(run, {"validation": other, "test": test}).notes[0]
