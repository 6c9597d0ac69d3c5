"""Recorded activations on disk: found by what they were computed from, whichever run computed them.

A folder per computation (weights, boundary, processor, precision); in it segments, each written by one run: the
activations of some rows, read through memory maps. A row is found by a hash of what the model was given for it, so
that splits, folds, samples and seeds share what they have in common, and a row that changed is another row.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.data.recorded import ABOUT, COMPLETE
from hf_sft.record import write_text

ABANDONED = 3600.0  # seconds after which a segment that nobody completes is taken away


@dataclass(frozen=True, slots=True)
class Place:
    """Where one row lies: the segment and its first and last step (or its number) in it."""

    segment: int
    start: int
    stop: int


class Segment:
    """The activations of some rows: ragged ones step after step, others row after row.

    Raises OSError or ValueError where it is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        number = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))["activations"]
        self.keys: NDArray = np.load(folder / "keys.npy")  # uint64 [rows, 2]
        self.offsets: NDArray = np.load(folder / "offsets.npy")  # int64 [rows + 1]
        self.activations = [np.load(activation_file(folder, index), mmap_mode="r") for index in range(number)]
        whole = len(self.offsets) == len(self.keys) + 1
        if not whole or any(len(activation) != self.offsets[-1] for activation in self.activations):
            raise ValueError("rows are missing")

    def __reduce__(self) -> Any:
        return Segment, (self.folder,)  # a data-loading process maps the files itself


class Store:
    """What is recorded of one computation, and where more of it is written. Nothing is read before `read`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.segments: list[Segment] = []
        self.places: dict[bytes, Place] = {}

    def complete_segments(self) -> list[str]:
        """Names of the segments that are there to be read."""
        return sorted(mark.parent.name for mark in self.folder.glob(f"*/{COMPLETE}"))

    def read(self, names: Sequence[str]) -> None:
        """Take in these segments; what is damaged counts as not there."""
        for name in names:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                segment = Segment(self.folder / name)
                number = len(self.segments)
                self.segments.append(segment)
                for row, key in enumerate(segment.keys):
                    start, stop = int(segment.offsets[row]), int(segment.offsets[row + 1])
                    self.places.setdefault(key.tobytes(), Place(number, start, stop))

    def find(self, key: bytes) -> Place | None:
        return self.places.get(key)

    def row(self, place: Place, number: int, *, ragged: bool) -> NDArray:
        """One activation of a row: [steps, ...] where it is ragged, else [...]."""
        whole = self.segments[place.segment].activations[number]
        return whole[place.start : place.stop] if ragged else whole[place.start]

    def describe(self, about: dict[str, Any]) -> None:
        """What was computed, for people; it also tells when it was used last, which is now."""
        self._sweep()
        write_text(self.folder / ABOUT, json.dumps(about, indent=1) + "\n")

    def touch(self) -> None:
        """It is used now; where it cannot be written to, nobody knows."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / ABOUT)

    def begin(self, keys: Sequence[bytes], steps: NDArray, shapes: Sequence[tuple[int, ...]], dtype: str) -> Path:
        """A new segment for these rows, its files at their full size: room is found now, or OSError is raised.

        steps: int64 [rows], of each row; 1 where rows are not ragged. shapes: of one step of each activation.
        """
        folder = self.folder / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        try:
            self._lay_out(folder, keys, steps, shapes, dtype)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _lay_out(
        self, folder: Path, keys: Sequence[bytes], steps: NDArray, shapes: Sequence[tuple[int, ...]], dtype: str
    ) -> None:
        offsets = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
        np.save(folder / "keys.npy", np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2))
        np.save(folder / "offsets.npy", offsets)
        for number, shape in enumerate(shapes):
            file = activation_file(folder, number)
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(int(offsets[-1]), *shape)).flush()
            with open(file, "r+b") as handle:
                if hasattr(os, "posix_fallocate"):  # a sparse file would end the process when the disk is full
                    os.posix_fallocate(handle.fileno(), 0, max(1, file.stat().st_size))

    def complete(self, folder: Path) -> None:
        """The segment can be read from now on."""
        rows, number = len(np.load(folder / "keys.npy")), len(list(folder.glob("activation_*.npy")))
        write_text(folder / COMPLETE, json.dumps({"rows": rows, "activations": number}) + "\n")

    def _sweep(self) -> None:
        for folder in self.folder.glob("*/"):
            with contextlib.suppress(FileNotFoundError):  # its run completed it, or swept it, at this moment
                if not (folder / COMPLETE).exists() and time.time() - _touched(folder) > ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)


def activation_file(folder: Path, number: int) -> Path:
    return folder / f"activation_{number}.npy"


def _touched(folder: Path) -> float:
    """When something in it was last written, in seconds since 1970."""
    return max((file.stat().st_mtime for file in (folder, *folder.iterdir())), default=0.0)
