"""The rows a saved model is evaluated on: its run's own splits, or other data with labels matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.data.bad_rows import refuse
from hf_sft.data.columns import check_columns, columns_of, label_column
from hf_sft.data.label_checks import check_values
from hf_sft.data.labels import Labels, targets_as_names
from hf_sft.data.load import load_source
from hf_sft.data.splits import Split, select_splits
from hf_sft.errors import DataError, Finding, nearest
from hf_sft.recipe import DataSet, Recipe
from hf_sft.saved_model import SavedModel, name_columns
from hf_sft.tasks.load import LabelledSplit, drop_unlabelled_rows, load_data, ready_splits


def rows_to_evaluate(
    saved: SavedModel, data: Any, split: str | None, columns: Mapping[str, Any], label_map: Any, options: Any
) -> tuple[LabelledSplit, Recipe, str, list[str]]:
    """The labelled rows, the recipe that reads them, where they come from, and what was decided, in words."""
    if data is None:
        if saved.run is None and not (Path(saved.source) / "recipe.yaml").is_file():
            fix = "name data: --data DATA (from Python: data=...)"
            raise DataError(Finding(place="data", expected="labelled rows", found="none: this is no run", fix=fix))
        if split in (None, "train", "validation", "test") and not columns and label_map is None:
            return _own_rows(saved, split)
        settings = saved.recipe.dataset
    else:
        path = str(data) if isinstance(data, (str, Path)) else "memory"
        settings = DataSet(path=path, options=dict(options))
        settings = settings.model_copy(update={"columns": saved.recipe.dataset.columns})
    return _other_rows(saved, data, settings, split, columns, label_map)


def _own_rows(saved: SavedModel, role: str | None) -> tuple[LabelledSplit, Recipe, str, list[str]]:
    """A split as the run itself cut it, validation out of train included."""
    found = load_data(saved.recipe, saved.task)
    labelled = [name for name, part in found.splits.items() if part.entries is not None]
    role = role or next((name for name in ("test", "validation") if name in labelled), labelled[0])
    if role not in labelled:
        fix = "--split " + " or ".join(labelled)
        expected = f"a labelled split {role} in {found.origin}"
        raise DataError(Finding(place="split", expected=expected, found="splits " + ", ".join(labelled), fix=fix))
    return found.splits[role], saved.recipe, found.origin, []


def _other_rows(
    saved: SavedModel, data: Any, settings: DataSet, split: str | None, columns: Mapping[str, Any], label_map: Any
) -> tuple[LabelledSplit, Recipe, str, list[str]]:
    recipe = saved.recipe.model_copy(update={"dataset": settings})
    if data is not None:
        recipe._folder = Path.cwd()
    in_memory = None if data is None or isinstance(data, (str, Path)) else _named(data)
    source, origin = load_source(recipe, in_memory)
    chosen = split or _only_split(list(source))
    if chosen.partition("[")[0] not in source and "+" not in chosen:
        fix = nearest(chosen, list(source))
        raise DataError(Finding(place="split", expected=f"a split of {origin}", found=chosen, fix=fix))
    alone = settings.model_copy(update={"splits": {"train": chosen, "validation": None, "test": None}})
    rows = select_splits(source, alone)["train"]
    what = f"{origin} ({chosen})"
    described = replace(saved, recipe=recipe)
    recipe = name_columns(described, rows.rows.column_names, columns, what)
    if label_map is not None:
        recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"label_map": dict(label_map)})})
    check_columns(rows.rows.column_names, {"label": True}, recipe, what)
    labelled, notes = _with_names(saved, rows, recipe)
    ready, bad = ready_splits({"train": labelled}, recipe, saved.task)
    if bad:
        raise refuse(bad)
    return ready["train"], recipe, origin, notes


def _named(data: Any) -> dict[str, Any]:
    return dict(data) if isinstance(data, Mapping) else {"test": data}


def _only_split(names: list[str]) -> str:
    chosen = next((name for name in ("test", "validation", "train") if name in names), None)
    if chosen is None and len(names) != 1:
        fix = "--split " + " or ".join(names)
        raise DataError(Finding(place="split", expected="one split", found=", ".join(names), fix=fix))
    return chosen or names[0]


def _with_names(saved: SavedModel, split: Split, recipe: Recipe) -> tuple[LabelledSplit, list[str]]:
    """The rows with their labels under the model's names. Raises DataError for labels that it does not know."""
    labels, settings = saved.labels, recipe.dataset
    column = label_column(split.rows, settings)
    assert column is not None
    (name,) = columns_of(settings, "label")
    if column.unlabelled:
        found = f"no label in column {name!r} of {split.source}"
        raise DataError(Finding(place="dataset.columns.label", expected="labels", found=found, fix="hf-sft predict"))
    splits, columns = {"train": split}, {"train": column}
    drop_unlabelled_rows(splits, columns, recipe)
    split, column = splits["train"], columns["train"]
    check_values(split.source, column.values, labels.problem)
    notes: list[str] = []
    if column.class_names is None and labels.problem != "regression" and not settings.label_map:
        settings, notes = _bare_ids(saved, column.values, settings)
    entries = np.empty(len(column.values), dtype=object)
    entries[:] = targets_as_names(column, labels.problem, settings)
    kept = np.flatnonzero([entry is not None for entry in entries])
    if labels.problem != "regression":
        _refuse_unknown(entries[kept], labels)
    return LabelledSplit(split=split, entries=entries).take(kept), notes


def _bare_ids(saved: SavedModel, values: Sequence[Any], settings: DataSet) -> tuple[DataSet, list[str]]:
    """Integers without names stand for the model's ids, unless the model's own names are such integers."""
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else [value])]
    ids = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in flat)
    names = saved.labels.names
    if not ids or {str(int(item)) for item in flat} <= set(names) or max(flat, default=0) >= len(names):
        return settings, []
    pairs = ", ".join(f"{index} is {name}" for index, name in list(enumerate(names))[:6])
    note = f"labels are integers without names, read as the model's ids: {pairs}{', ...' if len(names) > 6 else ''}"
    return settings.model_copy(update={"labels": list(names)}), [note]


def _refuse_unknown(entries: NDArray, labels: Labels) -> None:
    flat = (name for entry in entries for name in ([entry] if isinstance(entry, str) else entry))
    unknown = sorted(set(flat) - set(labels.names))
    if not unknown:
        return
    some = ", ".join(map(repr, unknown[:6])) + (f" and {len(unknown) - 6} more" if len(unknown) > 6 else "")
    near = nearest(unknown[0], labels.names)
    pairs = f"--label-map '{{{unknown[0]}: {labels.names[0]}, ...}}' (null drops a label)"
    fix = f"{near} " * near.startswith("did you mean") + pairs
    expected = "labels that the model knows: " + ", ".join(labels.names[:10])
    raise DataError(Finding(place="dataset.columns.label", expected=expected, found=some, fix=fix))
