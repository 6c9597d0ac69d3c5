"""What inspect.record kept while training, read again: whole, or a reason why it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Absent

ABOUT = {"parameters", "rows", "rows_of_train", "rows_left_out", "mixed"}


def read_recorded(run: FinishedRun, what: str) -> dict[str, list[Any]]:
    """Column -> values of `gradient_norms` or `rows`. Raises Absent where the file is missing or damaged."""
    import pyarrow
    import pyarrow.parquet

    path = run.record.directory.recorded(what)
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise broken(path) from error
    return {name: table[name].to_pylist() for name in table.column_names}


def read_about(run: FinishedRun) -> dict[str, Any]:
    """What was recorded, and of how many rows. Raises Absent where the file is missing or damaged."""
    path = run.record.directory.recorded("about").with_suffix(".json")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise broken(path) from error
    if not isinstance(about, dict) or not about.keys() >= ABOUT:
        raise broken(path)
    return about


def anything_recorded(run: FinishedRun) -> bool:
    """Whether the run kept something, be it whole, damaged or gone since."""
    if (run.record.recipe.get("inspect") or {}).get("record"):
        return True
    folder = run.record.directory.recorded("about").parent
    return folder.is_dir() and any(folder.iterdir())


def broken(path: Path) -> Absent:
    """The reason to give where a file of the run cannot be read."""
    return Absent(f"{path} is missing or damaged; only training writes it: run again")
