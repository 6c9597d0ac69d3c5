"""Metrics of tagged words: which entities are found, whole and of the right type; how many words have the right tag.

An entity is a run of words: it begins with B-, or with an I- that goes on with nothing, and goes on with I- of its
type, as in seqeval (and conlleval); `strict` counts what begins with B- alone (seqeval's strict mode with IOB2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_sft.metrics.metric import Outcome

Average = Literal["micro", "macro"]


class Entities(NamedTuple):
    """Entities in the order of their words, int64 [E] each: row; words from start to end (excluded); type."""

    row: NDArray
    start: NDArray
    end: NDArray
    kind: NDArray


@dataclass(frozen=True, kw_only=True)
class TagOutcome(Outcome):
    """An outcome of N rows whose words have tags. references, predictions: object [N], lists of tags; scores: object

    [N] of float64 [words, L]. counts, strict: int64 [N, T, 3], entities per row and type: right, predicted, true.
    words: int64 [N, 2], right and all. invalid: bool [N], whether a predicted I- goes on with nothing.
    """

    types: tuple[str, ...]
    counts: NDArray
    strict: NDArray
    words: NDArray
    invalid: NDArray

    def take(self, rows: NDArray) -> TagOutcome:
        parts = ("references", "predictions", "scores", "counts", "strict", "words", "invalid")
        return replace(self, **{name: getattr(self, name)[rows] for name in parts})


def tag_outcome(
    references: Sequence[NDArray] | NDArray,
    predictions: Sequence[NDArray] | NDArray,
    scores: NDArray,
    names: Sequence[str],
) -> TagOutcome:
    """The outcome of rows whose tags are ids, int64 [words] each; names: the tags by id.

    Words whose reference is below 0 count nowhere: the outcome is that of the others, in their order.
    """
    if any((row < 0).any() for row in references):
        kept = [row >= 0 for row in references]
        references, predictions = (
            [row[own] for row, own in zip(rows, kept, strict=True)] for rows in (references, predictions)
        )
        counted = np.empty(len(kept), dtype=object)
        for place, own in enumerate(kept):
            counted[place] = None if scores[place] is None else scores[place][own]
        scores = counted
    kinds = tag_kinds(names)
    tags = np.asarray(names, dtype=object)
    lengths = np.array([len(row) for row in references], dtype=np.int64)
    true, predicted = (np.concatenate([np.zeros(0, np.int64), *rows]) for rows in (references, predictions))
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    right = np.bincount(row_of, weights=true == predicted, minlength=len(lengths)).astype(np.int64)
    invalid = np.zeros(len(lengths), dtype=bool)
    invalid[row_of[stray(predicted, row_of, kinds)]] = True
    return TagOutcome(
        references=_in_rows([tags[row].tolist() for row in references]),
        predictions=_in_rows([tags[row].tolist() for row in predictions]),
        scores=scores,
        num_labels=len(names),
        types=kinds.types,
        counts=_count(true, predicted, row_of, len(lengths), kinds, strict=False),
        strict=_count(true, predicted, row_of, len(lengths), kinds, strict=True),
        words=np.stack([right, lengths], axis=1),
        invalid=invalid,
    )


class TagKinds(NamedTuple):
    """types: of entities, sorted, as in seqeval (sums of fractions depend on their order); begins: bool [L], B- tags;

    kind: int64 [L], index of a tag's type, -1 for none.
    """

    types: tuple[str, ...]
    begins: NDArray
    kind: NDArray


def tag_kinds(names: Sequence[str]) -> TagKinds:
    """What the tags of IOB2 with these names mean."""
    types = tuple(sorted({name[2:] for name in names if name[:2] in ("B-", "I-")}))
    kind = [types.index(name[2:]) if name[:2] in ("B-", "I-") else -1 for name in names]
    begins = [name[:2] == "B-" for name in names]
    return TagKinds(types, np.array(begins, dtype=bool), np.array(kind, dtype=np.int64))


def stray(tags: NDArray, row_of: NDArray, kinds: TagKinds) -> NDArray:
    """bool [words]: I- tags that go on with nothing: after another type, after O, at the start of a row."""
    kind, begins = kinds.kind[tags], kinds.begins[tags]
    return (kind >= 0) & ~begins & ~_as_before(kind, row_of)


def find_entities(tags: NDArray, row_of: NDArray, kinds: TagKinds, *, strict: bool = False) -> Entities:
    """The entities among the words of all rows. tags: ids, int64 [words]; row_of: the row of each word, ascending."""
    kind, begins = kinds.kind[tags], kinds.begins[tags]
    goes_on = (kind >= 0) & ~begins & _as_before(kind, row_of)
    starts = np.flatnonzero(begins if strict else (kind >= 0) & ~goes_on)
    stops = np.flatnonzero(np.append(~goes_on, True))  # every word that does not go on ends what was before it
    ends = stops[np.searchsorted(stops, starts, side="right")]
    first = np.searchsorted(row_of, row_of[starts], side="left")
    return Entities(row_of[starts], starts - first, ends - first, kind[starts])


def entity_precision(outcome: Outcome, average: Average) -> float:
    """Share of the predicted entities that are true, in [0, 1]; 0 where none is predicted. See `entity_f1`."""
    right, predicted, _ = _totals(outcome, strict=False)
    return _averaged(outcome, right, predicted, average)


def entity_recall(outcome: Outcome, average: Average) -> float:
    """Share of the true entities that are predicted, in [0, 1]; 0 where none is true. See `entity_f1`."""
    right, _, true = _totals(outcome, strict=False)
    return _averaged(outcome, right, true, average)


def entity_f1(outcome: Outcome, average: Average, strict: bool = False) -> float:
    """Harmonic mean of precision and recall of entities (Tjong Kim Sang & De Meulder 2003), in [0, 1].

    micro: of all types together; macro: mean over the types that occur in references or predictions. 0 where both
    are 0, as in seqeval with zero_division=0; NaN for no rows.
    """
    right, predicted, true = _totals(outcome, strict=strict)
    if average == "micro":
        part, whole = right.sum(), predicted.sum()
        precision, recall = part / max(whole, 1), part / max(true.sum(), 1)
        return _f1(precision, recall) if len(outcome.references) else np.nan
    precisions, recalls = right / np.maximum(predicted, 1), right / np.maximum(true, 1)
    seen = predicted + true > 0
    values = [_f1(*pair) for pair in zip(precisions[seen], recalls[seen], strict=True)]
    return _mean(values, outcome)


def token_accuracy(outcome: Outcome) -> float:
    """Share of the words with the right tag, in [0, 1]; NaN for no words."""
    assert isinstance(outcome, TagOutcome)
    right, words = outcome.words.sum(axis=0)
    return float(right / words) if words else np.nan


def invalid_sequences(outcome: Outcome) -> float:
    """Share of the rows that hold a predicted I- which goes on with nothing, in [0, 1]."""
    assert isinstance(outcome, TagOutcome)
    return float(outcome.invalid.mean()) if len(outcome.invalid) else np.nan


def per_type(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Type of entity -> precision, recall, f1 (in [0, 1]) and support (int: true entities)."""
    assert isinstance(outcome, TagOutcome)
    found = {}
    for name, (right, predicted, true) in zip(outcome.types, outcome.counts.sum(axis=0).tolist(), strict=True):
        precision, recall = right / max(predicted, 1), right / max(true, 1)
        found[name] = {"precision": precision, "recall": recall, "f1": _f1(precision, recall), "support": true}
    return found


def _as_before(kind: NDArray, row_of: NDArray) -> NDArray:
    """bool [words]: of the type of the word before it, which stands in the same row."""
    same = np.zeros(len(kind), dtype=bool)
    same[1:] = (kind[1:] == kind[:-1]) & (row_of[1:] == row_of[:-1])
    return same


def _count(
    true: NDArray, predicted: NDArray, row_of: NDArray, num_rows: int, kinds: TagKinds, *, strict: bool
) -> NDArray:
    """int64 [N, T, 3]."""
    both = [np.stack(find_entities(tags, row_of, kinds, strict=strict), axis=1) for tags in (predicted, true)]
    size = int(max(part[:, 2].max(initial=0) for part in both)) + 1  # no word of a row has a greater number
    keys = [
        ((row * size + start) * size + end) * len(kinds.types) + kind
        for row, start, end, kind in (part.T for part in both)
    ]
    right = both[0][np.isin(keys[0], keys[1])]
    counts = np.zeros((num_rows, len(kinds.types), 3), dtype=np.int64)
    for place, part in enumerate((right, *both)):
        np.add.at(counts[:, :, place], (part[:, 0], part[:, 3]), 1)
    return counts


def _totals(outcome: Outcome, *, strict: bool) -> tuple[NDArray, NDArray, NDArray]:
    """Right, predicted and true entities, int64 [T] each."""
    assert isinstance(outcome, TagOutcome)
    right, predicted, true = (outcome.strict if strict else outcome.counts).sum(axis=0).T
    return right, predicted, true


def _averaged(outcome: Outcome, part: NDArray, whole: NDArray, average: Average) -> float:
    if average == "micro":
        return float(part.sum() / max(whole.sum(), 1)) if len(outcome.references) else np.nan
    _, predicted, true = _totals(outcome, strict=False)
    seen = predicted + true > 0
    return _mean((part / np.maximum(whole, 1))[seen], outcome)


def _f1(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _mean(values: Sequence[float] | NDArray, outcome: Outcome) -> float:
    """0 where no entity occurs on either side."""
    if len(values):
        return float(np.mean(values))
    return 0.0 if len(outcome.references) else np.nan


def _in_rows(entries: Sequence[list[str]]) -> NDArray:
    rows = np.empty(len(entries), dtype=object)
    rows[:] = list(entries)
    return rows
