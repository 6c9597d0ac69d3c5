"""What recorded activations depend on beside their rows, as one hash: change any of it and they are not found."""

from __future__ import annotations

import copy
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL
import timm
import tokenizers
import torch
import torchvision
import transformers
import xxhash

from hf_sft.data.columns import columns_of
from hf_sft.modeling.replay import Cut

if TYPE_CHECKING:
    from hf_sft.job import Job

FORMAT = 1  # of what is recorded; another one after a change of how rows become inputs
VERSIONS = (torch, torchvision, transformers, tokenizers, timm, PIL)
OF_THE_HEAD = (  # of a model's configuration: what says nothing about the frozen part
    "id2label", "label2id", "num_labels", "label_names", "problem_type", "hf_sft_thresholds", "architectures",
    "transformers_version", "_name_or_path", "num_classes",
)  # fmt: skip


def describe_computation(job: Job, cut: Cut) -> str:
    """A hash of frozen weights and statistics, configuration, cut, processor, precision, dtype and versions."""
    model, recipe = job.built.model, job.recipe
    digest = xxhash.xxh3_128()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in model.state_dict().items():
        if name not in learning:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    said = {
        "model": type(model).__name__,
        "config": _without(model.config.to_dict(), OF_THE_HEAD),
        "cut": [cut.point, cut.places, sorted(cut.stubs), [[shape.sides, str(shape.dtype)] for shape in cut.crossing]],
        "dtype": recipe.tuning.cache_dtype,
        "precision": job.environment.precision,
        "device": next(model.parameters()).device.type,
        "task": job.task.name,
        "columns": [columns_of(recipe.dataset, role) for role in job.task.columns if role != job.task.target],
        "processor": recipe.processor.model_dump(),
        "versions": [FORMAT, version("hf-sft"), *(module.__version__ for module in VERSIONS)],
    }
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    digest.update(_processor_files(job))
    return digest.hexdigest()


def _without(content: Any, keys: tuple[str, ...]) -> Any:
    """Plain data without these keys, however deep they stand."""
    if isinstance(content, dict):
        return {str(name): _without(value, keys) for name, value in content.items() if name not in keys}
    return content


def _processor_files(job: Job) -> bytes:
    """What the processor saves of itself; that of a timm model lies in the model's configuration.

    A tokenizer's file also says how it last cut and padded, which is no property of it: max_length is in the recipe.
    """
    if job.built.model.config.model_type == "timm_wrapper":
        return b""
    processor = job.built.processor
    if getattr(processor, "is_fast", False) and hasattr(processor, "backend_tokenizer"):
        processor = copy.deepcopy(processor)
        processor.backend_tokenizer.no_truncation()
        processor.backend_tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return b"".join(file.name.encode() + file.read_bytes() for file in files)
