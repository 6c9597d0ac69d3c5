"""The rows a saved model is evaluated on: its run's own splits, or other data with labels matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.data.coco import READER, find_coco
from hf_sft.data.columns import check_columns, columns_of
from hf_sft.data.label_checks import check_values
from hf_sft.data.labels import Labels, check_map
from hf_sft.data.load import load_source
from hf_sft.data.splits import Split, select_splits
from hf_sft.errors import DataError, Finding, RecipeError, nearest
from hf_sft.recipe import DataSet, Recipe
from hf_sft.record import RunRecord
from hf_sft.saved_model import SavedModel, name_columns
from hf_sft.tasks.load import LabelledSplit, drop_unlabelled_rows, fingerprint, load_data, read_labels, ready_splits


def rows_to_evaluate(
    saved: SavedModel,
    data: Any,
    split: str | None,
    columns: Mapping[str, Any],
    label_map: Any,
    options: Any,
    on_bad_row: str = "error",
) -> tuple[LabelledSplit, Recipe, str, list[str]]:
    """The labelled rows, the recipe that reads them, where they come from, and what was decided, in words."""
    unknown = [role for role in columns if role not in saved.task.columns]
    if unknown:
        fix = nearest(unknown[0], saved.task.columns)
        raise RecipeError(Finding(place="columns", expected="a role of the task", found=unknown[0], fix=fix))
    changes: dict[str, Any] = {"on_bad_row": on_bad_row} if on_bad_row != "error" else {}
    if label_map is not None:
        changes["label_map"] = dict(label_map)
    if data is None:
        if saved.run is None and not (Path(saved.source) / "recipe.yaml").is_file():
            fix = "name data: --data DATA (from Python: data=...)"
            raise DataError(Finding(place="data", expected="labelled rows", found="none: this is no run", fix=fix))
        if options:
            fix = "name the data too, or leave it out: the run's own options hold"
            raise RecipeError(Finding(place="options", expected="data to read", found="options alone", fix=fix))
        own = saved.recipe.dataset
        changes |= {"columns": {**own.columns, **columns}}
        changed = replace(saved, recipe=_with_dataset(saved.recipe, own.model_copy(update=changes)))
        if split in (None, "train", "validation", "test"):
            return _own_rows(changed, split)
        return _other_rows(changed, None, changed.recipe.dataset, split, {})
    path = str(data) if isinstance(data, (str, Path)) else "memory"
    settings = DataSet(path=path, options=dict(options))
    settings = settings.model_copy(update={"columns": saved.recipe.dataset.columns, **_carried(saved, data), **changes})
    return _other_rows(saved, data, settings, split, columns)


def _carried(saved: SavedModel, data: Any) -> dict[str, Any]:
    """How targets that travel are read, by the model's own recipe; where it is silent, ids stand for its labels.

    Names that are ids themselves say which ids they are: their places in a list would not.
    """
    if not saved.task.travels:
        return {}
    own, names = saved.recipe.dataset, saved.labels.names
    read = None if own.label_map or all(name.isdecimal() for name in names) else list(names)
    foreign = _holds_coco(data) and not (own.path == READER or _holds_coco(saved.recipe.locate_file(own.path)))
    return {
        "labels": own.labels or read,
        "label_map": own.label_map,
        "ignore_label": own.ignore_label,
        "bbox_format": "xywh" if foreign else own.bbox_format,
    }


def _holds_coco(data: Any) -> bool:
    """Whether data are COCO's files, whose boxes have a format of their own: xywh."""
    path = Path(data).expanduser() if isinstance(data, (str, Path)) else None
    return path is not None and path.exists() and bool(find_coco(path))


def _with_dataset(recipe: Recipe, dataset: DataSet) -> Recipe:
    return recipe.model_copy(update={"dataset": dataset})


def _own_rows(saved: SavedModel, role: str | None) -> tuple[LabelledSplit, Recipe, str, list[str]]:
    """A split as the run itself cut it, validation out of train included."""
    found = load_data(saved.recipe, saved.task)
    labelled = [name for name, part in found.splits.items() if part.entries is not None]
    role = role or next((name for name in ("test", "validation") if name in labelled), labelled[0])
    if role not in labelled:
        fix = "--split " + " or ".join(labelled)
        expected = f"a labelled split {role} in {found.origin}"
        raise DataError(Finding(place="split", expected=expected, found="splits " + ", ".join(labelled), fix=fix))
    part = found.splits[role]
    if part.entries is not None and saved.labels.problem != "regression":
        _refuse_unknown(part.entries, saved.labels, f"dataset.columns.{saved.task.target}")
    return part, saved.recipe, found.origin, _warnings(saved, part, role)


def _warnings(saved: SavedModel, part: LabelledSplit, role: str) -> list[str]:
    """What makes these results too good, or other ones than the run's."""
    notes = ["warning: the model was trained on these rows"] if role == "train" else []
    if saved.run is not None and saved.run.record.is_file():
        before = RunRecord.load(saved.run.path).data.get(role, {}).get("fingerprint")
        if before is not None and before != fingerprint(part, saved.recipe, saved.task):
            notes.append(
                f"warning: these are not the rows of the run's {role}: its data, or how they are read, have changed; "
                "rows cut from train may have been trained on"
            )
    return notes


def _other_rows(
    saved: SavedModel, data: Any, settings: DataSet, split: str | None, columns: Mapping[str, Any]
) -> tuple[LabelledSplit, Recipe, str, list[str]]:
    recipe = _with_dataset(saved.recipe, settings)
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
    recipe = name_columns(replace(saved, recipe=recipe), rows.rows.column_names, columns, what)
    check_columns(rows.rows.column_names, {saved.task.target: True}, recipe, what)
    labelled, notes = _with_names(saved, rows, recipe)
    ready, bad = ready_splits({"train": labelled}, recipe, saved.task)
    skipped = [f"{len(bad):,} rows skipped that cannot be read"] if bad else []
    return ready["train"], recipe, origin, [*notes, *skipped]


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
    split, column = read_labels(split, recipe, saved.task)
    assert column is not None
    place, (name,) = f"dataset.columns.{saved.task.target}", columns_of(settings, saved.task.target)
    if column.unlabelled:
        found = f"no label in column {name!r} of {split.source}"
        raise DataError(Finding(place=place, expected="labels", found=found, fix="hf-sft predict"))
    splits, columns = {"train": split}, {"train": column}
    skipped = drop_unlabelled_rows(splits, columns, recipe, saved.task)
    split, column = splits["train"], columns["train"]
    if not saved.task.travels:
        check_values(split.source, column.values, labels.problem)
        check_map(settings, columns)
    notes = [f"{len(skipped):,} rows skipped that have no label"] if skipped else []
    if saved.task.travels:
        pass
    elif column.class_names is None and labels.problem != "regression" and not settings.label_map:
        settings, words = _bare_ids(saved, column.values, settings)
        notes += words
    entries = np.empty(len(column.values), dtype=object)
    entries[:] = saved.task.name_targets(column, labels.problem, settings)
    kept = np.flatnonzero([entry is not None for entry in entries])
    if labels.problem != "regression":
        _refuse_unknown(entries[kept], labels, place)
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


def _refuse_unknown(entries: NDArray, labels: Labels, place: str) -> None:
    flat = (name for entry in entries for name in ([entry] if isinstance(entry, str) else entry))
    unknown = sorted(set(flat) - set(labels.names))
    if not unknown:
        return
    some = ", ".join(map(repr, unknown[:6])) + (f" and {len(unknown) - 6} more" if len(unknown) > 6 else "")
    near = nearest(unknown[0], labels.names)
    pairs = f"--label-map '{{{unknown[0]}: {labels.names[0]}, ...}}' (null drops a label)"
    fix = f"{near} " * near.startswith("did you mean") + pairs
    expected = "labels that the model knows: " + ", ".join(labels.names[:10])
    raise DataError(Finding(place=place, expected=expected, found=some, fix=fix))
