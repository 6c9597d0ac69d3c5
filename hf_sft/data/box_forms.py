"""Forms that boxes are often written in and that no dataset.bbox_format reads: recognised, to say how to turn them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_sft.recipe import BoxFormat


@dataclass(frozen=True, kw_only=True)
class BoxForm:
    """words: what the four numbers are; turn: of [n, 4], the same boxes as `kind`; fix: how to write them so."""

    words: str
    kind: BoxFormat
    turn: Callable[[NDArray], NDArray]
    fix: str


def _low_to_centre(boxes: NDArray) -> NDArray:
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _corners_to_centre(boxes: NDArray) -> NDArray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def _centre_to_low(boxes: NDArray) -> NDArray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _swap(boxes: NDArray) -> NDArray:
    return boxes[:, [1, 0, 3, 2]]


UNREAD_FORMS = (
    BoxForm(
        words="left, top, width, height as shares of the image",
        kind="cxcywh_normalised",
        turn=_low_to_centre,
        fix="add half of width and height to left and top",
    ),
    BoxForm(
        words="left, top, right, bottom as shares of the image",
        kind="cxcywh_normalised",
        turn=_corners_to_centre,
        fix="write (left + right) / 2, (top + bottom) / 2, right - left, bottom - top",
    ),
    BoxForm(
        words="centre, width, height in pixels",
        kind="xywh",
        turn=_centre_to_low,
        fix="take half of width and height from the centre",
    ),
    BoxForm(words="top, left, bottom, right in pixels", kind="xyxy", turn=_swap, fix="write left, top, right, bottom"),
)
