"""Frozen work done once: what crosses the frozen boundary is recorded for every row, and training replays it."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
import transformers
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from hf_sft.console import say
from hf_sft.data.activation_store import Store, activation_file, default_root
from hf_sft.errors import EnvironmentProblem, Finding, RecipeError
from hf_sft.evaluation import length_batches, model_inputs
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.modeling.cut import find_cut
from hf_sft.modeling.replay import Cut, record, replayed
from hf_sft.tasks.load import Inputs
from hf_sft.training.replayed_rows import ReplayedRows, RowKeys, blank_feature, collate_replayed, key_rows

if TYPE_CHECKING:
    from hf_sft.job import Job

OF_THE_HEAD = (  # of a model's configuration: what says nothing about the frozen part
    "id2label", "label2id", "num_labels", "label_names", "problem_type", "hf_sft_thresholds", "architectures",
    "transformers_version", "_name_or_path", "num_classes",
)  # fmt: skip


LEAST_SAVING = 1.1  # times less work from which recording pays by itself; reading back is work too
MOST_OF_DISK = 0.5  # of what is free: more is taken only when asked for
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be recorded and what that saves.

    boundary: the last frozen block. keys: role -> its rows as the store knows them. missing: rows (times views) that
    are not there yet. bytes: of all that is read. times_less: work without over work with, in multiplications.
    """

    cut: Cut
    blank: Mapping[str, Any] | None
    boundary: str
    store: Store
    keys: Mapping[str, RowKeys]
    views: int
    missing: int
    rows: int
    bytes: int
    times_less: float
    epochs: float

    def __str__(self) -> str:
        times = f"about {self.times_less:.1f} times less work over {self.epochs:g} epochs"
        views = f" in {self.views} views" if self.views > 1 else ""
        there = "" if self.missing else ", all there already"
        return f"frozen up to {self.boundary}: {self.rows:,} rows cached{views} ({_size(self.bytes)}){there}, {times}"


def decide(job: Job) -> Plan | None:
    """The plan, where the recipe wants one. auto: where it saves work; why not is said where something is frozen.

    Raises RecipeError where tuning.cache: on cannot be, EnvironmentProblem where the disk has no room for it.
    """
    wanted = job.recipe.tuning.cache
    if wanted == "off" or not job.frozen:
        found: Plan | str = "every weight trains from the start: nothing can be kept"
    else:
        found = _refusal(job) or _plan(job)
    if isinstance(found, Plan):
        shortage = _shortage(found, wanted)
        if wanted == "on":
            if shortage:
                fix = "free some, name another tuning.cache_dir, or set tuning.cache: off"
                need = f"{_size(found.bytes)} free in {found.store.folder.parent}"
                raise EnvironmentProblem(Finding(place="tuning.cache_dir", expected=need, found=shortage, fix=fix))
            return found
        if found.times_less < LEAST_SAVING:
            return None
        if not shortage:
            return found
        found = f"it would take {_size(found.bytes)} of {shortage}"
    if wanted == "on":
        fix = "leave it at auto"
        raise RecipeError(Finding(place="tuning.cache", expected="something to keep", found=found, fix=fix))
    if wanted == "auto" and job.frozen:
        say(f"frozen layers are computed anew each epoch: {found}")
    return None


def _refusal(job: Job) -> str:
    """What of the recipe makes the frozen part's output differ from epoch to epoch; empty where nothing does."""
    recipe = job.recipe
    if recipe.dataset.streaming:
        return "a stream is read once"
    if recipe.augment and recipe.tuning.cache_views is None:
        return "augmentation changes the rows; tuning.cache_views: 4 would keep four views of each"
    if recipe.objective.mixup is not None or recipe.objective.cutmix is not None:
        return "objective.mixup and cutmix mix each row with another one"
    if recipe.tuning.strategy == "gradual":
        return "strategy gradual moves the boundary"
    if recipe.training.get("torch_compile"):
        return "training.torch_compile takes the model as a whole"
    if PartialState().num_processes > 1 and PartialState().local_process_index != PartialState().process_index:
        return "processes on several machines do not share a disk"
    return ""


def _plan(job: Job) -> Plan | str:
    inputs = _cached_inputs(job)
    length = job.task.length
    positions = _two_batches(inputs, length is not None)
    channels_last = job.evaluator.channels_last
    device = next(job.built.model.parameters()).device

    def collated(features: list[list[dict[str, Any]]]) -> tuple[Any, Any]:
        one, other = (model_inputs(job.collate(rows), device, channels_last) for rows in features)
        return one, other

    features = [[inputs[role].rows[position] for role, position in batch] for batch in positions]
    batches = collated(features)
    blank = None if job.task.ahead else blank_feature(inputs["train"])
    light = batches
    if blank is not None:
        light = collated([[{**row, **blank} for row in batch] for batch in features])
    cut = find_cut(job.built.model, job.frozen, batches, steps_from=length, light=light)
    if isinstance(cut, str):
        return cut
    dtype = job.recipe.tuning.cache_dtype
    key = describe_computation(job, cut, dtype)
    root = Path(job.recipe.locate(job.recipe.tuning.cache_dir)) if job.recipe.tuning.cache_dir else default_root()
    store = Store(root / key)
    views = job.recipe.tuning.cache_views or 1
    augmented = json.dumps([job.recipe.seed, job.recipe.augmentations], default=str)
    ragged = any(shape.ragged for shape in cut.crossing)
    keys = {}
    for role, part in inputs.items():
        own = views if role == "train" else 1
        keys[role] = key_rows(part, own, length if ragged else None, augmented=augmented)
    return _costs(job, cut, blank, store, keys, batches[1])


def _cached_inputs(job: Job) -> dict[str, Inputs]:
    roles = ["train"]
    if "validation" in job.inputs and job.recipe.training["eval_strategy"] != "no":
        roles.append("validation")
    return {role: job.inputs[role] for role in roles}


def _two_batches(inputs: Mapping[str, Inputs], sequences: bool) -> list[list[tuple[str, int]]]:
    """(role, position) of three short rows and of two long ones."""
    rows = [(int(part.lengths[p]), role, p) for role, part in inputs.items() for p in range(len(part.lengths))]
    rows.sort()
    short, long = rows[:3], rows[-2:]
    return [[(role, position) for _, role, position in part] for part in (short, long)]


def _costs(
    job: Job, cut: Cut, blank: Any, store: Store, keys: Mapping[str, RowKeys], batch: Mapping[str, torch.Tensor]
) -> Plan:
    """Work is counted in multiplications: a backward pass is twice a forward pass of what trains."""
    before, after = _work(job.built.model, cut, batch)
    missing = {key for part in keys.values() for view in part.keys for key in view if store.find(key) is None}
    train = len(job.inputs["train"].lengths)
    validation = len(keys["validation"].keys[0]) if "validation" in keys else 0
    epochs = _epochs(job, train)
    live = epochs * (train * (before + 3 * after) + validation * (before + after))
    kept = len(missing) * before + epochs * (train * 3 * after + validation * after)
    width = np.dtype(job.recipe.tuning.cache_dtype).itemsize
    wide = sum(math.prod(shape.of_one) for shape in cut.crossing)
    steps = sum(int(part.steps.sum()) for part in keys.values())
    return Plan(
        cut=cut,
        blank=blank,
        boundary=_last_frozen_block(job),
        store=store,
        keys=keys,
        views=len(keys["train"].keys),
        missing=len(missing),
        rows=train + validation,
        bytes=steps * wide * width,
        times_less=live / kept if kept else float("inf"),
        epochs=epochs,
    )


def _work(model: Any, cut: Cut, batch: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """(before, behind the cut) of a forward pass, in multiplications per row."""
    model.eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as whole:
            model(**batch)
        with FlopCounterMode(display=False) as first:
            record(model, cut, batch)
    rows = next(iter(batch.values())).shape[0]
    return first.get_total_flops() / rows, (whole.get_total_flops() - first.get_total_flops()) / rows


def _epochs(job: Job, rows: int) -> float:
    training = job.recipe.training
    steps = int(training.get("max_steps") or 0)
    batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    if steps > 0:
        return steps * batch * job.environment.processes / max(1, rows)
    return float(training["num_train_epochs"])


def _last_frozen_block(job: Job) -> str:
    """The block before the first that trains, in part or whole."""
    learning = {name for name, parameter in job.built.model.named_parameters() if parameter.requires_grad}
    last = "the first layers"
    for block in find_blocks(job.built.model):
        if learning & set(block.parameters):
            break
        last = block.name
    return last


def _shortage(plan: Plan, wanted: str) -> str:
    """What is free, where that is too little; empty where it is enough."""
    folder = next(path for path in (plan.store.folder, *plan.store.folder.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    share = plan.missing / max(1, sum(len(view) for part in plan.keys.values() for view in part.keys))
    return f"{_size(free)} free" if plan.bytes * share > free * (1 if wanted == "on" else MOST_OF_DISK) else ""


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{max(1, round(number / 1e6))} MB"


@contextmanager
def replaying(job: Job, plan: Plan | None) -> Iterator[Job]:
    """The job on recorded rows, its model replayed; afterwards the model is whole again. The job itself without plan.

    Rows that are not there yet are recorded first.
    """
    if plan is None:
        yield job
        return
    say(str(plan))
    for role, part in plan.keys.items():
        _record_rows(job, plan, job.inputs[role], part)
    inputs = dict(job.inputs)
    for role, part in plan.keys.items():
        places = [[plan.store.places[key] for key in view] for view in part.keys]
        rows = ReplayedRows(job.inputs[role].rows, plan.store, places, plan.cut, blank=plan.blank, seed=job.recipe.seed)
        inputs[role] = replace(job.inputs[role], rows=rows)
    collate: Callable[..., Any] = partial(collate_replayed, job.collate, plan.cut)
    with replayed(job.built.model, plan.cut):
        yield replace(job, inputs=inputs, collate=collate, evaluator=replace(job.evaluator, collate=collate))


def _record_rows(job: Job, plan: Plan, inputs: Inputs, part: RowKeys) -> None:
    """Run the frozen part over the rows that are not there yet; each process takes its share of the batches."""
    size, todo, seen = len(inputs.rows), [], set[bytes]()
    for view, keys in enumerate(part.keys):
        for position, key in enumerate(keys):
            if plan.store.find(key) is None and key not in seen:
                seen.add(key)
                todo.append((view, position, key))
    if not todo:
        return
    state, cut, dtype = PartialState(), plan.cut, job.recipe.tuning.cache_dtype
    steps = np.array([part.steps[view][position] for view, position, _ in todo], dtype=np.int64)
    shapes = [shape.of_one for shape in cut.crossing]
    folder = None
    if state.is_main_process:
        folder = plan.store.begin([key for _, _, key in todo], steps, shapes, dtype)
    (folder,) = broadcast_object_list([folder])
    files = [np.load(activation_file(folder, number), mmap_mode="r+") for number in range(len(shapes))]
    starts = np.concatenate([[0], np.cumsum(steps)])
    batches = length_batches(steps, job.evaluator.batch_size)[state.process_index :: state.num_processes]
    sampler = [[todo[row][1] + 2 * todo[row][0] * size for row in batch] for batch in batches]
    loader = DataLoader(
        inputs.rows,
        batch_sampler=sampler,
        collate_fn=job.collate,
        num_workers=job.evaluator.workers,
        generator=torch.Generator(),
    )
    model, device = job.built.model, next(job.built.model.parameters()).device
    model.eval()
    bar = tqdm(total=len(todo), desc="recording", leave=False, disable=None if state.is_main_process else True)
    with torch.inference_mode(), _autocast(job, device):
        for rows, batch in zip(batches, loader, strict=True):
            found = record(model, cut, model_inputs(batch, device, job.evaluator.channels_last))
            for number, activation in enumerate(found):
                values = activation.to(torch.float32).cpu().numpy().astype(dtype)
                for value, row in zip(values, rows, strict=True):
                    own = value[: steps[row]] if cut.crossing[number].ragged else value
                    files[number][starts[row] : starts[row + 1]] = own
            bar.update(len(rows) * state.num_processes)
    bar.close()
    for file in files:
        file.flush()
    state.wait_for_everyone()
    if state.is_main_process:
        plan.store.complete(folder, {"model": job.recipe.model.name, "boundary": plan.boundary, "dtype": dtype})
    state.wait_for_everyone()
    plan.store.read()


def _autocast(job: Job, device: torch.device) -> Any:
    half = AUTOCAST.get(job.environment.precision)
    return torch.autocast(device.type, dtype=half, enabled=half is not None)


def describe_computation(job: Job, cut: Cut, dtype: str) -> str:
    """A hash of all that an activation depends on beside its row: frozen weights, boundary, processor, versions."""
    model = job.built.model
    digest = xxhash.xxh3_128()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in model.state_dict().items():
        if name not in learning:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    config = {key: value for key, value in model.config.to_dict().items() if key not in OF_THE_HEAD}
    versions = [module.__version__ for module in (torch, transformers, timm)]
    said = [type(model).__name__, config, cut.point, cut.places, sorted(cut.stubs), dtype, job.environment.precision]
    recipe = [job.recipe.processor.model_dump(), job.recipe.dataset.columns, job.task.name]
    digest.update(json.dumps([*said, *recipe, *versions], sort_keys=True, default=str).encode())
    digest.update(_processor_files(job))
    return digest.hexdigest()


def _processor_files(job: Job) -> bytes:
    """What the processor saves of itself; that of a timm model lies in the model's configuration."""
    if job.built.model.config.model_type == "timm_wrapper":
        return b""
    with tempfile.TemporaryDirectory() as folder:
        job.built.processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return b"".join(file.name.encode() + file.read_bytes() for file in files)
