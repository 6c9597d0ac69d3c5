"""Metrics of boxes: COCO's average precision (Lin et al. 2014), matched by pycocotools.

A box is right when it has the label of a true one and overlaps it by an IoU of at least a threshold; boxes are taken in
the order of their scores. Accumulating is done here, with rows counted as often as they are drawn, so that a bootstrap
takes milliseconds; the numbers are pycocotools' own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_sft.metrics.metric import Outcome
from hf_sft.packages import require_package

MOST_BOXES = 100  # of a row and label that count, the best ones
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {  # size -> least and greatest area in pixels of the image as it is stored
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
SURE = 0.5  # the score from which on a box counts for precision, recall and F1 of a label


class Matched(NamedTuple):
    """The boxes predicted for one label, best first: row [D]; right, wrong: bool [T, D], by threshold; neither of a box

    that matches nothing but sizes which are not asked for. sure: bool [D]. true: int64 [N], boxes to be found.
    """

    row: NDArray
    right: NDArray
    wrong: NDArray
    sure: NDArray
    true: NDArray


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The boxes of all rows of a split, and what pycocotools makes of them, by size, when it is first asked for."""

    references: NDArray
    predictions: NDArray
    scores: NDArray
    num_labels: int
    found: dict[str, list[Matched]] = field(default_factory=dict)

    def of_size(self, size: str) -> list[Matched]:
        """What is found of each label, among true boxes of that size."""
        if size not in self.found:
            self.found[size] = match_boxes(self, size)
        return self.found[size]


@dataclass(frozen=True, kw_only=True)
class BoxOutcome(Outcome):
    """An outcome of rows of boxes. references, predictions: object [N] of float64 [n, 5], corners in pixels (left, top,

    right, bottom) and label; scores: object [N] of float64 [n]. origin: int64 [N], where each row stands in matching.
    """

    origin: NDArray
    matching: Matching

    def take(self, rows: NDArray) -> BoxOutcome:
        parts = ("references", "predictions", "scores", "origin")
        return replace(self, **{name: getattr(self, name)[rows] for name in parts})

    @property
    def cells(self) -> int:
        return 10 * len(THRESHOLDS) * sum(map(len, self.matching.scores))

    @property
    def counts(self) -> NDArray:
        """float64: how often each row of matching stands here."""
        return np.bincount(self.origin, minlength=len(self.matching.references)).astype(float)


def box_outcome(references: NDArray, predictions: NDArray, scores: NDArray, num_labels: int) -> BoxOutcome:
    """The outcome of all rows of a split."""
    matching = Matching(references=references, predictions=predictions, scores=scores, num_labels=num_labels)
    return BoxOutcome(
        references=references,
        predictions=predictions,
        scores=scores,
        num_labels=num_labels,
        origin=np.arange(len(references)),
        matching=matching,
    )


def match_boxes(rows: Matching, size: str) -> list[Matched]:
    """By label: predicted boxes given to true ones of that size, by pycocotools.

    Raises MissingExtraError where that is not installed.
    """
    require_package("pycocotools", "metrics")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    num_rows, labels = len(rows.references), range(rows.num_labels)
    truth, found = COCO(), COCO()
    entries = [_annotations(rows.references), _annotations(rows.predictions)]
    for entry, score in zip(entries[1], _flat(rows.scores).tolist(), strict=True):
        entry["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):
        for coco, annotations in zip((truth, found), entries, strict=True):
            images, categories = [{"id": row} for row in range(num_rows)], [{"id": label} for label in labels]
            coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
            coco.createIndex()
        matching = COCOeval(truth, found, "bbox")
        matching.params.areaRng, matching.params.areaRngLbl = [list(AREAS[size])], [size]
        matching.evaluate()
    return [
        _sorted([entry for entry in matching.evalImgs[label * num_rows : (label + 1) * num_rows] if entry], num_rows)
        for label in labels
    ]


def _annotations(rows: NDArray) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for row, boxes in enumerate(rows):
        for left, top, right, bottom, label in boxes.tolist():
            width, height = right - left, bottom - top
            box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            entries.append({"id": len(entries) + 1, "image_id": row, "category_id": int(label), **box})
    return entries


def _flat(parts: Sequence[NDArray] | NDArray) -> NDArray:
    return np.concatenate([np.zeros(0), *parts])


def _sorted(entries: Sequence[Mapping[str, Any]], num_rows: int) -> Matched:
    scores = _flat([entry["dtScores"] for entry in entries])
    order = np.argsort(-scores, kind="mergesort")
    nothing = np.zeros((len(THRESHOLDS), 0))
    hit = np.concatenate([nothing, *(entry["dtMatches"] for entry in entries)], axis=1)[:, order] > 0
    ignored = np.concatenate([nothing, *(entry["dtIgnore"] for entry in entries)], axis=1)[:, order] > 0
    rows = [np.full(len(entry["dtScores"]), entry["image_id"]) for entry in entries]
    true = np.zeros(num_rows, dtype=np.int64)
    for entry in entries:
        true[entry["image_id"]] = np.count_nonzero(entry["gtIgnore"] == 0)
    return Matched(
        row=np.concatenate([np.zeros(0, np.int64), *rows])[order].astype(np.int64),
        right=hit & ~ignored,
        wrong=~hit & ~ignored,
        sure=scores[order] >= SURE,
        true=true,
    )


def precisions(outcome: BoxOutcome, matched: Matched, thresholds: slice = slice(None)) -> NDArray:
    """float64 [T, R]: the best precision at each recall or a greater one; -1 where there is no true box."""
    weight = outcome.counts[matched.row]
    true = float(matched.true @ outcome.counts)
    right, wrong = matched.right[thresholds], matched.wrong[thresholds]
    if not true:
        return np.full((len(right), len(RECALLS)), -1.0)
    hits, misses = np.cumsum(right * weight, axis=1), np.cumsum(wrong * weight, axis=1)
    recall = hits / true
    precision = hits / (misses + hits + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    return np.stack([row[np.searchsorted(found, RECALLS)] for row, found in zip(best, recall, strict=True)])


def average_precision(outcome: Outcome, threshold: float | None = None, size: str = "all") -> float:
    """mAP in [0, 1]: over thresholds from 0.5 to 0.95 (or one), recalls, and labels that have true boxes of that size.

    NaN where there are none.
    """
    assert isinstance(outcome, BoxOutcome)
    chosen = slice(None) if threshold is None else _place(threshold)
    found = np.stack([precisions(outcome, label, chosen) for label in outcome.matching.of_size(size)], axis=2)
    found = found[found > -1]
    return float(np.mean(found)) if found.size else np.nan


def average_recall(outcome: Outcome) -> float:
    """The share of true boxes that are found among a row's best 100, mean over thresholds and labels, in [0, 1]."""
    assert isinstance(outcome, BoxOutcome)
    found = []
    for matched in outcome.matching.of_size("all"):
        true = float(matched.true @ outcome.counts)
        if true:
            found.append((matched.right * outcome.counts[matched.row]).sum(axis=1) / true)
    return float(np.mean(np.stack(found, axis=1))) if found else np.nan


def _place(threshold: float) -> slice:
    place = int(np.abs(THRESHOLDS - threshold).argmin())
    return slice(place, place + 1)


def per_label(outcome: Outcome, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Label -> map, map_50; precision, recall and f1 of the boxes with a score of at least 0.5 at an IoU of 0.5;

    support: true boxes. NaN where a label has no true box.
    """
    assert isinstance(outcome, BoxOutcome)
    rows = {}
    for name, matched in zip(names, outcome.matching.of_size("all"), strict=True):
        found, true = precisions(outcome, matched), int(matched.true @ outcome.counts)
        weight = outcome.counts[matched.row] * matched.sure
        right, wrong = float(matched.right[0] @ weight), float(matched.wrong[0] @ weight)
        precision, recall = right / max(right + wrong, 1.0), right / max(true, 1)
        rows[name] = {
            "map": float(found.mean()) if true else np.nan,
            "map_50": float(found[0].mean()) if true else np.nan,
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "support": true,
        }
    return rows
