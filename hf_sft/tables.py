"""Tables for the terminal and for notebooks: cells are wrapped to fit, and text from data steers neither."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

GAP = "  "
LONGEST_WORD = 24  # characters that are kept together where the table has to be narrower
BREAKS = re.compile(r"(?<=[ _/,])|(?<=[.-])(?=[A-Za-z])")  # where a cell may go on in the next line
LINE = "border-bottom:1px solid rgba(128,128,128,.35);padding:3px 10px;"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a title; the first `left` columns are aligned left, the first `firm` never wrapped.

    A cell's leading spaces indent it. A row whose first cell alone says something heads those below it.
    """

    title: str = ""
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]]
    left: int = 1
    firm: int = 0


def as_text(table: Table, width: int) -> str:
    """The table for a terminal of that many columns; wider only where its words leave no choice."""
    lines = [table.title] if table.title else []
    rows = [*([table.heads] if table.heads else []), *table.rows]
    margin = GAP if table.title else ""
    widths = _fit([row for row in rows if not _is_heading(row)], width - len(margin), table.firm)
    for row in rows:
        if _is_heading(row):
            lines.append(margin + row[0])
            continue
        cells = [_wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            aligned = [
                part.ljust(size) if column < table.left else part.rjust(size)
                for column, (part, size) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append((margin + GAP.join(aligned)).rstrip())
    return "\n".join(map(printable, lines))


def as_html(table: Table) -> str:
    """The same for a notebook, in its own colours, light or dark."""
    parts = [f"<p><b>{escaped(table.title)}</b></p>"] if table.title else []
    parts.append('<table style="border-collapse:collapse">')
    for tag, rows in (("th", [table.heads] if table.heads else []), ("td", table.rows)):
        for row in rows:
            cells = "".join(
                f'<{tag} style="{LINE}text-align:{"left" if column < table.left else "right"}">{_as_cell(cell)}</{tag}>'
                for column, cell in enumerate(row)
            )
            parts.append(f'<tr style="background:transparent">{cells}</tr>')
    return "".join([*parts, "</table>"])


def narrowest(cells: Sequence[str]) -> int:
    """The least width a column of these cells can have."""
    words = [(_indent(cell), len(word.rstrip())) for cell in cells for word in BREAKS.split(cell.lstrip(" "))]
    return max((indent + min(LONGEST_WORD, length) for indent, length in words), default=0)


def printable(text: str) -> str:
    """One line without control characters: names from data must not steer the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def printable_lines(text: str) -> str:
    """The same line by line."""
    return "\n".join(map(printable, text.split("\n")))


def escaped(text: str) -> str:
    """Text from data inside HTML: no tags, and nothing that turns or hides what stands beside it."""
    return html.escape(printable(text))


def _is_heading(row: Sequence[str]) -> bool:
    return len(row) > 1 and not any(row[1:])


def _indent(cell: str) -> int:
    return len(cell) - len(cell.lstrip(" "))


def _as_cell(cell: str) -> str:
    text = cell.lstrip(" ")
    return "&nbsp;" * _indent(cell) + escaped(text)


def _fit(rows: Sequence[Sequence[str]], width: int, firm: int) -> list[int]:
    """The width of each column: what its cells need, the widest narrowed until all fit."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(cell.rstrip()) for cell in column) for column in columns]
    least = widths[:firm] + [narrowest(column) for column in columns[firm:]]
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        wide = [column for column in range(len(widths)) if widths[column] > least[column]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _wrap(cell: str, width: int) -> list[str]:
    """Lines of at most `width`, indented as the first."""
    text = cell.lstrip(" ")
    indent = " " * min(_indent(cell), max(0, width - 1))
    room, lines, line = max(1, width - len(indent)), [], ""
    for word in BREAKS.split(text):
        if line and len((line + word).rstrip()) > room:
            lines.append(line)
            line = ""
        line += word
        while len(line.rstrip()) > room:
            lines.append(line[:room])
            line = line[room:]
    return [(indent + part).rstrip() for part in [*lines, line]]
