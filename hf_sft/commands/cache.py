"""`hf-sft cache`: what is recorded of frozen layers, and making room."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hf_sft import tables
from hf_sft.data import recorded
from hf_sft.data.recorded import Recorded, amount, choose_recorded, clear_recorded, list_recorded
from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.tables import Table

SHOWN = 12  # letters of a key


def list_cache(root: Path | None = None) -> list[Recorded]:
    """What is recorded there (absent: under the Hugging Face cache), the one used last first."""
    return list_recorded(_root(root))


def clear_cache(
    keys: Sequence[str] = (), *, every: bool = False, older_than: float | None = None, root: Path | None = None
) -> list[Recorded]:
    """Delete what is named, all of it, or (of these) what was not used for so many days -> what was deleted.

    Raises EnvironmentProblem for a key that is not there, for nothing named, and for what could not be deleted.
    """
    if not keys and not every and older_than is None:
        expected, fix = "what to delete", "name keys that hf-sft cache list shows, or --older-than DAYS, or --all"
        raise EnvironmentProblem(Finding(place="KEY", expected=expected, found="nothing", fix=fix))
    if keys and every:
        expected, fix = "keys, or --all", "leave one of them out"
        raise EnvironmentProblem(Finding(place="KEY", expected=expected, found="both", fix=fix))
    chosen = choose_recorded(_root(root), keys, every=every, older_than=older_than)
    kept = clear_recorded(_root(root), chosen)
    if kept:
        findings = [
            Finding(
                place=str(_root(root) / one.key), expected="a folder that can be deleted", found="it is still there"
            )
            for one in kept
        ]
        raise EnvironmentProblem(findings)
    return chosen


def as_text(found: Sequence[Recorded], root: Path | None = None) -> str:
    """The list for the terminal, with its sum."""
    if not found:
        return f"nothing is recorded in {_root(root)}"
    heads = ("key", "model", "frozen up to", "dtype", "rows", "size", "last used")
    rows = [
        (one.key[:SHOWN], one.model, one.boundary, one.dtype, f"{one.rows:,}", amount(one.bytes), _ago(one.used))
        for one in found
    ]
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    table = tables.as_text(Table(heads=heads, rows=rows, left=4, firm=1), width)
    return f"{table}\n{amount(sum(one.bytes for one in found))} in {_root(root)}"


def freed(found: Sequence[Recorded]) -> str:
    """What was deleted, in words."""
    lines = [f"deleted {one.key[:SHOWN]} ({one.model}, {one.rows:,} rows, {amount(one.bytes)})" for one in found]
    return "\n".join(map(tables.printable, [*lines, f"{amount(sum(one.bytes for one in found))} freed"]))


def _root(root: Path | None) -> Path:
    return (root or recorded.default_root()).absolute()


def _ago(moment: float) -> str:
    days = (time.time() - moment) / 86_400
    if days < 1:
        return "today"
    return "1 day ago" if days < 2 else f"{days:.0f} days ago"
