"""The files of a report: the page, its pictures as PNG, its tables as parquet, its key figures as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hf_sft.analysis.section import Cell, Cloud, Figure, Interval, Section, Table, Thumbnail, Tokens
from hf_sft.record import as_json, write_text


def write_files(folder: Path, page: str, sections: Sequence[Section], name: str = "index.html") -> None:
    """The page, <section>_<part>.png and .parquet, and <section>.json; those of other sections are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for old in [*folder.glob(f"{section.name}_*.png"), *folder.glob(f"{section.name}_*.parquet")]:
            old.unlink()
        for part in section.parts:
            path = folder / f"{section.name}_{part.name}"
            if isinstance(part, Figure):
                path.with_suffix(".png").write_bytes(part.png)
            else:
                columns = columns_of_cloud(part) if isinstance(part, Cloud) else columns_of(part)
                pyarrow.parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
        content = {"title": section.title, "sentence": section.sentence, "notes": list(section.notes)}
        figures = {**content, "failed": section.failed, "key_figures": dict(section.key_figures)}
        write_text(folder / f"{section.name}.json", as_json(figures) + "\n")
    write_text(folder / name, page)


def columns_of(table: Table) -> Mapping[str, Sequence[Any]]:
    """Column -> values; an interval is three columns, weights of words stand beside their pieces."""
    columns: dict[str, list[Any]] = {}
    for place, head in enumerate(table.heads):
        cells = [row[place] for row in table.rows]
        name = head.strip() or "note"
        name = name if name not in columns else f"{name} {place}"
        if any(isinstance(cell, Interval) for cell in cells):
            for part in ("value", "low", "high"):
                key = name if part == "value" else f"{name} {part}"
                columns[key] = [getattr(cell, part) if isinstance(cell, Interval) else None for cell in cells]
        elif any(isinstance(cell, Tokens) for cell in cells):
            columns[name] = [list(cell.pieces) if isinstance(cell, Tokens) else None for cell in cells]
            columns[f"{name} weights"] = [list(cell.weights) if isinstance(cell, Tokens) else None for cell in cells]
        else:
            plain = [cell.name if isinstance(cell, Thumbnail) else cell for cell in cells]
            columns[name] = plain if _alike(plain) else [None if cell is None else str(cell) for cell in plain]
    return columns


def columns_of_cloud(cloud: Cloud) -> Mapping[str, Sequence[Any]]:
    """Row id, place, group and text of each point."""
    return {
        "row": list(cloud.row_ids),
        "x": [float(x) for x, _ in cloud.points],
        "y": [float(y) for _, y in cloud.points],
        "group": [cloud.group_names[group] for group in cloud.groups],
        "text": list(cloud.texts),
    }


def _alike(values: Sequence[Cell]) -> bool:
    kinds = {
        float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value) for value in values
    }
    return len(kinds - {type(None)}) <= 1
