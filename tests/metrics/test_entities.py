"""Metrics of entities: equal to seqeval's to the last digit, whatever the tags."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2

from hf_sft.metrics import METRICS
from hf_sft.metrics.entities import TagOutcome, find_entities, per_type, tag_kinds, tag_outcome
from hf_sft.metrics.intervals import bootstrap_intervals
from hf_sft.metrics.resolve import make_up_outcome, resolve_metrics

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-ORG", "B-a-b", "I-a-b")  # ORG has no B-, one type a hyphen
OURS = {
    "entity_f1": (seqeval.f1_score, {"average": "micro"}),
    "entity_precision": (seqeval.precision_score, {"average": "micro"}),
    "entity_recall": (seqeval.recall_score, {"average": "micro"}),
    "macro_entity_f1": (seqeval.f1_score, {"average": "macro"}),
    "macro_entity_precision": (seqeval.precision_score, {"average": "macro"}),
    "macro_entity_recall": (seqeval.recall_score, {"average": "macro"}),
    "strict_entity_f1": (seqeval.f1_score, {"average": "micro", "mode": "strict", "scheme": IOB2}),
}
ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, len(NAMES) - 1), st.integers(0, len(NAMES) - 1)), max_size=9),
    min_size=1,
    max_size=6,
)


def outcome_of(rows: list[list[tuple[int, int]]]) -> TagOutcome:
    sides = [[np.array([pair[side] for pair in row], dtype=np.int64) for row in rows] for side in (0, 1)]
    return tag_outcome(sides[0], sides[1], np.empty(len(rows), dtype=object), NAMES)


def theirs(name: str, outcome: TagOutcome) -> float:
    function, options = OURS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(function(outcome.references.tolist(), outcome.predictions.tolist(), zero_division=0, **options))


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_every_average_is_seqeval_s(rows: list[list[tuple[int, int]]]) -> None:
    outcome = outcome_of(rows)
    occur = outcome.counts.any()
    for name in OURS:
        if occur:  # where no side has an entity, seqeval's macro averages are NaN or fail
            assert METRICS[name].compute(outcome) == theirs(name, outcome), name
        else:
            assert METRICS[name].compute(outcome) == 0.0, name
    if any(rows):
        expected = seqeval.accuracy_score(outcome.references.tolist(), outcome.predictions.tolist())
        assert METRICS["token_accuracy"].compute(outcome) == expected


def random_outcome(seed: int, rows: int = 40) -> TagOutcome:
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(rows):
        true = generator.integers(0, len(NAMES), generator.integers(1, 12))
        drawn = generator.integers(0, len(NAMES), len(true))
        pairs.append(list(zip(true.tolist(), np.where(generator.random(len(true)) < 0.7, true, drawn), strict=True)))
    return outcome_of(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_each_type_has_the_numbers_of_seqeval_s_report(seed: int) -> None:
    outcome = random_outcome(seed)
    report: Any = seqeval.classification_report(
        outcome.references.tolist(), outcome.predictions.tolist(), output_dict=True, zero_division=0
    )
    for name, values in per_type(outcome).items():
        assert values["support"] == report[name]["support"]
        for part, theirs_part in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert values[part] == report[name][theirs_part]


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_are_drawn_again_count_again(seed: int) -> None:
    """What an interval is made of: the metric of a resample is that of its rows as seqeval counts them."""
    outcome = random_outcome(seed)
    rows = np.random.default_rng(seed).integers(len(outcome.references), size=len(outcome.references))
    again = outcome.take(rows)
    for name in OURS:
        assert METRICS[name].compute(again) == theirs(name, again), name
    intervals = bootstrap_intervals([METRICS[name] for name in OURS], outcome, seed=0, resamples=200)
    for name, (low, high) in intervals.items():
        assert low <= METRICS[name].compute(outcome) <= high, name


def test_sequences_that_break_iob2_are_counted_by_row() -> None:
    """An I- after O, after another type, at the start of a row: also where the row before ends with its type."""
    tags = {name: index for index, name in enumerate(NAMES)}
    rows = [["B-PER", "I-PER"], ["I-PER", "O"], ["B-LOC", "I-PER"], ["O", "I-LOC"], ["B-LOC", "O"]]
    outcome = outcome_of([[(tags[name], tags[name]) for name in row] for row in rows])
    assert outcome.invalid.tolist() == [False, True, True, True, False]
    assert METRICS["invalid_sequences"].compute(outcome) == 0.6


def test_entities_know_their_rows_and_words() -> None:
    tags = {name: index for index, name in enumerate(NAMES)}
    rows = [["O", "B-PER", "I-PER", "B-PER"], ["I-PER", "I-LOC", "O"]]
    flat = np.array([tags[name] for row in rows for name in row])
    found = find_entities(flat, np.array([0] * 4 + [1] * 3), tag_kinds(NAMES))
    assert [tuple(map(int, entry)) for entry in zip(*found, strict=True)] == [
        (0, 1, 3, 2), (0, 3, 4, 2), (1, 0, 1, 2), (1, 1, 2, 0),
    ]  # fmt: skip
    strict = find_entities(flat, np.array([0] * 4 + [1] * 3), tag_kinds(NAMES), strict=True)
    assert strict.start.tolist() == [1, 3]


def test_a_function_of_one_s_own_gets_lists_of_tags() -> None:
    """So that seqeval's own functions, and others that take tags, can be used as they are."""
    functions = {"theirs": lambda y_true, y_pred: seqeval.f1_score(list(y_true), list(y_pred))}
    metrics = resolve_metrics(["entity_f1"], "tags", folder=Path(), functions=functions, num_labels=5)
    ours, own = (metric.compute(make_up_outcome("tags", 5)) for metric in metrics)
    assert ours == own and 0 < ours < 1


def test_no_rows_have_no_metric() -> None:
    outcome = tag_outcome([], [], np.empty(0, dtype=object), NAMES)
    assert all(np.isnan(METRICS[name].compute(outcome)) for name in (*OURS, "token_accuracy", "invalid_sequences"))
