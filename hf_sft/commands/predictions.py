"""What a model says of some rows: in memory, or in a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_sft.table_files.source import Row
from hf_sft.tables import Table, as_html, as_text

if TYPE_CHECKING:
    import pandas

ROWS_SHOWN, COLUMNS_SHOWN = 5, 8
LONGEST_CELL = 60  # characters


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The rows in their order, each with its own columns and those that were added.

    Added are `prediction` (the label's name; a list of names where a row may have several; a number for a regression)
    and `score_<label>` for every label; of words with tags `words`, `prediction`, `scores` and `spans`; with
    top_k `prediction_1`, `score_1` and so on, the best first.
    rows: in memory; none where they went to the file at `path`. total: how many there are.
    """

    rows: list[Row] = field(repr=False)
    path: Path | None
    total: int
    seconds: float

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a frame; those in a file are read from it."""
        import pandas

        readers: dict[str, Callable[[Path], pandas.DataFrame]] = {
            ".csv": pandas.read_csv,
            ".jsonl": lambda path: pandas.read_json(path, lines=True),
            ".parquet": pandas.read_parquet,
        }
        return readers[self.path.suffix.lower()](self.path) if self.path else pandas.DataFrame(self.rows)

    def __str__(self) -> str:
        table = [as_text(self._table(), shutil.get_terminal_size((100, 24)).columns)] if self.rows else []
        return "\n".join([*table, self.summary()])

    def _repr_html_(self) -> str:
        return (as_html(self._table()) if self.rows else "") + as_html(Table(rows=[[self.summary()]]))

    def summary(self) -> str:
        """How many rows, how fast, and where they are."""
        speed = f" ({self.total / self.seconds:,.0f} a second)" if self.seconds and self.total else ""
        where = f" -> {self.path}" if self.path else ""
        return f"{self.total:,} row{'s' * (self.total != 1)} in {self.seconds:.1f} s{speed}{where}"

    def _table(self) -> Table:
        heads = list(self.rows[0])
        more = ["..."] if len(heads) > COLUMNS_SHOWN else []
        shown = heads[:COLUMNS_SHOWN]
        rows = [[*(_short(row.get(name)) for name in shown), *more] for row in self.rows[:ROWS_SHOWN]]
        if self.total > ROWS_SHOWN:
            rows.append(["..."] * len(shown + more))
        return Table(heads=[*shown, *more], rows=rows, left=len(heads) + 1)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping) and value.keys() == {"bytes", "path"}:  # an image as data sets store it
        value = value["path"] or value["bytes"]
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
