"""Text from data made safe for Markdown and for publication: escaped, in tables, without absolute paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

FOLD_ABOVE = 30  # rows of a table before it is folded away
# Folders of an absolute path in a sentence: /home/me/a.csv, ~/data/a.csv, C:\data\a.csv; not https://a.b/c/d, and/or.
FOLDERS = re.compile(
    r"""(?<![\w/.\\~])(?:file://)?
    (?: (?: ~(?:[A-Za-z_][\w.-]*)? | [A-Za-z]: ) [/\\] (?:[^\s/\\'"`,;()<>]+[/\\])*  # from a home or a drive
      | [/\\] (?:[^\s/\\'"`,;()<>]+[/\\])+ )
    (?=[^\s/\\])""",
    re.VERBOSE,
)
# Whatever Markdown, HTML or the Hub's formulas would read as more than a letter.
MARKUP = str.maketrans({letter: f"&#{ord(letter)};" for letter in "&<>|`\\*[]~$#"})


def without_folders(value: str) -> str:
    """A path as it may be published: an absolute one is cut to its last part, any other text is left as it is."""
    prefix, colon, rest = value.partition(":")
    if colon and prefix in ("evaluate", "bundled", "package"):
        return f"{prefix}:{without_folders(rest)}"
    path = value.removeprefix("file://")
    at_home = re.match(r"~(?:[A-Za-z_][\w.-]*)?[/\\]", path)
    absolute = at_home or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
    return (PureWindowsPath(path).name or value) if absolute else cut_folders(value)


def cut_folders(sentence: str) -> str:
    """The same inside a sentence: the paths in it lose their folders."""
    return FOLDERS.sub("", sentence)


def escape(text: Any) -> str:
    """Text from data as one line of Markdown that says just that, in a table too."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text)).translate(MARKUP)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", "&#95;", line)  # card_arrival stays readable, _card_ is not emphasis


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], right: int = 0) -> str:
    """A Markdown table, its last `right` columns aligned right; folded when long, empty without rows."""
    if not rows:
        return ""
    rule = ["---"] * (len(heads) - right) + ["---:"] * right
    lines = [f"| {' | '.join(map(escape, row))} |" for row in (heads, *rows)]
    lines.insert(1, f"| {' | '.join(rule)} |")
    text = "\n".join(lines)
    return text if len(rows) <= FOLD_ABOVE else f"<details><summary>{len(rows)} rows</summary>\n\n{text}\n\n</details>"


def bullets(sentences: Iterable[str]) -> str:
    """A list; empty without sentences."""
    return "\n".join(f"- {escape(sentence)}" for sentence in sentences if sentence)


def code(text: str) -> str:
    """A piece of code inside a line."""
    return "`" + "".join(letter if letter.isprintable() and letter != "`" else " " for letter in text) + "`"


def fence(text: str, language: str) -> str:
    """A block of code that no run of backticks inside can end."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"
