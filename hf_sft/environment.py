"""The machine a run finds itself on: processes, threads, devices, precision, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.recipe import Recipe

PACKAGES = ("hf-sft", "torch", "transformers", "datasets", "accelerate", "timm", "evaluate", "safetensors", "numpy")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run uses. `notes` are things to say once."""

    device: str
    processes: int
    threads: int
    precision: str
    platform: str
    python: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        each = " each" if self.processes > 1 else ""
        return f"{processes} on {self.device}, {threads}{each}, {self.precision}"

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        content.pop("notes")
        return content


def prepare_environment(recipe: Recipe) -> Environment:
    """Form the processes, share the cores among them, choose device and precision.

    Raises EnvironmentProblem when the launcher was asked for more processes than formed.
    """
    _refuse_lost_processes()
    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    _forget_notebook()
    # without cpu=True, N processes on a machine without a GPU never meet
    state = PartialState(cpu=on_cpu(), **_process_group(recipe))
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != asked:
        _raise_lost(asked, state.num_processes)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked_threads = os.environ.get("OMP_NUM_THREADS", "")
    own = asked == 1 and asked_threads.isdecimal() and "ACCELERATE_MIXED_PRECISION" not in os.environ  # no launcher's
    threads = int(asked_threads) if own else max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(threads)
    device = state.device
    notes = []
    if device.type == "cuda" and asked == 1 and torch.cuda.device_count() > 1:
        idle = torch.cuda.device_count()
        notes.append(f"{idle - 1} of {idle} GPUs stay idle; hf-sft run --processes {idle} RECIPE uses them")
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processes=state.num_processes,
        threads=threads,
        precision=choose_precision(recipe.run.precision, device),
        platform=platform.platform(),
        python=platform.python_version(),
        notes=tuple(notes),
    )


def silence_libraries() -> None:
    """No bars for caching and writing files of our own, no log beside an error; ours say what matters."""
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()


def on_cpu() -> bool:
    """Whether ACCELERATE_USE_CPU says so (set where there is no accelerator)."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")


def _process_group(recipe: Recipe) -> dict[str, Any]:
    """training.ddp_backend and ddp_timeout: TrainingArguments would apply them when the processes have met already."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return {}
    backend, timeout = (recipe.training.get(name) for name in ("ddp_backend", "ddp_timeout"))
    return {"backend": backend} | ({"timeout": timedelta(seconds=timeout)} if timeout is not None else {})


def choose_precision(asked: str, device: torch.device) -> str:
    """auto: bf16 where the GPU has it in hardware (compute capability 8.0 on), fp16 on older ones, else fp32.

    On a CPU it is the model's own steps that tell, once it is there (training/precision.py).
    Weights and optimizer stay float32 in every case. Raises EnvironmentProblem for fp16 without a GPU.
    """
    if asked == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if asked == "fp16" and device.type != "cuda":
        raise EnvironmentProblem(
            Finding(place="run.precision", expected="a CUDA GPU for fp16", found=device.type, fix="auto, fp32 or bf16")
        )
    return asked


def _refuse_lost_processes() -> None:
    """`accelerate launch --cpu --num_processes 2` runs one process and says nothing; only MASTER_ADDR shows it."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        _raise_lost(None, 1)
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if asked > 1 and "RANK" not in os.environ:
        _raise_lost(asked, 1)  # else it would wait half an hour for the others


def _forget_notebook() -> None:
    """A rank that `notebook_launcher` forked inherits what the notebook knew: itself, as the only process."""
    ranks = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized()
    if ranks and PartialState._shared_state.get("distributed_type") == DistributedType.NO:
        AcceleratorState._reset_state(reset_partial_state=True)


def _raise_lost(asked: int | None, formed: int) -> None:
    number = asked or 2
    raise EnvironmentProblem(
        Finding(
            place="launcher",
            expected=f"{asked or 'several'} processes, as the launcher was asked",
            found=f"{formed}",
            fix=f"hf-sft run --processes {number} RECIPE, or ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            f"--num_processes {number} -m hf_sft.run RECIPE",
        )
    )


def versions() -> dict[str, str]:
    """Package -> installed version."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
