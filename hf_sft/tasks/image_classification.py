"""Image classification: one image -> one label, several labels, or a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Image, Value
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

from hf_sft.data.bad_rows import MOST_LOOKED_AT, Fault, looked_at
from hf_sft.data.columns import columns_of, label_column
from hf_sft.data.pictures import picture_faults
from hf_sft.data.quality import inspect_images
from hf_sft.data.splits import Split
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import Processor, Recipe
from hf_sft.tasks.classification import PROBLEMS, collate_targets, decide, write_rows
from hf_sft.tasks.task import Batch, Task


def _load_image_processor(source: str, recipe: Recipe, config: Any, trust_remote_code: bool) -> Any:
    """The model's own processor with the recipe's size, mean and std; timm keeps these in the model's config."""
    asked = recipe.processor
    if config.model_type == "timm_wrapper":
        from transformers import TimmWrapperImageProcessor

        config.pretrained_cfg = {**config.pretrained_cfg, **_as_timm(asked)}
        return TimmWrapperImageProcessor(config.pretrained_cfg, architecture=config.architecture)
    processor = AutoImageProcessor.from_pretrained(
        source, revision=recipe.model.revision, trust_remote_code=trust_remote_code
    )
    for name in ("image_mean", "image_std", "do_normalize"):
        value = getattr(asked, name)
        if value is not None:
            setattr(processor, name, value)
    if asked.size is not None:
        square = {"height": asked.size, "width": asked.size}
        processor.size = {"shortest_edge": asked.size} if "shortest_edge" in processor.size else square
        if getattr(processor, "crop_size", None):
            processor.crop_size = square
    return processor


def _as_timm(asked: Processor) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if asked.size is not None:
        settings["input_size"] = (3, asked.size, asked.size)
    if asked.image_mean is not None:
        settings["mean"] = tuple(asked.image_mean)
    if asked.image_std is not None:
        settings["std"] = tuple(asked.image_std)
    if asked.do_normalize is False:
        settings |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return settings


def keep_config(model: Any, processor: Any) -> None:
    """Nothing: an image processor adds nothing to a model's config."""


def prepare_images(split: Split, recipe: Recipe, role: str = "image") -> Split:
    """Rows whose column of that role decodes: paths (relative to the data's folder) and encoded bytes become images."""
    (column,) = columns_of(recipe.dataset, role)
    feature, rows = split.rows.features[column], split.rows
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        path = Path(recipe.locate(recipe.dataset.path))
        folder = path if path.is_dir() else path.parent if path.is_file() else recipe.folder
        rows = rows.map(partial(_absolute_paths, column, folder), batched=True)
    elif not _holds_images(feature):
        found = f"column {column!r} of type {getattr(feature, 'dtype', None) or type(feature).__name__}"
        fix = "name the column that holds images or their paths"
        raise DataError(Finding(place=f"dataset.columns.{role}", expected="images", found=found, fix=fix))
    elif isinstance(feature, Image) and feature.decode:
        return split
    return replace(split, rows=rows.cast_column(column, Image()))


def _holds_images(feature: Any) -> bool:
    """An image column, files as bytes, or the pairs of bytes and path that parquet files hold."""
    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def find_image_faults(split: Split, recipe: Recipe) -> list[Fault]:
    """Images that are missing, do not decode or are tiny; of many rows some thousands are looked at, unless bad ones

    are to be skipped.
    """
    (column,) = columns_of(recipe.dataset, "image")
    most = MOST_LOOKED_AT if recipe.dataset.on_bad_row == "error" else None
    return picture_faults(split.rows, column, "image", looked_at(len(split), most))


def _absolute_paths(column: str, folder: Path, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {column: [None if path is None else str(folder / path) for path in batch[column]]}


def _configure_transform(processor: Any, recipe: Recipe) -> Callable[[Batch], dict[str, Any]]:
    (column,) = columns_of(recipe.dataset, "image")
    return partial(read_images, processor, column)


def read_images(processor: Any, column: str, batch: Batch) -> dict[str, Any]:
    """pixel_values float32 [3, H, W] per row; `load_image` turns and converts to RGB exactly as pipeline() does."""
    images = [load_image(image) for image in batch[column]]
    return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"]}


def _configure_collate(processor: Any, recipe: Recipe) -> Callable[[Sequence[Batch]], dict[str, Any]]:
    return _collate


def _collate(features: Sequence[Batch]) -> dict[str, Any]:
    return {"pixel_values": torch.stack([feature["pixel_values"] for feature in features])} | collate_targets(features)


def pixels_of(processor: Any) -> int:
    """The shorter side of the model's input."""
    if hasattr(processor, "data_config"):  # timm's
        return int(min(processor.data_config["input_size"][1:]))
    size = getattr(processor, "crop_size", None) or processor.size
    return int(min(value for key, value in dict(size).items() if value and not key.startswith("max")))


IMAGE_CLASSIFICATION = Task(
    name="image-classification",
    columns={"image": True, "label": True},
    read_labels=label_column,
    decide_labels=decide,
    problems=PROBLEMS,
    auto_model="AutoModelForImageClassification",
    load_processor=_load_image_processor,
    fit_model=keep_config,
    prepare=prepare_images,
    find_faults=find_image_faults,
    inspect=inspect_images,
    full_lengths=None,
    longest_input=None,
    transform=_configure_transform,
    ahead=False,
    collate=_configure_collate,
    length=None,
    write=write_rows,
    opened=load_image,
    pixels=pixels_of,
    channels_last=True,
)
