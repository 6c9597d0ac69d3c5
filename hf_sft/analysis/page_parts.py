"""The parts of a section as HTML. Text from data passes `escaped`, and nothing else writes it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from hf_sft.analysis.drawing import PALETTE
from hf_sft.analysis.section import Cell, Cloud, Figure, Interval, Part, Section, Table, Thumbnail, Tokens
from hf_sft.summary import number
from hf_sft.tables import escaped

SHORT = 28  # characters of a cell that is not broken
WIDTH, HEIGHT, MARGIN = 640, 420, 14  # of a cloud's drawing


def section_html(section: Section, *, unfolded: bool = True) -> str:
    """One section that folds."""
    kind = " failed" if section.failed else ""
    notes = "".join(f"<li>{escaped(note)}</li>" for note in section.notes)
    return (
        f'<details class="section{kind}" id="{escaped(section.name)}"{" open" if unfolded else ""}>'
        f"<summary><h2>{escaped(section.title)}</h2></summary>"
        f'<p class="sentence">{escaped(section.sentence)}</p>'
        f"{_key_figures(section.key_figures)}"
        f"{''.join(part_html(part, section.name) for part in section.parts)}"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}</details>"
    )


def part_html(part: Part, section: str) -> str:
    """A picture, a table or a cloud of points of a section, after which their files are named."""
    if isinstance(part, Figure):
        kind = ' class="photo"' if part.photo else ""
        return (
            f'<figure><img{kind} alt="{escaped(part.caption)}" src="{_data_url(part.png)}">'
            f"<figcaption>{escaped(part.caption)}</figcaption></figure>"
        )
    return _table(part, section) if isinstance(part, Table) else _cloud(part)


def _key_figures(figures: Mapping[str, float | int | str | None]) -> str:
    shown = "".join(
        f"<div><dt>{escaped(name.replace('_', ' '))}</dt><dd>{_bare(value)}</dd></div>"
        for name, value in figures.items()
    )
    return f'<dl class="figures">{shown}</dl>' if shown else ""


def _table(table: Table, section: str) -> str:
    if not table.rows:
        return f'<div class="table"><p class="caption">{escaped(table.caption)}</p><p class="none">none found</p></div>'
    numeric = [all(_is_number(row[place]) for row in table.rows) for place in range(len(table.heads))]
    heads = "".join(
        f'<th scope="col"{_side(right)}><button type="button">{escaped(head)}</button></th>'
        for head, right in zip(table.heads, numeric, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))}</tr>"
        for row in table.rows[: table.shown]
    )
    more = len(table.rows) - table.shown
    file = f"{escaped(section)}_{escaped(table.name)}.parquet"
    rest = f'<p class="more">{more:,} more rows in the data file {file}</p>' if more > 0 else ""
    return (
        f'<div class="table"><p class="caption">{escaped(table.caption)}</p><div class="scroll">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{rest}</div>"
    )


def _cell(cell: Cell, right: bool) -> str:
    side = _side(right) or _width(cell)
    return f'<td{side} data-v="{_sort_key(cell)}">{_content(cell)}</td>'


def _width(cell: Cell) -> str:
    """Names stay on one line; texts have room, on a phone too."""
    if isinstance(cell, str) and len(cell) <= SHORT:
        return ' class="s"'
    return ' class="x"' if isinstance(cell, (str, Tokens)) else ""


def _side(right: bool) -> str:
    return ' class="n"' if right else ""


def _content(cell: Cell) -> str:
    if isinstance(cell, Interval):
        if math.isnan(cell.value):
            return "-"
        return f'{number(cell.value)} <span class="i">{number(cell.low)} to {number(cell.high)}</span>'
    if isinstance(cell, Thumbnail):
        return f'<img class="thumb photo" alt="{escaped(cell.name)}" src="{_data_url(cell.png)}">'
    if isinstance(cell, Tokens):
        return _tokens(cell)
    if isinstance(cell, str):
        return escaped(cell)
    return _bare(cell)


def _bare(value: float | int | str | bool | None) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "-" if not math.isfinite(value) else escaped(number(value + 0.0))  # -0.0 is 0
    return escaped(value)


def _tokens(cell: Tokens) -> str:
    """Pieces on a ground that is orange where they speak for the prediction, blue where against."""
    parts = []
    for piece, weight in zip(cell.pieces, cell.weights, strict=True):
        colour = "230,97,1" if weight > 0 else "0,114,178"
        strength = min(1.0, abs(weight)) * 0.75
        style = f' style="background:rgba({colour},{strength:.2f})"' if strength >= 0.03 else ""
        parts.append(f'<span class="t"{style} title="{weight:+.2f}">{escaped(piece)}</span>')
    return " ".join(parts)


def _sort_key(cell: Cell) -> str:
    if isinstance(cell, Interval):
        return repr(float(cell.value))
    if isinstance(cell, bool) or cell is None:
        return str(int(bool(cell)))
    if isinstance(cell, (int, float)):
        return repr(cell)
    if isinstance(cell, Thumbnail):
        return escaped(cell.name)
    return escaped("".join(cell.pieces) if isinstance(cell, Tokens) else cell)[:80]


def _is_number(cell: Cell) -> bool:
    return cell is None or isinstance(cell, (int, float, Interval))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _cloud(cloud: Cloud) -> str:
    """Points as a drawing of the page itself: pointing at one (or touching it) tells its row."""
    places = _fitted(cloud.points)
    circles = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{PALETTE[group % len(PALETTE)]}" tabindex="0" '
        f'data-t="row {row_id}: {escaped(text)}"><title>row {row_id}: {escaped(text)}</title></circle>'
        for (x, y), group, text, row_id in zip(places, cloud.groups, cloud.texts, cloud.row_ids, strict=True)
    )
    used = sorted(set(cloud.groups))[:24]
    legend = "".join(
        f'<span><i style="background:{PALETTE[group % len(PALETTE)]}"></i>{escaped(cloud.group_names[group])}</span>'
        for group in used
    )
    return (
        f'<figure class="cloud"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(cloud.caption)}">'
        f'{circles}</svg><p class="legend">{legend}</p><p class="told" aria-live="polite"></p>'
        f"<figcaption>{escaped(cloud.caption)}</figcaption></figure>"
    )


def _fitted(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if not points:
        return []
    columns = list(zip(*points, strict=True))
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    spans = [max(top - bottom, 1e-12) for top, bottom in zip(high, low, strict=True)]
    return [
        (
            MARGIN + (x - low[0]) / spans[0] * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN - (y - low[1]) / spans[1] * (HEIGHT - 2 * MARGIN),
        )
        for x, y in points
    ]
