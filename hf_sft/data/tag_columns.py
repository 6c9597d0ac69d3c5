"""What is said of a column that should hold lists of words, tags or spans and holds something else."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from hf_sft.errors import DataError, Finding

PLACE = "dataset.columns.label"
LOOKED_AT = 1000  # rows, for one with a value
UNCUT = re.compile(r"""['"]\s+['"]""")  # as numpy prints its arrays: Python reads 'a' 'b' as one text


def wrong_column(
    rows: Dataset, name: str, expected: str, fix: str, *, words: str = "", place: str = PLACE
) -> DataError:
    """The error for a column of another kind; where its cells tell how lists were lost, they say what to do.

    fix: for all others. words: the column of tokens, where rows are to hold such.
    """
    feature = rows.features[name]
    kind = getattr(feature, "dtype", None) or type(feature).__name__
    inner = feature.feature if isinstance(feature, List) else None
    inside = "" if inner is None else f" of {getattr(inner, 'dtype', None) or type(inner).__name__}"
    found, known = f"column {name!r} of type {kind}{inside}", None
    if isinstance(feature, (Value, ClassLabel)):
        known = _name_cells(rows, name, words)
    return DataError(
        Finding(
            place=place, expected=expected, found=found + (known[0] if known else ""), fix=known[1] if known else fix
        )
    )


def _name_cells(rows: Dataset, name: str, words: str) -> tuple[str, str] | None:
    """(what the cells hold, the fix); None where they tell nothing."""
    cells = rows.select(range(min(LOOKED_AT, len(rows)))).select_columns([name])[:][name]
    cell = next((cell for cell in cells if cell is not None and str(cell).strip()), None)
    if cell is None:
        return None
    shown, text = repr(cell)[:60], str(cell).strip()
    both = f"{words!r} and {name!r}" if words and words != name else f"{name!r}"
    if isinstance(cell, str) and text[0] + text[-1] in ("[]", "()", "{}"):
        reader = _reader(text)
        how = f"; with pandas frame[column].map({reader}) reads them" if reader else ""
        return f", which holds lists written as text: {shown}", f"{_as_lines(both)}{how}"
    if not words:
        return (
            f", which holds one value per row: {shown}",
            "one label for a whole text is task: text-classification; tags of words need a list in every row",
        )
    if isinstance(cell, str) and " " in text:
        found = f", which holds texts with spaces between words or tags: {shown}"
        return found, f"{_as_lines(both)}; with pandas frame[column].str.split() makes them"
    sentence = next((other for other in rows.column_names if "sent" in other.lower() and other != name), None)
    by = json.dumps(sentence) if sentence else "<what numbers the sentences>"
    group = f'frame.groupby({by}, sort=False)[["{words}", "{name}"]].agg(list)'
    found = f", which holds one word or tag per row: {shown}"
    return found, f"make one row of each sentence, as json lines with lists; with pandas {group} does"


def _as_lines(both: str) -> str:
    return f"write lists into {both}, as json lines: csv files hold none"


def _reader(text: str) -> str:
    """What reads such a text as a list; empty where nothing does."""
    readers: tuple[tuple[str, Any], ...] = (("json.loads", json.loads), ("ast.literal_eval", ast.literal_eval))
    for name, read in readers:
        try:
            read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return "" if name == "ast.literal_eval" and UNCUT.search(text) else name
    return ""
