"""Encoded images looked at before training: whether they decode, how large they are, what they hold."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset, Image
from datasets.utils.file_utils import xopen
from numpy.typing import NDArray
from PIL import Image as pil

from hf_sft.data.bad_rows import Fault, null_faults

SMALLEST = 4  # pixels; what is smaller is a placeholder
MISSING = "names a file that does not exist"
CHUNK = 256  # rows read at once
# What Pillow's readers raise for files that are not what they claim to be.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
)
UNREADABLE += (pil.DecompressionBombError,)  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What one row holds. fault: (kind, detail) where it cannot be used, and the rest is then unknown.

    mode: Pillow's ("RGB", "L", ...). digest: a hash of the pixels, equal for equal pictures; None unless asked for.
    """

    position: int
    width: int = 0
    height: int = 0
    mode: str = ""
    digest: int | None = None
    fault: tuple[str, str] | None = None


def read_pictures(rows: Dataset, column: str, positions: NDArray, *, digest: bool = False) -> Iterator[Picture]:
    """Look at the images of those rows, in their order; null is a fault as well."""
    encoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(positions), CHUNK):
            part = positions[start : start + CHUNK]
            values = encoded[part.tolist()][column]
            yield from pool.map(lambda pair: _look(int(pair[0]), pair[1], digest), zip(part, values, strict=True))


def picture_faults(rows: Dataset, column: str, role: str, positions: NDArray) -> list[Fault]:
    """One fault per row without an image or its file, and per row among `positions` whose image cannot be used."""
    found = {fault.position: (fault.kind, "") for fault in null_faults(rows, column, role)}
    found |= {position: (MISSING, path) for position, path in _missing_files(rows, column)}
    for picture in read_pictures(rows, column, positions):
        if picture.fault is not None:
            found.setdefault(picture.position, picture.fault)
    return [
        Fault(position=position, role=role, column=column, kind=kind, detail=detail)
        for position, (kind, detail) in found.items()
    ]


def _missing_files(rows: Dataset, column: str) -> list[tuple[int, str]]:
    """Position and path of every row whose image is a file that does not exist."""
    encoded = rows.select_columns([column]).cast_column(column, Image(decode=False)).with_format("arrow")
    found, start = [], 0
    for table in encoded.iter(CHUNK * 16):
        for values in table[column].chunks:
            inside, paths = values.field("bytes").is_valid().to_pylist(), values.field("path").to_pylist()
            found += [
                (start + row, path)
                for row, (embedded, path) in enumerate(zip(inside, paths, strict=True))
                if not embedded and path and "://" not in path and not Path(path).is_file()
            ]
            start += len(values)
    return found


def read_bytes(path: str) -> bytes:
    """The content of a local file, a member of an archive or a URL."""
    with xopen(path, "rb") as file:  # local, inside an archive, or a URL, as `datasets` itself opens it
        return bytes(file.read())


def _look(position: int, value: dict[str, Any] | None, digest: bool) -> Picture:
    def faulty(kind: str, detail: str = "") -> Picture:
        return Picture(position=position, fault=(kind, detail))

    if value is None or (value["bytes"] is None and not value["path"]):
        return faulty("is empty (null)")
    name = Path(value["path"] or "").name
    try:
        content = value["bytes"] if value["bytes"] is not None else read_bytes(value["path"])
    except FileNotFoundError:
        return faulty(MISSING, value["path"])
    except OSError as error:
        return faulty("names a file that cannot be read", f"{name}: {error.strerror}")
    if not content:
        return faulty("holds no byte (an empty file)", name)
    try:
        with pil.open(io.BytesIO(content)) as image:
            width, height, mode = *image.size, image.mode
            if not digest:
                image.draft(
                    image.mode, (max(1, width // 8), max(1, height // 8))
                )  # JPEG: all of the file is read, an eighth computed
            image.load()
            pixels = xxhash.xxh64_intdigest(image.convert("RGB").tobytes(), seed=width) if digest else None
    except UNREADABLE as error:
        reason = " ".join(re.sub(r" <.*>", "", str(error)).split())[:120]  # Pillow names the buffer in memory
        return faulty("does not decode as an image", f"{name}: {reason}".removeprefix(": "))
    if min(width, height) < SMALLEST:
        return faulty(f"is smaller than {SMALLEST} x {SMALLEST} pixels", f"{width} x {height} {name}".strip())
    return Picture(position=position, width=width, height=height, mode=mode, digest=pixels)
