"""Pictures of rows, small enough to stand in a table."""

from __future__ import annotations

import io
from typing import Any

from PIL.Image import Resampling

from hf_sft.analysis.section import Thumbnail

SIDE, LEAST = 128, 64  # pixels of the longer side: at most, and what smaller pictures are enlarged to


def thumbnail(picture: Any, name: str) -> Thumbnail:
    """A PIL image as a PNG of at most 128 pixels a side; small ones are enlarged without smoothing."""
    picture = picture.convert("RGB")
    longest = max(picture.size)
    if longest > SIDE:
        picture.thumbnail((SIDE, SIDE))
    elif longest < LEAST:
        scale = LEAST // longest
        picture = picture.resize((picture.width * scale, picture.height * scale), Resampling.NEAREST)
    return Thumbnail(png=as_png(picture), name=name)


def as_png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
