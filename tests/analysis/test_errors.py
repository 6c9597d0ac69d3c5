"""Laws of errors: planted label errors, confusions and slices are found, chance ones are not."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import drawn_scores, single
from datasets import concatenate_datasets
from record_fixture import make_record
from tiny_runs import make_data, make_recipe

from hf_sft import fine_tune, inspect
from hf_sft.analysis import confusion, errors
from hf_sft.analysis.errors import _able_to_doubt, _doubtful, _temperature
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.label_errors import likely_label_errors
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.proportions import adjusted, f1_interval, fewer_right, mcnemar, share
from hf_sft.analysis.section import Interval, Table


def test_planted_label_errors_are_found() -> None:
    """100 of 2,000 labels of a model that knows its classes: precision and recall at least 0.9."""
    generator = np.random.default_rng(0)
    truth = generator.integers(5, size=2_000)
    scores = np.full((2_000, 5), 0.02)
    scores[np.arange(2_000), truth] = 0.92
    scores = scores * generator.uniform(0.5, 1.5, scores.shape)
    scores /= scores.sum(axis=1, keepdims=True)
    planted = generator.choice(2_000, size=100, replace=False)
    given = truth.copy()
    given[planted] = (truth[planted] + generator.integers(1, 5, size=100)) % 5
    found = likely_label_errors(given, scores)
    hits = len(set(found.tolist()) & set(planted.tolist()))
    assert hits / len(found) >= 0.9 and hits / 100 >= 0.9


def test_right_labels_of_a_calibrated_model_are_hardly_doubted() -> None:
    references, scores = drawn_scores(2_000, 4)
    assert len(likely_label_errors(references, scores)) <= 0.02 * 2_000


def test_classes_that_are_confused_stand_side_by_side() -> None:
    """Forty classes in twenty pairs whose members lie far apart in the label map."""
    matrix = np.diag(np.full(40, 20))
    for one in range(20):
        matrix[one, one + 20] = matrix[one + 20, one] = 8
    order = confusion.clustered(matrix).tolist()
    assert sorted(order) == list(range(40))
    assert all(abs(order.index(one) - order.index(one + 20)) == 1 for one in range(20))
    names = [f"class {number}" for number in range(40)]
    assert [figure.name for figure in confusion.draw(matrix, names)] == ["confusion", "confusion_shares"]
    top = confusion.top_confusions(matrix, names)
    assert len(top.rows) == 40 and top.rows[0][2] == 8


def test_counts_and_shares_are_those_of_the_rows() -> None:
    part = single(*drawn_scores(500, 3))
    matrix = confusion.count(part.references, part.predictions, 3)
    assert matrix.sum() == 500 and matrix.diagonal().sum() == part.right.sum()
    assert matrix[1, 2] == ((part.references == 1) & (part.predictions == 2)).sum()
    table = confusion.per_class(matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1), part.names, 500, seed=0)
    values = [row[3].value for row in table.rows if isinstance(row[3], Interval)]
    assert len(values) == 3 and values == sorted(values)


@pytest.mark.parametrize(("hits", "of"), [(0, 10), (10, 10), (3, 10), (70, 100)])
def test_intervals_of_shares_hold_them_and_stay_within_their_bounds(hits: int, of: int) -> None:
    found = share(hits, of)
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.high - found.low < 0.6


def test_intervals_of_f1_hold_it_most_of_the_time() -> None:
    """Over 200 samples of 150 rows the 95 % interval holds the F1 of all rows 88 to 100 % of the time."""
    references, scores = drawn_scores(20_000, 3)
    predictions = scores.argmax(axis=1)

    def counts(chosen: np.ndarray) -> tuple[int, int, int, int]:
        there, said = references[chosen] == 0, predictions[chosen] == 0
        return int((there & said).sum()), int(said.sum()), int(there.sum()), len(chosen)

    whole = f1_interval(*counts(np.arange(20_000)), seed=0).value
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = f1_interval(*counts(generator.choice(20_000, size=150)), seed=1)
        held += found.low <= whole <= found.high
    assert held / 200 >= 0.88


def test_a_slice_is_called_worse_for_what_it_is_and_not_by_chance() -> None:
    assert fewer_right(20, 50, 180, 200) < 1e-6 < 0.3 < fewer_right(45, 50, 180, 200)
    generator = np.random.default_rng(0)
    p_values = np.array([fewer_right(*_halves(generator.random(200) < 0.8)) for _ in range(200)])
    assert (adjusted(p_values) < 0.05).sum() <= 2
    assert mcnemar(0, 0) == 1 and mcnemar(10, 10) == 1 and mcnemar(20, 2) < 0.001


def test_the_worst_group_of_rows_is_a_key_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ["text", "has a digit", 30, share(15, 30), 0.9, 0.01, "worse"]
    table = Table(name="slices", caption="", heads=("by",), rows=[row])
    monkeypatch.setattr(errors, "find_slices", lambda *_: table)
    _, found = errors._slices(None, types.SimpleNamespace(split="test", row_ids=None), None)  # type: ignore[arg-type]
    assert found["worst_slice"] == "text has a digit" and found["worst_slice_right"] == 0.5
    assert (found["worst_slice_rows"], found["worst_slice_right_elsewhere"], found["worse_slices"]) == (30, 0.9, 1)


def _halves(right: np.ndarray) -> tuple[int, int, int, int]:
    return int(right[:100].sum()), 100, int(right[100:].sum()), 100


def test_a_model_that_knows_no_more_than_the_largest_class_doubts_no_label() -> None:
    references, scores = drawn_scores(400, 3)
    blind = np.tile([0.1, 0.8, 0.1], (400, 1))
    able, notes = _able_to_doubt({"validation": single(references, scores), "test": single(references, blind)})
    assert len(able) == 1 and able[0].right.mean() > 0.5
    assert len(notes) == 1 and "no likely label errors of test" in notes[0]


def test_a_temperature_that_is_not_to_be_used_does_not_doubt_labels_either() -> None:
    """24 rows of validation that are all right at 0.62 fit 0.05, which would make every mistake of test a sure one."""

    def sure(rows: int, right: float, split: str) -> Predictions:
        references = np.arange(rows) % 2
        predicted = np.where(np.random.default_rng(0).random(rows) < right, references, 1 - references)
        return single(references, np.where(np.eye(2)[predicted] == 1, 0.62, 0.38), split)

    validation, test = sure(24, 1.0, "validation"), sure(300, 0.8, "test")
    temperature, notes = _temperature(validation)
    assert temperature == 1 and "24 rows of validation are too few" in notes[0]
    assert _doubtful(FinishedRun(record=make_record()), [test], temperature).rows == []
    assert _temperature(None)[0] == 1
    assert _temperature(single(*drawn_scores(400, 3, sharpness=2.0)))[0] > 1.5


@pytest.mark.parametrize("family", ["bert", "bert_tags"])
def test_rows_that_stand_in_two_splits_are_found_whichever_splits_these_are(family: str, tmp_path: Path) -> None:
    """A row of validation stands in train, and another one in test; the head over words has no embedding of a row."""
    data = make_data(family, train=24, validation=12, test=32)
    data["validation"] = concatenate_datasets([data["validation"].select(range(11)), data["train"].select([3])])
    data["test"] = concatenate_datasets([data["test"].select(range(31)), data["validation"].select([5])])
    record = fine_tune(make_recipe(family, tmp_path, tmp_path / "out"), data=data)
    (section,) = inspect(record, only="errors", data=data, rows=24).sections
    table = next(table for table in section.tables if table.name == "duplicates")
    equal = [(row[1], str(row[2]), str(row[4])) for row in table.rows if row[0] == 1]
    column = data["train"].column_names[0]
    train, validation = (_shown(data[role][place][column]) for role, place in (("train", 3), ("validation", 5)))
    assert {("train, validation", train, train), ("validation, test", validation, validation)} <= set(equal)
    assert all(one == other for _, one, other in equal)
    found, splits = section.key_figures, [splits for splits, _, _ in equal]
    assert found["equal_rows_in_train"] == splits.count("train, test")
    assert found["equal_rows_of_validation_in_train"] == splits.count("train, validation")
    assert found["equal_rows_of_test_in_validation"] == splits.count("validation, test")
    assert ("near_rows_in_train" in found) == (family == "bert") != ("Near ones are not looked for" in table.caption)


def _shown(cell: Any) -> str:
    return cell if isinstance(cell, str) else " ".join(cell)


def test_slices_of_too_few_rows_are_not_called_looked_at(tmp_path: Path) -> None:
    data = make_data("bert", train=24, validation=12, test=29)
    record = fine_tune(make_recipe("bert", tmp_path, tmp_path / "out"), data=data)
    (section,) = inspect(record, only="errors", data=data, rows=24).sections
    assert "slices: none could be looked at: 29 rows are fewer than 30, 15 on either side" in section.notes
    assert "worse_slices" not in section.key_figures and "slices" not in {table.name for table in section.tables}
