"""What an analysis hands over: a section of pictures, tables and key figures, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class Absent(Exception):
    """An analysis makes no sense for this run; the message says why, in words for its reader."""


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds that hold it with 95 % probability; sorted by its value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Thumbnail:
    """A small PNG with what it is called where pictures cannot be shown."""

    png: bytes
    name: str


@dataclass(frozen=True)
class Tokens:
    """A text in pieces, each with a weight in [-1, 1]: how far it speaks for (positive) or against."""

    pieces: tuple[str, ...]
    weights: tuple[float, ...]


Cell = str | int | float | bool | None | Interval | Thumbnail | Tokens


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture on white. photo: its colours are those of the data, and stay as they are on a dark page."""

    name: str
    caption: str
    png: bytes
    photo: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under heads. shown: how many the page shows; the data file holds all."""

    name: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    shown: int = 30


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of a plane that tell their row: x, y in any unit, group by number, what is read at each point."""

    name: str
    caption: str
    points: Sequence[tuple[float, float]]
    groups: Sequence[int]
    group_names: Sequence[str]
    texts: Sequence[str]
    row_ids: Sequence[int]


Part = Figure | Table | Cloud


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one analysis found. sentence: what is shown and what to look for. failed: it could not be finished."""

    name: str
    title: str
    sentence: str
    parts: tuple[Part, ...] = ()
    key_figures: Mapping[str, float | int | str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failed: bool = False

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(part for part in self.parts if isinstance(part, Figure))

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(part for part in self.parts if isinstance(part, Table))
