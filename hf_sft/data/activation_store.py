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
from huggingface_hub.constants import HF_HOME
from numpy.typing import NDArray

from hf_sft.record import write_text

COMPLETE = "complete"  # written last: a segment without it is not read
ABANDONED = 3600.0  # seconds after which a segment that nobody completes is taken away


@dataclass(frozen=True)
class Place:
    """Where one row lies: the segment and its first and last step (or its number) in it."""

    segment: int
    start: int
    stop: int


class Segment:
    """The activations of some rows. Ragged ones lie step after step, others row after row."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.keys: NDArray = np.load(folder / "keys.npy")  # uint64 [rows, 2]
        self.offsets: NDArray = np.load(folder / "offsets.npy")  # int64 [rows + 1]
        files = sorted(folder.glob("activation_*.npy"))
        self.activations = [np.load(file, mmap_mode="r") for file in files]
        if any(len(activation) != self.offsets[-1] for activation in self.activations):
            raise ValueError("rows are missing")


class Store:
    """What is recorded of one computation, and where more of it is written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.segments: list[Segment] = []
        self.places: dict[bytes, Place] = {}
        self.read()

    def read(self) -> None:
        """Take in the segments that are complete; what is damaged or half written counts as not there."""
        known = {segment.folder for segment in self.segments}
        for mark in sorted(self.folder.glob(f"*/{COMPLETE}")):
            if mark.parent in known:
                continue
            with contextlib.suppress(OSError, ValueError):
                segment = Segment(mark.parent)
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

    def begin(self, keys: Sequence[bytes], steps: NDArray, shapes: Sequence[tuple[int, ...]], dtype: str) -> Path:
        """A new segment for these rows, its files at their full size: room is found now or never.

        steps: int64 [rows], of each row; 1 where rows are not ragged. shapes: of one step of each activation.
        """
        self._sweep()
        folder = self.folder / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        offsets = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
        np.save(folder / "keys.npy", np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2))
        np.save(folder / "offsets.npy", offsets)
        for number, shape in enumerate(shapes):
            file = activation_file(folder, number)
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(int(offsets[-1]), *shape)).flush()
            with open(file, "r+b") as handle:
                if hasattr(os, "posix_fallocate"):  # a sparse file would end the process when the disk is full
                    os.posix_fallocate(handle.fileno(), 0, max(1, file.stat().st_size))
        return folder

    def complete(self, folder: Path, about: dict[str, Any]) -> None:
        """The segment can be read from now on."""
        write_text(self.folder / "about.json", json.dumps(about, indent=1) + "\n")
        write_text(folder / COMPLETE, "")

    def _sweep(self) -> None:
        for folder in self.folder.glob("*/"):
            if not (folder / COMPLETE).exists() and time.time() - _touched(folder) > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def activation_file(folder: Path, number: int) -> Path:
    return folder / f"activation_{number}.npy"


def _touched(folder: Path) -> float:
    """When something in it was last written, in seconds since 1970."""
    return max((file.stat().st_mtime for file in (folder, *folder.iterdir())), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One computation as `hf-sft cache list` shows it. bytes: on disk; used: when it was last written to."""

    key: str
    model: str
    boundary: str
    rows: int
    bytes: int
    used: float


def default_root() -> Path:
    """Where activations are kept unless a recipe says otherwise."""
    return Path(HF_HOME) / "hf_sft" / "activations"


def list_recorded(root: Path) -> list[Recorded]:
    """Every computation below that folder, the largest first."""
    found = []
    for folder in sorted(path for path in root.glob("*/") if (path / "about.json").is_file()):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        segments = Store(folder).segments
        files = [file for file in folder.rglob("*") if file.is_file()]
        found.append(
            Recorded(
                key=folder.name,
                model=str(about.get("model", "?")),
                boundary=str(about.get("boundary", "?")),
                rows=sum(len(segment.keys) for segment in segments),
                bytes=sum(file.stat().st_size for file in files),
                used=max((file.stat().st_mtime for file in files), default=0.0),
            )
        )
    return sorted(found, key=lambda one: -one.bytes)


def clear_recorded(root: Path, keys: Sequence[str]) -> None:
    """Delete these computations. A run that reads one goes on: what is mapped stays until it is let go."""
    for key in keys:
        shutil.rmtree(root / key, ignore_errors=True)
