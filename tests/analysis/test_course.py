"""Laws of the course: where overfitting begins is where validation turns while training goes on."""

from __future__ import annotations

import pytest
from record_fixture import make_history, make_record

from hf_sft.analysis.course import gap, overfitting_begins, show_course
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Absent


def epochs(train: list[float], validation: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": number, "step": 10 * number, "train_loss": one, "validation_loss": other}
        for number, (one, other) in enumerate(zip(train, validation, strict=True), 1)
    ]


def test_overfitting_begins_where_validation_turns_and_training_goes_on() -> None:
    assert overfitting_begins(epochs([0.7, 0.4, 0.2, 0.1], [0.6, 0.5, 0.6, 0.8])) == 2
    assert overfitting_begins(epochs([0.7, 0.5, 0.4], [0.6, 0.5, 0.4])) is None
    assert overfitting_begins(epochs([0.7, 0.5, 0.9], [0.6, 0.5, 0.9])) is None  # both rise: it came apart
    assert gap(epochs([0.5], [0.7])[0]) == pytest.approx(0.2)


def test_a_course_is_told_from_the_history_and_its_spikes_are_counted() -> None:
    history = make_history(4)
    history["steps"][5]["grad_norm"] = 100.0
    section = show_course(FinishedRun(record=make_record(history=history)), {})
    assert [part.name for part in section.parts] == ["curves", "gap", "epochs"]
    assert section.key_figures["gradient_spikes"] == 1 and section.notes
    assert section.key_figures["overfitting_begins_at_epoch"] == "not seen"
    assert len(section.tables[0].rows) == 4


def test_a_run_without_history_has_no_course() -> None:
    with pytest.raises(Absent, match="no course"):
        show_course(FinishedRun(record=make_record(history={"steps": [], "epochs": []})), {})


def test_a_run_that_has_learned_all_has_no_spikes() -> None:
    history = make_history(4)
    for place, entry in enumerate(history["steps"]):
        entry["grad_norm"] = 10.0 if place < 2 else 1e-4 * (1 + 50 * (place % 3 == 0))
    section = show_course(FinishedRun(record=make_record(history=history)), {})
    assert section.key_figures["gradient_spikes"] in (1, 2)  # the first two alone
