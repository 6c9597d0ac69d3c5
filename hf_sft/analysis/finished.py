"""A finished run as the analyses read it: record, saved model, the model before training, and the rows again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.analysis.section import Absent, Cell, Thumbnail
from hf_sft.analysis.thumbnails import thumbnail
from hf_sft.data.columns import columns_of, joined
from hf_sft.data.labels import Labels
from hf_sft.errors import HfSftError
from hf_sft.modeling.build import build_model
from hf_sft.recipe import Recipe
from hf_sft.record import RunRecord
from hf_sft.saved_model import SavedModel, load_saved
from hf_sft.summary import run_name
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import Inputs, LabelledSplit, TaskData, fingerprint, load_data, make_inputs, take_inputs
from hf_sft.tasks.task import Task

LONGEST_SHOWN = 600  # characters of a text in a table


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """rows: how many rows are looked at where all would take long; data: those of a run on data in memory."""

    record: RunRecord
    rows: int = 256
    data: Mapping[str, Any] | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    @property
    def path(self) -> Path:
        return self.record.directory.path

    @property
    def name(self) -> str:
        return self.path.name or run_name(self.record)

    @property
    def seed(self) -> int:
        return self.record.seed

    @cached_property
    def task(self) -> Task:
        return TASKS[self.record.recipe["task"]]

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.load(self.record.directory.recipe)

    @cached_property
    def labels(self) -> Labels:
        known = self.record.labels
        thresholds = tuple(known["thresholds"]) if known.get("thresholds") else None
        return Labels(problem=known["problem"], names=tuple(known["names"]), thresholds=thresholds)

    @cached_property
    def saved(self) -> SavedModel:
        """The fine-tuned model, in eval mode on its device."""
        return load_saved(self.path, trust_remote_code=self.trust_remote_code)

    @property
    def before(self) -> Any:
        """The model as training found it, its new head drawn with the run's seed; on the device of `saved`.

        Raises Absent where its weights are not to be had any more.
        """
        return self._built_before[0]

    @property
    def new(self) -> frozenset[str]:
        """Names of the parameters of `before` that were drawn at random, but for tuning.reinit_layers."""
        return self._built_before[1]

    @cached_property
    def _built_before(self) -> tuple[Any, frozenset[str]]:
        """Raises Absent where its weights are not to be had any more."""
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                built = build_model(self.recipe, self.task, self.labels, trust_remote_code=self.trust_remote_code)
        except HfSftError as error:
            raise Absent(f"the model before training cannot be read: {first_line(error)}") from error
        model = built.model.to(next(self.saved.model.parameters()).device)
        model = model.to(memory_format=torch.channels_last) if self.saved.channels_last else model
        return model.eval(), built.new

    @cached_property
    def _read(self) -> tuple[TaskData | None, str]:
        try:
            return load_data(self.recipe, self.task, self.data), ""
        except HfSftError as error:
            return None, first_line(error)

    @property
    def trouble(self) -> str:
        """Why the rows cannot be shown; empty where they can."""
        return self._read[1]

    @cached_property
    def splits(self) -> dict[str, LabelledSplit]:
        """Role -> rows, of the roles whose rows are those of the run; none where its data cannot be read."""
        found = self._read[0]
        if found is None:
            return {}
        known = self.record.data
        return {
            role: part
            for role, part in found.splits.items()
            if role in known and known[role].get("fingerprint") == fingerprint(part, self.recipe, self.task)
        }

    @property
    def judged_role(self) -> str:
        """The split that speaks for new data: test, else validation, one with labels first; empty where none is."""
        named = ("test", "validation")
        labelled = [role for role in named if role in self.record.metrics]
        return next(iter([*labelled, *(role for role in named if role in self.record.data)]), "")

    def require(self, role: str) -> LabelledSplit:
        """The rows of a split. Raises Absent where they are not those of the run any more."""
        if role not in self.splits:
            why = self.trouble or "the data, or how they are read, have changed since the run"
            raise Absent(f"the rows of {role} cannot be read again: {why}")
        return self.splits[role]

    def sample(self, role: str, most: int | None = None) -> NDArray:
        """Positions of at most so many rows of a split, drawn with the run's seed, ascending."""
        size, most = len(self.require(role).split), most or self.rows
        if size <= most:
            return np.arange(size)
        return np.sort(np.random.default_rng(self.seed).choice(size, size=most, replace=False))

    def inputs(self, role: str, positions: NDArray) -> Inputs:
        """Those rows as the model reads them."""
        part = self.require(role).take(positions)
        return make_inputs(part, self.recipe, self.task, self.saved.labels, self.saved.processor)

    def positions(self, role: str, row_ids: Sequence[int] | NDArray) -> NDArray:
        """Where the rows of these ids stand in their split."""
        place = {int(row_id): number for number, row_id in enumerate(self.require(role).split.row_ids)}
        return np.array([place[int(row_id)] for row_id in row_ids], dtype=np.int64)

    def shown(self, role: str, row_ids: Sequence[int] | NDArray) -> list[Cell]:
        """What a reader sees of each row: its text, cut where it is long, or a thumbnail; its id where it is gone."""
        if role not in self.splits:
            return [f"row {int(row_id)}" for row_id in row_ids]
        rows = self.splits[role].split.rows.select(self.positions(role, row_ids))
        roles = self.task.roles(self.recipe.dataset.columns)
        for one in ("image", "text", "tokens"):
            columns = columns_of(self.recipe.dataset, one) if one in roles else []
            if not columns or any(column not in rows.column_names for column in columns):
                continue
            if one == "image":
                pictures = rows.select_columns(columns)[:][columns[0]]
                return [
                    thumbnail(self.task.opened(picture), f"row {int(row_id)}")
                    for picture, row_id in zip(pictures, row_ids, strict=True)
                ]
            if one == "text":
                pair = (
                    columns_of(self.recipe.dataset, "text_pair") if "text_pair" in self.recipe.dataset.columns else []
                )
                texts = joined(rows.select_columns([*columns, *pair])[:], [*columns, *pair])
            else:
                values = rows.select_columns(columns)[:][columns[0]]
                texts = [value if isinstance(value, str) else " ".join(map(str, value)) for value in values]
            return [text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..." for text in texts]
        return [f"row {int(row_id)}" for row_id in row_ids]

    def words(self, role: str, row_ids: Sequence[int] | NDArray) -> list[str]:
        """`shown` where only words can stand."""
        return [cell.name if isinstance(cell, Thumbnail) else str(cell) for cell in self.shown(role, row_ids)]


def first_line(error: HfSftError) -> str:
    """An error in one line."""
    if not error.findings:
        return str(error).splitlines()[0]
    finding = error.findings[0]
    return f"{finding.place}: {finding.found or finding.expected}"


__all__ = ["FinishedRun", "Inputs", "first_line", "take_inputs"]
