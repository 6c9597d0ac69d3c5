"""What `inspect.record` keeps of a training, in report/recorded/: gradient norms of blocks, the course of rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file

from hf_sft.console import say
from hf_sft.record import RunDirectory, as_json, write_text
from hf_sft.training.block_norms import BlockNorms
from hf_sft.training.checkpoints import save_tensors
from hf_sft.training.row_course import ROW, Gather, PositionedRows, RowCourse, with_positions

if TYPE_CHECKING:
    from hf_sft.job import Job

STATE = "recorded.safetensors"  # in a checkpoint


class Recorder:
    """Watches a training. rows: None where rows have no single true class to be watched; `without` says why."""

    def __init__(self, job: Job, device: torch.device):
        train = job.inputs["train"]
        self.job = job
        self.norms = BlockNorms(job.built.model)
        self.without = _why_no_rows(job)
        self.rows: RowCourse | None = None
        if not self.without:
            assert train.targets is not None
            self.rows = RowCourse(train.targets, seed=job.recipe.seed, device=device)

    def watched(self, rows: Any, collate: Any) -> tuple[Any, Any]:
        """Training rows and their collator, with what tells rows apart."""
        return (rows, collate) if self.rows is None else (PositionedRows(rows), with_positions(collate))

    def see_rows(self, epoch: int, positions: torch.Tensor | None, outputs: Any, batch: Any) -> None:
        if self.rows is not None and positions is not None:
            self.rows.see(epoch, positions, outputs, batch)

    def _state(self, gather: Gather | None) -> dict[str, torch.Tensor]:
        rows = {} if self.rows is None else self.rows.state(gather)
        return {"norms": self.norms.state(), **rows}

    def save(self, checkpoint: Path, gather: Gather | None, *, writes: bool) -> None:
        """Called by all processes together; those that write do."""
        state = self._state(gather)
        if writes:
            save_tensors(state, checkpoint / STATE)

    def load(self, checkpoint: Path) -> None:
        state = load_file(checkpoint / STATE)
        self.norms.restore(state["norms"])
        if self.rows is not None:
            self.rows.restore(state, main=PartialState().is_main_process)

    def write(self, directory: RunDirectory, gather: Gather | None) -> None:
        """The files of a finished training. Called by all processes together."""
        state = self._state(gather)
        if PartialState().is_main_process:
            self._write(directory, state)
        PartialState().wait_for_everyone()

    def _write(self, directory: RunDirectory, state: dict[str, torch.Tensor]) -> None:
        import pyarrow
        import pyarrow.parquet

        train = self.job.inputs["train"]
        about: dict[str, Any] = {
            "parameters": {
                name: sum(value.numel() for value in values if value.requires_grad)
                for name, values in self.norms.blocks.items()
            },
            "rows": 0 if self.rows is None else len(self.rows.chosen),
            "rows_of_train": train.size,
            "rows_left_out": self.without,
            "mixed": self.job.recipe.objective.mixup is not None or self.job.recipe.objective.cutmix is not None,
        }
        tables = {"gradient_norms": self._norms()}
        if self.rows is not None:
            tables["rows"] = self.rows.table(state, train.row_ids, self.job.labels.names)
        directory.recorded("about").parent.mkdir(parents=True, exist_ok=True)
        for name, columns in tables.items():
            pyarrow.parquet.write_table(pyarrow.table(columns), directory.recorded(name))
        write_text(directory.recorded("about").with_suffix(".json"), as_json(about) + "\n")

    def _norms(self) -> dict[str, list[Any]]:
        """Columns: step, epoch, one per block; None where it had no gradient."""
        entries = self.norms.logged
        columns: dict[str, list[Any]] = {
            "step": [int(entry[0]) for entry in entries],
            "epoch": [entry[1] for entry in entries],
        }
        for place, name in enumerate(self.norms.blocks, 2):
            columns[name] = [None if entry[place] != entry[place] else entry[place] for entry in entries]
        return columns


def make_recorder(job: Job, device: torch.device) -> Recorder | None:
    """None unless the recipe asks for one. Says what is recorded."""
    if not job.recipe.inspect.record:
        return None
    recorder = Recorder(job, device)
    if recorder.rows is None:
        say(f"inspect.record: gradient norms of {len(recorder.norms.blocks)} blocks; no rows: {recorder.without}")
    else:
        number, size = len(recorder.rows.chosen), job.inputs["train"].size
        of = f"{number:,} of {size:,} rows (seed {job.recipe.seed})" if number != size else f"all {number:,} rows"
        say(f"inspect.record: gradient norms of {len(recorder.norms.blocks)} blocks, and the course of {of}")
    return recorder


def _why_no_rows(job: Job) -> str:
    """In words, where rows have no probability of the true class; empty where they have."""
    if job.labels.problem != "single_label":
        return f"rows of problem {job.labels.problem} have no single true class whose probability could be followed"
    if job.data.stream is not None:
        return "streamed rows have no place of their own that they could be told apart by"
    return ""


__all__ = ["ROW", "Recorder", "make_recorder"]
