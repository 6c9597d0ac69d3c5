"""Small batches to try a model with: two that differ in every size, and one of usual rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_sft.tasks.load import Inputs

STEPS = ((5, 4, 2), (7, 3))  # of the rows of two batches; rows, steps and their products all differ
Features = list[dict[str, Any]]


def probe_features(inputs: Inputs, length: str | None) -> tuple[Features, Features]:
    """The features of two batches: of rows that are no sequences as they are, of sequences cut to STEPS.

    length: the input that is as long as a row has steps; None where rows are no sequences.
    """
    if length is None:
        first = inputs.features(max(map(len, STEPS)))
        one, other = ([first[row % len(first)] for row in range(len(steps))] for steps in STEPS)
        return one, other
    longest = inputs.rows[int(np.argmax(inputs.lengths))]
    one, other = ([_resized(longest, length, size) for size in steps] for steps in STEPS)
    return one, other


def usual_features(inputs: Inputs) -> Features:
    """Two rows of median length."""
    middle = np.argsort(inputs.lengths, kind="stable")[len(inputs.lengths) // 2 :][:2]
    return [inputs.rows[int(position)] for position in middle]


def _resized(feature: Mapping[str, Any], length: str, size: int) -> dict[str, Any]:
    """The row with so many steps; its first and last stay where they are, as models look for these."""
    whole = len(feature[length])
    return {
        name: _cycled(value, size) if isinstance(value, list) and len(value) == whole else value
        for name, value in feature.items()
    }


def _cycled(values: Sequence[Any], size: int) -> list[Any]:
    inner = list(values[1:-1]) or list(values[:1])
    return [values[0], *(inner[index % len(inner)] for index in range(size - 2)), values[-1]]
