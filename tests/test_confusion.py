"""Laws of which labels are taken for which: the counts, the picture, what the card says of them."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from hf_sft.confusion import as_png, count_confusion


def test_counts_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(0, 4, (2, 200))
    expected = confusion_matrix(references, predictions, labels=range(5)).tolist()
    assert count_confusion(references, predictions, 5) == expected, "a label without rows has a row of zeros"


def test_the_same_counts_give_the_same_picture_whatever_the_names_hold() -> None:
    counts, names = [[3, 1], [0, 2]], ["$a_b$\n<i>", "x" * 80]
    picture = as_png(counts, names)
    assert picture == as_png(counts, names) and picture.startswith(b"\x89PNG")
    assert picture != as_png([[3, 1], [2, 0]], names)


def test_many_labels_are_drawn_too() -> None:
    assert as_png(np.eye(40, dtype=int).tolist(), [f"label_{number}" for number in range(40)]).startswith(b"\x89PNG")
