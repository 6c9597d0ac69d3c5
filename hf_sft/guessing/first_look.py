"""What an unknown data set is: how it is read, its splits, its columns, its labels. The first half of `hf-sft init`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_sft.data.bad_rows import name_rows, refuse
from hf_sft.data.labels import LabelColumn, Labels, decide_problem, targets_as_names
from hf_sft.data.load import EXTENSIONS
from hf_sft.data.splits import USUAL_NAMES, name_splits
from hf_sft.errors import DataError
from hf_sft.guessing.columns import Guess, guess_columns
from hf_sft.guessing.masked import ignored_id
from hf_sft.guessing.sniff import read_data
from hf_sft.guessing.spelling import joined_by, likely_slips, same_labels
from hf_sft.recipe import SPLIT_ROLES, DataSet, ProblemName, Recipe, TaskName
from hf_sft.tasks import TASKS
from hf_sft.tasks.task import Task

ONE_PROBLEM = {
    "pixels": "a class for each pixel",
    "tags": "a tag for each word",
    "boxes": "boxes with a label each",
}


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """dataset: the recipe's section as it must be to read the data so; folder: where paths of images start from.

    splits: role -> split of the source; counts: label -> rows of train (none for numbers); slips: label -> what was
    perhaps meant; notes: what a reader should know; doubts: what could not be decided, and the key that changes it;
    has_class_names: whether the data themselves name the integers of the label column.
    """

    dataset: dict[str, Any]
    folder: Path
    source: DatasetDict
    splits: Mapping[str, str]
    guess: Guess
    labels: Labels
    why_problem: str
    counts: Mapping[str, int]
    slips: Mapping[str, str]
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    has_class_names: bool

    @property
    def train(self) -> Dataset:
        return self.source[self.splits["train"]]


def look(data: str, folder: Path, *, task: TaskName | None = None, name: str | None = None) -> FirstLook:
    """Read the data as a run will, and guess.

    data: Hub id, file, folder or bundled:<name>; folder: where the recipe will lie; name: the configuration of a data
    set on the Hub. Raises DataError for data that cannot be read or cannot serve.
    """
    dataset: dict[str, Any] = {"path": _path_in_recipe(data, folder)} | ({"name": name} if name else {})
    try:
        options, source = read_data(dataset, folder, task)
    except DataError as error:
        raise _about(data, error) from error
    if options:
        dataset["options"] = options
    chosen, splits, doubts = choose_splits(source)
    if chosen:
        dataset["splits"] = chosen
    start = _start_of_paths(dataset["path"], folder)
    guess = guess_columns(source[splits["train"]], start, data=data, task=task)
    dataset |= {"columns": dict(guess.columns), **guess.settings}
    task_record, settings = TASKS[guess.task], _settings(dataset, guess.task, folder)
    read = task_record.read_labels
    found = {role: column for role, split in splits.items() if (column := read(source[split], settings))}
    columns = {role: column for role, column in found.items() if not column.unlabelled}
    notes = [f"{role} has no labels: it is predicted, not evaluated" for role in splits if role not in columns]
    doubts += [
        f"bad rows: {len(column.faults):,} of {role}, whose column {column.faults[0].column!r} "
        f"{column.faults[0].kind}; a run refuses them ({column.faults[0].fix or 'dataset.on_bad_row: skip'})"
        for role, column in columns.items()
        if column.faults
    ]
    _refuse_unusable(columns.get("train"), splits["train"])
    if task_record.travels and (ignored := ignored_id(columns)) is not None:
        dataset["ignore_label"] = ignored
        settings = _settings(dataset, guess.task, folder)
    if len(task_record.problems) == 1:
        (problem,) = task_record.problems
        why = f"the task has one problem: {ONE_PROBLEM[problem]}"
    else:
        problem, why = decide_problem(columns["train"], settings)
    slips: dict[str, str] = {}
    if problem in ("single_label", "multi_label"):
        spelled = _count(columns.values(), problem, settings)
        if same := same_labels(spelled):
            dataset["label_map"] = same
            settings = _settings(dataset, guess.task, folder)
            spelled = _count(columns.values(), problem, settings)
        slips = likely_slips(spelled)
        if mark := joined_by(spelled):
            cells = f"cells of {guess.columns['label']!r}"
            doubts.append(f"label: {cells} seem to hold several labels with {mark!r} between; give each a list")
    try:
        labels, warnings = task_record.decide_labels(columns, _recipe(dataset, guess.task, folder))
    except DataError as error:
        raise _about(data, error) from error
    return FirstLook(
        dataset=dataset,
        folder=start,
        source=source,
        splits=splits,
        guess=guess,
        labels=labels,
        why_problem=why,
        counts=_count([columns["train"]], problem, settings, task_record) if problem != "regression" else {},
        slips=slips,
        notes=(*notes, *(warning.removeprefix("warning: ") for warning in warnings[1:]), *_files_beside(data)),
        doubts=(*doubts, *guess.doubts, *_split_columns(source[splits["train"]])),
        has_class_names=columns["train"].class_names is not None,
    )


def _refuse_unusable(train: LabelColumn | None, source: str) -> None:
    """Raises DataError where no row of train can be used, for what is wrong with them."""
    if train is not None and train.faults and all(map(train.is_missing, train.values)):
        raise refuse(name_rows("train", source, np.arange(len(train.values)), train.faults))


def _path_in_recipe(data: str, folder: Path) -> str:
    """A local path as seen from the recipe's folder, told apart from a Hub id; other names as they are."""
    path = Path(data).expanduser()
    local = path.exists() or data.startswith((".", "~", "/")) or any(end in EXTENSIONS for end in path.suffixes)
    if not local or "://" in data:
        return data
    seen = Path(os.path.relpath(path.absolute(), folder)).as_posix()
    plain = path.suffix and ":" not in seen
    return seen if plain or seen.startswith(".") else f"./{seen}"


def _start_of_paths(name: str, folder: Path) -> Path:
    path = Path(_recipe({"path": name}, "text-classification", folder).locate(name))
    return path if path.is_dir() else path.parent if path.is_file() else folder


def _recipe(dataset: dict[str, Any], task: TaskName, folder: Path) -> Recipe:
    return Recipe.from_dict({"task": task, "model": {"name": "none"}, "dataset": dataset}, folder)


def _settings(dataset: dict[str, Any], task: TaskName, folder: Path) -> DataSet:
    return _recipe(dataset, task, folder).dataset


def _about(data: str, error: DataError) -> DataError:
    """The same findings about what the user named: there is no recipe yet."""
    findings = []
    for finding in error.findings:
        if finding.found.startswith("Config name is missing"):
            names = str(error.__cause__).partition("available configs:")[2].strip().splitlines()[:1]
            finding = replace(finding, expected="one configuration", fix=f"pass --name and one of {''.join(names)}")
        fix = finding.fix.replace("start from the recipe's folder", "start from the working directory")
        place = data if finding.place == "dataset.path" else finding.place
        findings.append(replace(finding, place=place, fix=fix))
    return DataError(findings)


def choose_splits(source: Mapping[str, Any]) -> tuple[dict[str, str | None], dict[str, str], list[str]]:
    """(dataset.splits where names alone do not tell, role -> split, doubts)."""
    names, chosen, doubts = list(source), {}, []
    for role in SPLIT_ROLES:
        if not any(name in names for name in USUAL_NAMES[role]):
            longer = [name for name in names if name.lower().startswith(tuple(f"{n}_" for n in USUAL_NAMES[role]))]
            if longer:
                chosen[role] = longer[0]
            if len(longer) > 1:
                doubts.append(f"splits: {role} could also be {', '.join(longer[1:])} (dataset.splits.{role})")
    settings: dict[str, str | None] = dict(chosen)
    if "train" not in settings and not any(name in names for name in USUAL_NAMES["train"]):
        largest = max(names, key=lambda name: len(source[name]))
        settings = (
            {role: None if split == largest else split for role, split in settings.items()}
            | {role: None for role in SPLIT_ROLES if largest in USUAL_NAMES[role]}
            | {"train": largest}
        )
        if len(names) > 1 or largest in USUAL_NAMES["test"]:
            doubts.append(f"splits: none is called train; {largest!r} trains (dataset.splits.train)")
    return settings, name_splits(names, DataSet.model_validate({"path": "data", "splits": settings})), doubts


def _split_columns(rows: Dataset) -> list[str]:
    """Columns that name splits, which the rows of one file are not told apart by."""
    usual = {name for names in USUAL_NAMES.values() for name in names}
    named = [name for name in rows.column_names if name.lower() in ("split", "partition", "set", "subset", "fold")]
    said = [
        name
        for name in named
        if len(values := {str(value).lower() for value in rows.unique(name)}) > 1 and values <= usual
    ]
    return [f"splits: column {name!r} names them; write a file for each (train.csv, test.csv)" for name in said]


def _count(
    columns: Iterable[LabelColumn], problem: ProblemName, settings: DataSet, task: Task | None = None
) -> Counter[str]:
    """Rows per label."""
    counts: Counter[str] = Counter()
    for column in columns:
        for entry in (task.name_targets if task else targets_as_names)(column, problem, settings):
            counts.update([] if entry is None else [entry] if isinstance(entry, str) else list(entry))
    return counts


def _files_beside(data: str) -> list[str]:
    """Splits that lie beside a file called train, which alone was named."""
    file = Path(data)
    stem, _, rest = file.name.partition(".")
    if not file.is_file() or stem.lower() not in USUAL_NAMES["train"]:
        return []
    beside = [name for role in ("validation", "test") for name in USUAL_NAMES[role]]
    there = [f"{name}.{rest}" for name in beside if file.with_name(f"{name}.{rest}").is_file()]
    return [f"{', '.join(there)} beside it is not used; hf-sft init {file.parent} reads both"] if there else []
