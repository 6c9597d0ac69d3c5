"""Laws of rows over training, on courses that are written down by hand, and of runs that recorded theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_runs import finish_text
from matplotlib.axes import Axes
from tiny_runs import make_data, make_recipe

from hf_sft import RunRecord, fine_tune, inspect
from hf_sft.analysis.cartography import _by_label, _draw_learning, always_another, show_cartography
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.gradients import clipping, infinite, shares_of, show_gradients
from hf_sft.analysis.row_dynamics import Dynamics
from hf_sft.analysis.section import Absent, Table

NAN = float("nan")


def dynamics(correct: list[list[float]], probability: list[list[float]] | None = None) -> Dynamics:
    """Rows of label "a" that are given "b" where they are wrong."""
    values = np.array(correct, dtype=float)
    return Dynamics(
        row_ids=np.arange(len(values)),
        labels=["a"] * len(values),
        probability=values if probability is None else np.array(probability, dtype=float),
        correct=values,
        answered=[["b" if value == 0 else None for value in row] for row in values],
    )


def test_rows_are_learned_when_they_stay_right_and_forgotten_when_they_do_not() -> None:
    found = dynamics(
        [[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [NAN, 1, NAN, 0], [1, NAN, 1, 1], [0, 1, 0, 1]]
    )
    assert found.learned_at.tolist() == [1, 3, 0, 0, 0, 1, 4]
    assert found.forgotten.tolist() == [0, 0, 2, 0, 1, 0, 1]
    assert found.seen.tolist() == [4, 4, 4, 4, 2, 3, 4]
    np.testing.assert_allclose(found.correctness, [1, 0.5, 0.5, 0, 0.5, 1, 0.5])
    assert always_another(found).tolist() == [3]


def test_a_row_that_was_not_seen_between_is_forgotten_all_the_same_and_one_seen_late_is_right_from_its_first() -> None:
    found = dynamics([[1, NAN, 0], [NAN, 1, 1], [NAN, 0, 1], [1, 0, 0]])
    assert found.forgotten_in.tolist() == [
        [False, False, True], [False] * 3, [False] * 3, [False, True, False]
    ]  # fmt: skip
    assert found.always_right.tolist() == [False, True, False, False]


def test_the_bars_show_every_event_of_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[float]] = []

    def bar(self: Axes, x: Any, height: Any, **settings: Any) -> Any:
        drawn.append(list(height))
        return plain(self, x, height, **settings)

    plain = Axes.bar
    monkeypatch.setattr(Axes, "bar", bar)
    found = dynamics([[1, NAN, 0], [1, 0, 1], [1, 0, NAN]])
    _draw_learning(found)
    assert drawn[1] == [2, 1] and sum(drawn[1]) == found.forgotten.sum()
    assert [row[3] for row in _by_label(found).rows] == [0.0]
    assert [row[3] for row in _by_label(dynamics([[NAN, 1, 1], [0, 1, 1]])).rows] == [0.5]


def test_confidence_is_the_mean_and_variability_the_spread_of_the_epochs_that_were_seen() -> None:
    found = dynamics([[1, 1, 0]] * 2, [[0.9, 0.6, 0.3], [0.8, NAN, 0.4]])
    np.testing.assert_allclose(found.confidence, [0.6, 0.6])
    np.testing.assert_allclose(found.variability, [float(np.std([0.9, 0.6, 0.3])), 0.2])


def test_the_other_label_is_the_one_given_most_often_and_of_equals_the_later() -> None:
    found = dynamics([[0, 0, 0], [0, 0, 1], [1, 1, 1]])
    answered: list[list[str | None]] = [["b", "c", "b"], ["b", "c", None], [None, None, None]]
    found = Dynamics(
        row_ids=found.row_ids,
        labels=found.labels,
        probability=found.probability,
        correct=found.correct,
        answered=answered,
    )
    assert [found.other_label(row) for row in range(3)] == [("b", 2), ("c", 1), ("", 0)]


def test_the_share_of_a_block_is_of_the_squared_norm() -> None:
    norms = {"block.0": np.array([3.0, NAN, 0.0]), "head": np.array([4.0, 2.0, 0.0])}
    assert shares_of(norms, np.array([True, False, True])) == pytest.approx({"block.0": 9 / 25, "head": 16 / 25})
    assert shares_of(norms, np.array([True, True, True]))["head"] == pytest.approx((16 / 25 + 1) / 2)
    assert shares_of(norms, np.array([False, False, True])) == {}


def test_clipping_is_told_where_it_changed_anything() -> None:
    (words,) = clipping(np.array([0.5, 2.0, 8.0, 4.0]), 1.0)
    assert "3 of 4 logged steps down, typically by 4" in words
    assert clipping(np.array([0.5, 0.9]), 1.0) == clipping(np.array([5.0]), 0.0) == []


def test_only_float16_skips_steps_without_a_finite_norm() -> None:
    assert "float16 overflowed, and the optimizer left them out" in infinite(2, "fp16")
    for precision in ("fp32", "bf16"):
        assert "float16" not in infinite(2, precision) and "at 2 logged steps" in infinite(2, precision)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("run")
    training = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    tuning = {"strategy": "top_layers", "layers": 1}
    return finish_text(folder, inspect={"record": True}, training=training, tuning=tuning)


def test_a_run_that_recorded_shows_its_gradients_and_its_rows(run: RunRecord) -> None:
    report = inspect(run, only=["gradients", "cartography"], rows=24)
    gradients, rows = report.sections
    assert report.ok and [part.name for part in gradients.parts] == ["blocks", "lines", "norms"]
    assert any("embeddings, block.0" in note for note in gradients.notes)
    assert {row[0] for row in gradients.tables[0].rows} == {"block.1", "final", "head"}
    assert gradients.key_figures["largest_block"] in {"block.1", "final", "head"}
    assert 0 < float(gradients.key_figures["its_share"] or 0) < 1
    assert "first_layer_to_last" not in gradients.key_figures, "one layer trains: there is nothing to compare"
    names = [part.name for part in rows.parts]
    assert names == ["map", "learning", "labels", "hardest", "most_ambiguous", "most_forgotten"]
    tables = {part.name: part for part in rows.parts if isinstance(part, Table)}
    train = pd.read_csv(run.directory.path.parent / "data" / "train.csv")
    hardest: list[list[Any]] = [list(row) for row in tables["hardest"].rows]
    for row in hardest:
        assert row[1] == train["text"][row[0]] and row[2] == train["label"][row[0]]
    confidence = [row[4] for row in hardest]
    assert confidence == sorted(confidence) and len(confidence) == rows.key_figures["rows"]
    assert sum(int(str(row[1])) for row in tables["labels"].rows) == rows.key_figures["rows"]
    assert run.directory.recorded("rows").is_file(), "what was recorded stays where it is"
    record = RunRecord.load(run.directory.path)
    assert record.inspection["cartography"] == dict(rows.key_figures)


def test_without_the_key_both_say_which_key_it_takes(tmp_path: Path) -> None:
    bare = FinishedRun(record=RunRecord.load(finish_text(tmp_path).directory.path))
    for show in (show_gradients, show_cartography):
        with pytest.raises(Absent, match=r"inspect: \{record: true\}"):
            show(bare, {})


def test_rows_with_several_labels_have_no_map_and_the_reason_stands_in_its_place(tmp_path: Path) -> None:
    data = make_data("bert", "multi_label", train=24, validation=12)
    record = fine_tune(make_recipe("bert", tmp_path, tmp_path / "out", inspect={"record": True}), data=data)
    gradients, rows = inspect(record, only=["gradients", "cartography"], data=data).sections
    assert gradients.parts and "multi_label have no single true class" in rows.sentence


def test_one_epoch_is_no_course(tmp_path: Path) -> None:
    training = {"num_train_epochs": 1, "per_device_train_batch_size": 8}
    record = finish_text(tmp_path, inspect={"record": True}, training=training)
    with pytest.raises(Absent, match="one epoch"):
        show_cartography(FinishedRun(record=record), {})
