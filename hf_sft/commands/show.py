"""Finished runs as tables: one in full, several beside each other."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hf_sft import summary, tables
from hf_sft.commands.run_tables import columns_of_runs, evaluated_splits, rows_of_runs, same_rows, tables_of_one
from hf_sft.errors import DataError, Finding
from hf_sft.record import RunDirectory, RunRecord, as_json
from hf_sft.tables import Table

HEADS_WIDTH, RUN_WIDTH = 26, 18  # characters that names of settings need, and an interval
NARROW, WIDE = 80, 100  # columns of the terminal that are used at least and at most
LONGEST_NAME = 22
MORE_NOTES = "some runs have notes; hf-sft show RUN prints them"
OTHER_ROWS = "the runs were evaluated on different rows; no best is marked"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One run or several. Prints itself in a terminal, shows itself in a notebook."""

    records: tuple[RunRecord, ...]
    names: tuple[str, ...]

    def tables(self) -> list[Table]:
        """What is shown, beside the summary of a single run."""
        if len(self.records) == 1:
            return tables_of_one(self.records[0])
        if self._are_few():
            return columns_of_runs(self.records, self.names)
        return rows_of_runs(self.records, self.names, _width())

    def _are_few(self) -> bool:
        """Whether the runs find room beside each other: four in 100 columns; else they stand below each other."""
        return HEADS_WIDTH + RUN_WIDTH * len(self.records) <= _width()

    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        if len(self.records) == 1:
            return []
        cells = [cell for table in self.tables() for row in table.rows for cell in row[1:]]
        notes = ["* the best"] if any(cell.endswith("*") for cell in cells) else []
        different = [split for split in evaluated_splits(self.records) if not same_rows(self.records, split)]
        notes += [f"{', '.join(different)}: {OTHER_ROWS}"] if different else []
        own = [f"{name}: {note}" for name, record in self._named() for note in record.notes]
        return [*notes, *(own if self._are_few() else [MORE_NOTES] if own else [])]

    def _named(self) -> Iterator[tuple[str, RunRecord]]:
        return zip(self.names, self.records, strict=True)

    def as_json(self) -> str:
        """The record of one run, or a list of those of several, each with its folder."""
        found = [asdict(record) for record in self.records]
        return as_json(found[0] if len(found) == 1 else found)

    def __str__(self) -> str:
        width = _width()
        parts = [summary.as_text(self.records[0])] if len(self.records) == 1 else []
        parts += [tables.as_text(table, width) for table in self.tables()]
        notes = [
            textwrap.fill(tables.printable(note), width, subsequent_indent="  ", break_on_hyphens=False)
            for note in self.notes()
        ]
        return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])

    def _repr_html_(self) -> str:
        import html

        parts = [summary.as_html(self.records[0])] if len(self.records) == 1 else []
        parts += [tables.as_html(table) for table in self.tables()]
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes())
        return '<div style="color:inherit">' + "".join(parts) + (f"<ul>{notes}</ul>" if notes else "") + "</div>"


def show(runs: str | Path | Sequence[str | Path]) -> Comparison:
    """The runs in these folders; a run named twice counts once.

    Raises DataError naming every folder that holds no finished run.
    """
    paths = [runs] if isinstance(runs, (str, Path)) else runs
    records: list[RunRecord] = []
    findings: list[Finding] = []
    for path in {path.resolve(): path for path in map(_run_folder, paths)}.values():
        try:
            records.append(_load(path))
        except DataError as error:
            findings += error.findings
    if not records and not findings:
        findings.append(Finding(place="runs", expected="at least one folder of a finished run", found="none"))
    if findings:
        raise DataError(findings)
    return Comparison(records=tuple(records), names=tuple(shorten([record.output_dir for record in records])))


def shorten(paths: Sequence[str]) -> list[str]:
    """Names of runs that differ: as few of the last parts of their paths as that takes, cut where they are long."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    if max(map(len, names), default=0) > LONGEST_NAME:
        shared = 0
        while len({name[: shared + 1] for name in names}) == 1 < len(names) and shared < len(names[0]):
            shared += 1
        names = [f"…{name[shared:]}" if shared > 2 else name for name in names]
    for cut in (_cut_start, _cut_end):
        found = [cut(name) for name in names]
        if len(set(found)) == len(found):
            return found
    return [f"{place} {name[: LONGEST_NAME - 6]}…" for place, name in enumerate(names, 1)]


def _cut_start(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def _cut_end(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _run_folder(path: str | Path) -> Path:
    """A run's model/ or its record.json name the run, too."""
    path = Path(path)
    inside = path.name in ("model", "record.json") and RunDirectory(path.parent).record.is_file()
    return path.parent if inside else path


def _load(path: Path) -> RunRecord:
    directory = RunDirectory(path)
    if not directory.record.is_file():
        _explain(directory)
    record = RunRecord.load(path)
    kinds = {"dict": dict, "list": list, "int": int, "str": str}
    for field in fields(RunRecord):
        if not isinstance(getattr(record, field.name), kinds[str(field.type).partition("[")[0]]):
            found = f"{field.name} is none"
            raise DataError(Finding(place=str(directory.record), expected="the record of a finished run", found=found))
    return record


def _explain(directory: RunDirectory) -> None:
    """Raises DataError where it can be said why there is no record."""
    saved = sorted(directory.checkpoints.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name))
    if saved or directory.asked.is_file():
        left = f"; it has saved {saved[-1].name}" if saved else "; it has saved no checkpoint"
        fix = "the same command goes on" if saved else "the same command starts it again"
        found = f"this run has not finished{left}"
        raise DataError(Finding(place=str(directory.path), expected="a finished run", found=found, fix=fix))
    inside = [str(file.parent) for file in sorted(directory.path.glob("*/record.json"))]
    if inside:
        found, fix = "a folder of runs", "name one or more of them: " + ", ".join(inside[:6])
        raise DataError(Finding(place=str(directory.path), expected="a finished run", found=found, fix=fix))


def _width() -> int:
    """Columns of the terminal, within what reads well."""
    return min(WIDE, max(NARROW, shutil.get_terminal_size((WIDE, 24)).columns))
