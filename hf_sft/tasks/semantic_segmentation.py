"""Semantic segmentation: an image -> a class for each of its pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Image
from numpy.typing import NDArray
from PIL import Image as pil
from torch.nn import functional
from torchvision import tv_tensors
from transformers import AutoImageProcessor, SegformerImageProcessor
from transformers.image_utils import load_image

from hf_sft.data.bad_rows import Fault
from hf_sft.data.columns import columns_of
from hf_sft.data.image_sizes import size_of
from hf_sft.data.labels import Labels
from hf_sft.data.masks import USUAL_IGNORED, decide_classes, lookup, name_pixels, read_ids, read_masks
from hf_sft.data.pictures import CHUNK
from hf_sft.data.quality import inspect_images
from hf_sft.data.splits import Split
from hf_sft.recipe import Recipe
from hf_sft.tasks.image_classification import find_image_faults, keep_config, pixels_of, prepare_images
from hf_sft.tasks.mask_pictures import FILE_COLUMNS, colours_of, draw_masks, write_masks
from hf_sft.tasks.pixels import PROBLEMS, write_pixels
from hf_sft.tasks.task import Batch, Task

IGNORED_IN_CONFIG = ("semantic_loss_ignore_index", "loss_ignore_index")


def _load_processor(source: str, recipe: Recipe, config: Any, trust_remote_code: bool) -> Any:
    """An image processor that stretches the whole image to one size, and turns outputs into masks as pipeline() does.

    Of a classifier's processor size, mean and std are taken. Crops are left out: masks are of the whole image.
    """
    asked = recipe.processor
    if config.model_type == "timm_wrapper":
        known = config.pretrained_cfg
        sides = known["input_size"][1:]
        processor = SegformerImageProcessor(
            size={"height": sides[0], "width": sides[1]}, image_mean=list(known["mean"]), image_std=list(known["std"])
        )
    else:
        processor = AutoImageProcessor.from_pretrained(
            source, revision=recipe.model.revision, trust_remote_code=trust_remote_code
        )
        sides = [pixels_of(processor)] * 2
        if "height" in processor.size:
            sides = [processor.size["height"], processor.size["width"]]
        if not hasattr(processor, "post_process_semantic_segmentation"):
            processor = SegformerImageProcessor(
                image_mean=processor.image_mean, image_std=processor.image_std, resample=processor.resample
            )
    processor.size = {"height": asked.size or sides[0], "width": asked.size or sides[1]}
    for name, value in (("do_reduce_labels", False), ("do_center_crop", False), ("keep_aspect_ratio", False)):
        if hasattr(processor, name):
            setattr(processor, name, value)
    for name in ("image_mean", "image_std", "do_normalize"):
        if getattr(asked, name) is not None:
            setattr(processor, name, getattr(asked, name))
    return processor


def _fit_config(config: Any, labels: Labels, recipe: Recipe) -> None:
    """The colours of the classes, and the id that transformers' own loss ignores: none of the model's."""
    config.id2color = colours_of(labels, recipe.dataset)
    asked, classes = recipe.dataset.ignore_label, len(labels.names)
    for name in IGNORED_IN_CONFIG:
        if hasattr(config, name) and asked is not None:
            setattr(config, name, asked if asked >= classes else max(USUAL_IGNORED, classes))
    for name in ("use_auxiliary_head", "auxiliary_head"):
        if hasattr(config, name):
            setattr(config, name, False)  # nothing of ours would train it


def _prepare(split: Split, recipe: Recipe) -> Split:
    """Rows whose image and mask columns decode."""
    ready = prepare_images(split, recipe, "image")
    (column,) = columns_of(recipe.dataset, "mask")
    return prepare_images(ready, recipe, "mask") if column in split.rows.column_names else ready


def _find_faults(split: Split, recipe: Recipe) -> list[Fault]:
    """Images that cannot be used, and those that are of another size than their masks."""
    faults = find_image_faults(split, recipe)
    (image,), (mask,) = columns_of(recipe.dataset, "image"), columns_of(recipe.dataset, "mask")
    if mask not in split.rows.column_names:
        return faults
    known = {fault.position for fault in faults}
    rows = split.rows.select_columns([image, mask])
    for column in (image, mask):
        rows = rows.cast_column(column, Image(decode=False))
    for start in range(0, len(rows), CHUNK):
        batch = rows[start : start + CHUNK]
        for position, pair in enumerate(zip(batch[image], batch[mask], strict=True), start):
            if position in known or None in pair:
                continue
            sizes = [size_of(value) for value in pair]
            if sizes[0] != sizes[1] and None not in sizes:
                shown = " and ".join(f"{size[0]} x {size[1]}" for size in sizes if size)
                fault = Fault(
                    position=position,
                    role="mask",
                    column=mask,
                    kind="is of another size than the image",
                    detail=f"image and mask: {shown}",
                    expected="a mask of the image's size in every row",
                )
                faults.append(fault)
    return faults


def _open_rows(recipe: Recipe, labels: Labels, training: bool) -> Callable[[Batch], dict[str, Any]]:
    (image,), (mask,) = columns_of(recipe.dataset, "image"), columns_of(recipe.dataset, "mask")
    return partial(open_masks, image, mask, lookup(recipe.dataset, labels), training)


def open_masks(image: str, mask: str, table: NDArray, training: bool, batch: Batch) -> dict[str, Any]:
    """The image, turned and in RGB as pipeline() has it; its mask in ids of the model, where there is one; sizes where

    evaluated.
    """
    images = [load_image(value) for value in batch[image]]
    opened: dict[str, Any] = {"image": images}
    if mask in batch:
        opened["mask"] = [tv_tensors.Mask(torch.from_numpy(table[read_ids(value)])) for value in batch[mask]]
    if not training:
        opened["sizes"] = [(picture.height, picture.width) for picture in images]
    return opened


def _configure_transform(processor: Any, recipe: Recipe) -> Callable[[Batch], dict[str, Any]]:
    return partial(read_masked, processor)


def read_masked(processor: Any, batch: Batch) -> dict[str, Any]:
    """pixel_values float32 [3, H, W] and labels int64 [H, W] per row; with "sizes" the mask itself as "truth"."""
    inputs: dict[str, Any] = {"pixel_values": processor(batch["image"], return_tensors="pt")["pixel_values"]}
    size = inputs["pixel_values"].shape[-2:]
    if "mask" in batch:
        inputs["labels"] = [_resized(mask, size) for mask in batch["mask"]]
    if "sizes" in batch:
        inputs["sizes"] = batch["sizes"]
        if "mask" in batch:
            inputs["truth"] = [torch.as_tensor(mask) for mask in batch["mask"]]
    return inputs


def _resized(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """int64 [H, W]: each pixel that of its nearest in the mask, as transformers' processors take it."""
    enlarged = functional.interpolate(torch.as_tensor(mask)[None, None].float(), size=tuple(size), mode="nearest-exact")
    return enlarged[0, 0].long()


def _configure_collate(processor: Any, recipe: Recipe) -> Callable[[Sequence[Batch]], dict[str, Any]]:
    return _collate


def _collate(features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {
        "pixel_values": torch.stack([feature["pixel_values"] for feature in features]),
        "weight": torch.tensor([feature["weight"] for feature in features]),
    }
    if "labels" in features[0]:
        batch["labels"] = torch.stack([feature["labels"] for feature in features])
    if "sizes" in features[0]:
        batch["sizes"] = torch.tensor([feature["sizes"] for feature in features])
    if "truth" in features[0]:
        batch["truth"] = [feature["truth"] for feature in features]
    return batch


def _seen(feature: Batch, processor: Any) -> tuple[Any, Any]:
    """The model's input as an image again, and its labels."""
    pixels = feature["pixel_values"]
    if processor.do_normalize:
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        pixels = pixels * std + mean
    image = pil.fromarray((pixels.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
    return image, np.asarray(feature["labels"])


SEMANTIC_SEGMENTATION = Task(
    name="image-segmentation",
    columns={"image": True, "mask": True},
    target="mask",
    read_labels=read_masks,
    name_targets=name_pixels,
    decide_labels=decide_classes,
    problems=PROBLEMS,
    auto_model="AutoModelForSemanticSegmentation",
    on_backbone="upernet",
    load_processor=_load_processor,
    fit_config=_fit_config,
    fit_model=keep_config,
    prepare=_prepare,
    find_faults=_find_faults,
    inspect=inspect_images,
    full_lengths=None,
    longest_input=None,
    open_rows=_open_rows,
    transform=_configure_transform,
    ahead=False,
    streams=False,
    collate=_configure_collate,
    length=None,
    write=write_pixels,
    write_files=write_masks,
    file_columns=FILE_COLUMNS,
    seen=_seen,
    draw=draw_masks,
    opened=load_image,
    pixels=pixels_of,
    channels_last=True,
)
