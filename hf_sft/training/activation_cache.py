"""Frozen work done once: what crosses the frozen boundary is recorded for every row, and training replays it."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_sft.console import hides_bars, say
from hf_sft.data.activation_store import activation_file
from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.evaluation import length_batches, model_inputs
from hf_sft.modeling.replay import record, replayed
from hf_sft.tasks.load import Inputs
from hf_sft.training.cache_plan import Plan, no_room, not_writable
from hf_sft.training.precision import autocast
from hf_sft.training.replayed_rows import ReplayedRows, collate_replayed

if TYPE_CHECKING:
    from hf_sft.job import Job

SEGMENT = 1 << 30  # bytes, about: what a recording that is interrupted has completed stays
FULL = (errno.ENOSPC, errno.EDQUOT)
Row = tuple[int, int, bytes, int]  # view, position in its split, key, steps


@contextmanager
def replaying(job: Job, plan: Plan | None) -> Iterator[Job]:
    """The job on recorded rows, its model replayed; afterwards the model is whole again. The job itself without plan.

    Rows that are not there yet are recorded first; that counts as loading for run.max_hours.
    """
    if plan is None:
        yield job
        return
    say(str(plan))
    started = time.perf_counter()
    about = {"model": job.recipe.model.name, "boundary": plan.boundary, "dtype": job.recipe.tuning.cache_dtype}
    if plan.missing:
        _on_main_process(plan, lambda: plan.store.describe(about))
    elif PartialState().is_main_process:
        plan.store.touch()
    for role in plan.keys:
        _record_rows(job, plan, role)
    inputs = dict(job.inputs)
    for role, part in plan.keys.items():
        found = [[plan.store.find(key) for key in view] for view in part.keys]
        places = [[place for place in view if place is not None] for view in found]
        if any(None in view for view in found):
            expected, fix = "every row, as it was recorded a moment ago", "run it again"
            place = str(plan.store.folder)
            raise EnvironmentProblem(Finding(place=place, expected=expected, found="rows are missing", fix=fix))
        rows = ReplayedRows(job.inputs[role].rows, plan.store, places, plan.cut, seed=job.recipe.seed)
        inputs[role] = replace(job.inputs[role], rows=rows)
    collate: Callable[..., Any] = partial(collate_replayed, job.collate, plan.cut)
    seconds = job.load_seconds + time.perf_counter() - started
    evaluator = replace(job.evaluator, collate=collate)
    with replayed(job.built.model, plan.cut):
        yield replace(job, inputs=inputs, collate=collate, evaluator=evaluator, load_seconds=seconds)


def _record_rows(job: Job, plan: Plan, role: str) -> None:
    """Run the frozen part over the rows that are not there yet, a segment at a time."""
    part, todo = plan.keys[role], dict[bytes, Row]()
    for view, keys in enumerate(part.keys):
        for position, key in enumerate(keys):
            if plan.store.find(key) is None and key not in todo:
                todo[key] = (view, position, key, int(part.steps[view][position]))
    if not todo:
        return
    whole, state = list(todo.values()), PartialState()
    rows_of = max(1, SEGMENT * plan.missing // max(1, plan.writes))
    hidden = hides_bars() if state.is_main_process else True
    bar = tqdm(total=len(whole), desc="recording", leave=False, disable=hidden)
    for start in range(0, len(whole), rows_of):
        rows = whole[start : start + rows_of]
        folder = _begin_segment(job, plan, rows)
        try:
            _fill_segment(job, plan, job.inputs[role], rows, folder, bar)
        except BaseException:
            if state.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        state.wait_for_everyone()
        _on_main_process(plan, partial(plan.store.complete, folder))
        plan.store.read([folder.name])
    bar.close()


def _begin_segment(job: Job, plan: Plan, rows: Sequence[Row]) -> Path:
    keys, steps = [key for _, _, key, _ in rows], np.array([steps for *_, steps in rows], dtype=np.int64)
    shapes = [shape.of_one for shape in plan.cut.crossing]
    dtype = job.recipe.tuning.cache_dtype
    folder: Path = _on_main_process(plan, lambda: plan.store.begin(keys, steps, shapes, dtype))
    return folder


def _on_main_process(plan: Plan, write: Callable[[], Any]) -> Any:
    """What that returns on the main process, for all. Raises EnvironmentProblem on all where it cannot write."""
    answer: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            answer = [write(), None]
        except OSError as error:
            answer = [None, (error.errno, error.strerror or str(error))]
    value, failed = broadcast_object_list(answer)
    if failed and failed[0] in FULL:
        raise no_room(plan, shutil.disk_usage(plan.store.folder).free)
    if failed:
        raise not_writable(plan, failed[1])
    return value


def _fill_segment(job: Job, plan: Plan, inputs: Inputs, rows: Sequence[Row], folder: Path, bar: Any) -> None:
    """Each process takes its share of the batches, the longest rows first; memory holds one batch at a time."""
    state, cut, model = PartialState(), plan.cut, job.built.model
    device, channels_last = next(model.parameters()).device, job.evaluator.channels_last
    files = [np.load(activation_file(folder, number), mmap_mode="r+") for number in range(len(cut.crossing))]
    stops = np.cumsum([steps for *_, steps in rows])
    lengths = np.array([inputs.lengths[position] for _, position, _, _ in rows], dtype=np.int64)
    batches = length_batches(lengths, job.evaluator.batch_size)[state.process_index :: state.num_processes]
    size = len(inputs.rows)
    loader = DataLoader(
        inputs.rows,
        batch_sampler=[[rows[row][1] + 2 * rows[row][0] * size for row in batch] for batch in batches],
        collate_fn=job.collate,
        num_workers=job.evaluator.workers,
        generator=torch.Generator(),
    )
    model.eval()
    with torch.inference_mode(), autocast(job.environment.precision, device):
        for numbers, batch in zip(batches, loader, strict=True):
            found = record(model, cut, model_inputs(batch, device, channels_last))
            for file, shape, activation in zip(files, cut.crossing, found, strict=True):
                values = _as_stored(activation, file.dtype)
                for value, row in zip(values, numbers, strict=True):
                    steps = rows[row][3]
                    file[stops[row] - steps : stops[row]] = value[:steps] if shape.ragged else value
            bar.update(len(numbers) * state.num_processes)
    for file in files:
        file.flush()


def _as_stored(activation: torch.Tensor, dtype: Any) -> NDArray:
    """Raises EnvironmentProblem where the type is too small for what it should hold."""
    stored = activation.to(torch.float16 if dtype == np.float16 else torch.float32)
    if dtype == np.float16 and bool(stored.isinf().any()) and not bool(activation.isinf().any()):
        found = f"an activation of {float(activation.abs().max()):.3g}; float16 ends at 65,504"
        expected, fix = "numbers that float16 holds", "set tuning.cache_dtype: float32"
        raise EnvironmentProblem(Finding(place="tuning.cache_dtype", expected=expected, found=found, fix=fix))
    values: NDArray = stored.cpu().numpy()
    return values
