"""Which precision a CPU trains in: bfloat16 where a step of this very model measures clearly faster in it."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub.constants import HF_HOME
from torch import nn

from hf_sft.evaluation import model_inputs
from hf_sft.modeling.cut import undisturbed
from hf_sft.record import write_text
from hf_sft.tasks.task import Penalty, Problem, beside

CLEARLY = 1.3  # times as fast, from which rounding to eight bits of mantissa is worth it
FEWEST_PARAMETERS = 1_000_000  # below, a step costs nothing in any precision
ROWS = 4  # of the steps that are measured
REPETITIONS = 3
BEGUN_IN = "precision"  # a file beside the checkpoints: a run that goes on keeps the precision it began in


def measured_precision(
    model: nn.Module,
    frozen: Sequence[nn.Module],
    batch: Mapping[str, Any],
    problem: Problem,
    penalty: Penalty,
    *,
    channels_last: bool,
    begun: Path | None,
) -> tuple[str, str]:
    """(precision, one line that says why) on a CPU; the line is empty where nothing was measured.

    batch: collated. begun: the checkpoints of a run that may go on, which noted what it began in. Processor time is
    compared, which other work on the machine hardly changes; every process takes what the main one measured. A
    measurement is kept in the user's cache, so that the same recipe trains in the same precision again on this machine.
    """
    if begun is not None and (begun / BEGUN_IN).is_file():
        return (begun / BEGUN_IN).read_text(encoding="utf-8").strip(), ""
    if sum(parameter.numel() for parameter in model.parameters()) < FEWEST_PARAMETERS:
        return "fp32", ""
    times = [0.0]
    if PartialState().is_main_process:
        step = _make_step(model, frozen, batch, problem, penalty, channels_last)
        known = measured_before() / _name_case(model, batch, channels_last)
        with contextlib.suppress(OSError, ValueError):
            times[0] = float(known.read_text(encoding="utf-8"))
        if not times[0]:
            with undisturbed(model):
                times[0] = times_as_fast(step)
            with contextlib.suppress(OSError):  # a cache that cannot be written: measured anew next time
                known.parent.mkdir(parents=True, exist_ok=True)
                write_text(known, f"{times[0]:.3f}\n")
    (times_faster,) = broadcast_object_list(times)
    if times_faster < CLEARLY:
        return "fp32", ""
    line = f"bfloat16 is {times_faster:.1f} times as fast as float32 on this CPU: steps compute in bf16"
    return "bf16", f"{line}, weights stay float32"


def measured_before() -> Path:
    """The folder of measurements on this machine, a file each."""
    return Path(HF_HOME) / "hf_sft" / "precision"


def _name_case(model: nn.Module, batch: Mapping[str, Any], channels_last: bool) -> str:
    """What a measurement depends on: the machine, the structure, what of it learns and the shapes it reads."""
    case = [platform.node(), torch.__version__, torch.get_num_threads(), channels_last]
    case += [(name, tuple(part.shape), part.requires_grad) for name, part in model.named_parameters()]
    case += [(name, tuple(getattr(value, "shape", ()))) for name, value in batch.items()]
    return xxhash.xxh64(repr(case).encode()).hexdigest()


def autocast(precision: str, device: torch.device) -> Any:
    """The context in which a run of that precision computes."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=half, enabled=half is not None)


def note_precision(checkpoints: Path, precision: str) -> None:
    """What a run that goes on has to take."""
    write_text(checkpoints / BEGUN_IN, precision + "\n")


def times_as_fast(step: Callable[[bool], None]) -> float:
    """How many times less processor time a step takes with True (bfloat16); the first of each warms up."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(REPETITIONS + 1):
        for half in (False, True):
            started = time.process_time()
            step(half)
            if number:
                seconds[half].append(time.process_time() - started)
        if number == 1 and seconds[True][0] > seconds[False][0]:
            break
    return min(seconds[False]) / max(min(seconds[True]), 1e-9)


def _make_step(
    model: nn.Module,
    frozen: Sequence[nn.Module],
    batch: Mapping[str, Any],
    problem: Problem,
    penalty: Penalty,
    channels_last: bool,
) -> Callable[[bool], None]:
    inputs = model_inputs(dict(batch), torch.device("cpu"), channels_last)
    targets = beside(dict(batch))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(half: bool) -> None:
        model.train()
        for module in frozen:
            module.training = False
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outputs = model(**inputs)
        total, items = problem.objective(outputs, targets, penalty)
        torch.autograd.grad(total / items, learning, allow_unused=True)

    return step
