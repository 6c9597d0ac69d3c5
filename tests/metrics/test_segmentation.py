"""Metrics of pixels: equal to scikit-learn's, whatever order and in whatever parts images are counted."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

from hf_sft.metrics import METRICS
from hf_sft.metrics.intervals import bootstrap_intervals
from hf_sft.metrics.segmentation import count_pixels, image_ious, per_class, pixel_outcome

NUMBER = 6


def drawn(images: int = 9, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Truths (with pixels that do not count, and never class 5) and predictions of images of several sizes."""
    generator = np.random.default_rng(seed)
    truths, predictions = [], []
    for index in range(images):
        shape = (7 + index, 5)
        truth = generator.integers(-1, NUMBER - 2, shape)
        truth[truth == -1] = -100
        predictions.append(np.where(generator.random(shape) < 0.6, truth.clip(0), generator.integers(0, 5, shape)))
        truths.append(truth)
    return truths, predictions


def outcome_of(truths, predictions):
    counts = [count_pixels(truth, found, NUMBER) for truth, found in zip(truths, predictions, strict=True)]
    return pixel_outcome(np.stack(counts), np.full((len(counts), NUMBER), 1 / NUMBER))


def flat(truths, predictions):
    true, found = (np.concatenate([part.ravel() for part in parts]) for parts in (truths, predictions))
    return true[true >= 0], found[true >= 0]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn_over_all_pixels_that_count(seed):
    truths, predictions = drawn(seed=seed)
    true, found = flat(truths, predictions)
    outcome = outcome_of(truths, predictions)
    values = {name: METRICS[name].compute(outcome) for name in ("mean_iou", "mean_dice", "pixel_accuracy")}
    occurring = np.union1d(true, found)
    assert values["mean_iou"] == pytest.approx(jaccard_score(true, found, labels=occurring, average="macro"))
    assert values["mean_dice"] == pytest.approx(f1_score(true, found, labels=occurring, average="macro"))
    assert values["pixel_accuracy"] == pytest.approx(accuracy_score(true, found))
    classes = per_class(outcome, [str(number) for number in range(NUMBER)])
    settings = {"labels": range(NUMBER), "average": None, "zero_division": 0}
    for name, function in (
        ("iou", jaccard_score),
        ("precision", precision_score),
        ("recall", recall_score),
        ("f1", f1_score),
    ):
        np.testing.assert_allclose([part[name] for part in classes.values()], function(true, found, **settings))
    assert [part["support"] for part in classes.values()] == np.bincount(true, minlength=NUMBER).tolist()


def test_a_class_in_neither_truth_nor_prediction_counts_in_no_mean():
    truths, predictions = [np.array([[0, 0, 1, 1]])], [np.array([[0, 0, 0, 1]])]
    assert METRICS["mean_iou"].compute(outcome_of(truths, predictions)) == pytest.approx((2 / 3 + 1 / 2) / 2)
    predictions = [np.array([[0, 0, 0, 4]])]
    assert METRICS["mean_iou"].compute(outcome_of(truths, predictions)) == pytest.approx((2 / 3 + 0 + 0) / 3)


def test_pixels_that_do_not_count_change_nothing():
    truths, predictions = drawn()
    wrong = [np.where(truth < 0, 3, found) for truth, found in zip(truths, predictions, strict=True)]
    np.testing.assert_array_equal(outcome_of(truths, predictions).counts, outcome_of(truths, wrong).counts)


def test_an_image_has_the_mean_over_its_own_classes():
    truths, predictions = drawn(images=4)
    own = image_ious(outcome_of(truths, predictions).counts)
    for place, (truth, found) in enumerate(zip(truths, predictions, strict=True)):
        true, said = flat([truth], [found])
        occurring = np.union1d(true, said)
        assert own[place] == pytest.approx(jaccard_score(true, said, labels=occurring, average="macro"))


def test_intervals_are_over_images():
    outcome = outcome_of(*drawn(images=30))
    low, high = bootstrap_intervals([METRICS["mean_iou"]], outcome, seed=0)["mean_iou"]
    assert low < METRICS["mean_iou"].compute(outcome) < high
    same = outcome_of(*[part * 30 for part in drawn(images=1)])
    low, high = bootstrap_intervals([METRICS["mean_iou"]], same, seed=0)["mean_iou"]
    assert high - low < 1e-12
