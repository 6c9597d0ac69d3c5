"""Laws of the metrics of boxes: they are pycocotools' to the last bit, and a bootstrap resamples images."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hf_sft.metrics import METRICS
from hf_sft.metrics.detection import average_precision, average_recall, box_outcome, per_label
from hf_sft.metrics.intervals import bootstrap_intervals

LABELS = 3
OFFICIAL = {  # place among COCO's twelve numbers
    "map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "mar_100": 8,
}  # fmt: skip


def as_rows(parts: list[Any]) -> Any:
    rows = np.empty(len(parts), dtype=object)
    rows[:] = parts
    return rows


def random_rows(seed: int, images: int = 25, labels: int = LABELS) -> tuple[Any, Any, Any]:
    """True boxes, predicted ones (some near the true ones) and their scores, of which many are equal."""
    generator = np.random.default_rng(seed)

    def boxes(number: int) -> Any:
        low = generator.uniform(0, 300, (number, 2))
        sides = np.exp(generator.uniform(1.5, 5.5, (number, 2)))
        return np.column_stack([low, low + sides, generator.integers(0, labels, number)])

    true, found, scores = [], [], []
    for _ in range(images):
        true.append(boxes(int(generator.integers(0, 9))))
        near = true[-1].copy()
        near[:, :4] += generator.normal(0, 4, near[:, :4].shape)
        near[:, 2:4] = np.maximum(near[:, 2:4], near[:, :2] + 1)
        found.append(np.concatenate([near, boxes(int(generator.integers(0, 12)))]))
        scores.append(generator.uniform(0, 1, len(found[-1])).round(1))
    return as_rows(true), as_rows(found), as_rows(scores)


def coco_numbers(true: Any, found: Any, scores: Any, labels: int = LABELS) -> Any:
    """COCOeval's own way from boxes to its twelve numbers."""

    def annotations(rows: Any, given: Any = None) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for image, boxes in enumerate(rows):
            for place, (left, top, right, bottom, label) in enumerate(boxes.tolist()):
                box = [left, top, right - left, bottom - top]
                entry = {"id": len(entries) + 1, "image_id": image, "category_id": int(label), "bbox": box}
                entry |= {"area": box[2] * box[3], "iscrowd": 0}
                entries.append(entry if given is None else entry | {"score": given[image][place]})
        return entries

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(true))],
            "categories": [{"id": label} for label in range(labels)],
            "annotations": annotations(true),
        }
        truth.createIndex()
        evaluated = COCOeval(truth, truth.loadRes(annotations(found, scores)), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return evaluated


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_pycocotools_to_the_last_bit(seed: int) -> None:
    rows = random_rows(seed)
    outcome, official = box_outcome(*rows, LABELS), coco_numbers(*rows)
    for name, place in OFFICIAL.items():
        assert METRICS[name].compute(outcome) == official.stats[place], name
    of_labels = official.eval["precision"][:, :, :, 0, 2].mean((0, 1))
    for label, values in enumerate(per_label(outcome, ["a", "b", "c"]).values()):
        assert values["map"] == pytest.approx(of_labels[label], abs=1e-12)


def test_a_resample_is_pycocotools_number_of_its_images() -> None:
    true, found, scores = random_rows(7)
    scores = as_rows([row + np.linspace(0, 1e-6, len(row)) * (1 + image) for image, row in enumerate(scores)])
    drawn = np.random.default_rng(0).integers(len(true), size=len(true))
    outcome = box_outcome(true, found, scores, LABELS).take(drawn)
    official = coco_numbers(true[drawn], found[drawn], scores[drawn])
    assert average_precision(outcome) == pytest.approx(official.stats[0], abs=1e-12)
    assert average_recall(outcome) == pytest.approx(official.stats[8], abs=1e-12)
    twice = outcome.take(np.arange(5)).take(np.array([4, 4, 0]))
    again = box_outcome(true, found, scores, LABELS).take(drawn[[4, 4, 0]])
    assert average_precision(twice) == average_precision(again)


def test_intervals_hold_the_value() -> None:
    outcome = box_outcome(*random_rows(1), LABELS)
    metrics = [METRICS["map"], METRICS["map_50"]]
    for name, (low, high) in bootstrap_intervals(metrics, outcome, seed=0, resamples=60).items():
        assert low < METRICS[name].compute(outcome) < high


def test_perfect_boxes_have_the_number_one_and_none_have_nothing() -> None:
    true, *_ = random_rows(2)
    ones = as_rows([np.ones(len(row)) for row in true])
    assert average_precision(box_outcome(true, true, ones, LABELS)) == pytest.approx(1.0)
    nothing = as_rows([np.zeros((0, 5)) for _ in true])
    none = as_rows([np.zeros(0) for _ in true])
    assert average_precision(box_outcome(true, nothing, none, LABELS)) == 0.0
    assert np.isnan(average_precision(box_outcome(nothing, nothing, none, LABELS)))


def test_what_is_surely_predicted_counts_for_precision_and_recall() -> None:
    box, other = [0.0, 0, 10, 10, 0], [50.0, 50, 60, 60, 0]
    true = as_rows([np.array([box, other])])
    found = as_rows([np.array([box, [80.0, 80, 90, 90, 0], other])])
    rows = per_label(box_outcome(true, found, as_rows([np.array([0.9, 0.6, 0.3])]), 1), ["a"])
    assert (rows["a"]["precision"], rows["a"]["recall"], rows["a"]["support"]) == (0.5, 0.5, 2)
