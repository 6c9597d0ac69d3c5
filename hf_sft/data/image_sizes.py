"""The sizes of encoded images, read from the head of each file, as a reader of the image will see them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Image
from datasets.utils.file_utils import xopen
from PIL import Image as pil

from hf_sft.data.pictures import CHUNK, UNREADABLE

ORIENTATION = 0x0112  # the tag of EXIF that says how a camera was held
TURNED = (5, 6, 7, 8)  # its values for images that lie on their side


def read_sizes(rows: Dataset, column: str) -> list[tuple[int, int] | None]:
    """(width, height) of every row's image, turned as it is shown; None where it cannot be read."""
    if column not in rows.column_names:
        return [None] * len(rows)
    encoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
    return [
        size_of(value)
        for start in range(0, len(rows), CHUNK)
        for value in encoded[list(range(start, min(start + CHUNK, len(rows))))][column]
    ]


def size_of(value: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """(width, height) of an encoded image, turned as it is shown, from its head alone; None where it cannot be read."""
    if value is None:
        return None
    try:
        content = io.BytesIO(value["bytes"]) if value["bytes"] is not None else xopen(value["path"], "rb")
        with content, pil.open(content) as image:
            turned = image.getexif().get(ORIENTATION) in TURNED
            return (image.height, image.width) if turned else (image.width, image.height)
    except UNREADABLE:
        return None
