"""What trackers are told of a run: the resolved recipe and where it runs, without secrets or folders of the machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from hf_sft import environment
from hf_sft.record import RunRecord, finite_json
from hf_sft.secrets import mask

if TYPE_CHECKING:
    from hf_sft.job import Job

ABSOLUTE = re.compile(r"(?:/|~|\.\.[/\\]|[A-Za-z]:[/\\]|\\\\|file:).*[^/\\][/\\]*", re.DOTALL)
WORDS_OF_THE_DATA = ("labels", "label_map", "columns")  # of dataset: what looks like a path there is none


def describe_job(job: Job) -> dict[str, Any]:
    """Section -> key -> value, as plain data. Of paths that are absolute or lead upwards the last part is left."""
    machine = job.environment
    content = {
        **job.recipe.to_dict(),
        "machine": {"device": machine.device, "processes": machine.processes, "precision": machine.precision},
        "rows": {role: len(part.split) for role, part in job.data.splits.items()},
        "parameters": {name: job.parameters[name] for name in ("total", "trainable")},
        "versions": environment.versions(),
    }
    data = {key: _masked(content["dataset"][key]) for key in WORDS_OF_THE_DATA}
    shown: dict[str, Any] = finite_json(_portable(content))
    shown["dataset"] |= data
    return shown


def name_run(job: Job) -> str:
    """training.run_name, or the last part of output_dir."""
    name = job.recipe.training.get("run_name") or PureWindowsPath(job.recipe.output_dir).name
    return mask(str(name)) or job.recipe.task


def flat(content: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """`section.key` -> value; what is nested deeper as JSON, what is empty left out."""
    pairs: dict[str, Any] = {}
    for section, inside in content.items():
        values = {f"{section}.{key}": value for key, value in inside.items()} if isinstance(inside, dict) else None
        pairs |= {section: inside} if values is None else values
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
        for name, value in pairs.items()
        if value is not None and value != {} and value != []
    }


def summarise(record: RunRecord) -> dict[str, float]:
    """`test/accuracy`, `validation/loss`, ...: the final metrics, of the weights that are kept."""
    values = {f"{split}/{name}": value for split, found in record.metrics.items() for name, value in found.items()}
    seconds = {f"seconds/{name}": record.timings[name] for name in ("train", "total")}
    return {name: value for name, value in {**values, **seconds}.items() if math.isfinite(value)}


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_portable(inside) for inside in value]
    if not isinstance(value, str):
        return value
    prefix, colon, rest = value.partition(":")
    if colon and prefix in ("evaluate", "package"):
        return f"{prefix}:{_portable(rest)}"
    return mask(PureWindowsPath(value).name if ABSOLUTE.fullmatch(value) else value)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {mask(str(key)): _masked(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_masked(inside) for inside in value]
    return mask(value) if isinstance(value, str) else value
