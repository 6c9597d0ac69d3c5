"""Object detection: one image -> boxes, each with a label and a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow
import torch
import transformers
from transformers import AutoImageProcessor, RTDetrImageProcessor
from transformers.image_utils import load_image

from hf_sft.data.boxes import decide_objects, name_objects, read_objects
from hf_sft.data.columns import columns_of
from hf_sft.data.labels import Labels
from hf_sft.data.quality import inspect_images
from hf_sft.errors import Finding, ModelError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tasks.box_pictures import draw_boxes, seen_boxes, write_pictures
from hf_sft.tasks.detection import LEAST_SIDE, PROBLEMS, write_boxes
from hf_sft.tasks.image_classification import find_image_faults, keep_config, pixels_of, prepare_images
from hf_sft.tasks.task import Batch, Task

FAMILIES = (  # whose outputs are boxes as shares of the image, and a score per label or one of "no object"
    "rt_detr", "rt_detr_v2", "d_fine", "yolos", "deformable_detr", "conditional_detr", "detr", "table-transformer",
)  # fmt: skip
OURS: tuple[str, ...] = ("matcher_", "weight_loss_", "focal_", "num_denoising", "auxiliary_loss", "eos_coefficient")
OURS += ("class_cost", "bbox_cost", "giou_cost", "bbox_loss_", "giou_loss_", "cls_loss_")  # keys of a model's own loss
SIDE = 512  # pixels of the images of a detector on a classifier
LEAST_SHARE = 0.1  # of a box that augmentation must leave in the image; else it has vanished


def _load_processor(source: str, recipe: Recipe, config: Any, trust_remote_code: bool) -> Any:
    """The model's image processor, which gives every image one size, without a border.

    Of a classifier, which becomes a detector's backbone, mean and std are taken.
    Raises ModelError for families whose outputs are not known, RecipeError for settings of a loss that is not used.
    """
    detector = type(config) in transformers.AutoModelForObjectDetection._model_mapping
    if detector and config.model_type not in FAMILIES:
        expected, found = f"a detector that can be trained: {', '.join(FAMILIES)}", f"{config.model_type} ({source})"
        raise ModelError(Finding(place="model.name", expected=expected, found=found, fix="name one of another family"))
    wrong = [key for key in recipe.model.config if key.startswith(OURS)]
    if wrong:
        expected, fix = "a setting that has an effect", "leave it out: the loss is the same for all families"
        raise RecipeError(
            [Finding(place=f"model.config.{key}", expected=expected, found=key, fix=fix) for key in wrong]
        )
    if config.model_type == "timm_wrapper":
        known = config.pretrained_cfg
        processor = _on_classifier(list(known["mean"]), list(known["std"]))
    else:
        processor = AutoImageProcessor.from_pretrained(
            source, revision=recipe.model.revision, trust_remote_code=trust_remote_code
        )
        if not detector:
            processor = _on_classifier(processor.image_mean, processor.image_std)
    asked, size = recipe.processor, dict(processor.size)
    for name in ("image_mean", "image_std", "do_normalize"):
        if getattr(asked, name) is not None:
            setattr(processor, name, getattr(asked, name))
    if asked.size is not None or not (size.get("height") and size.get("width")):
        side = asked.size or size.get("shortest_edge") or size.get("longest_edge")
        processor.size = {"height": side, "width": side}
    processor.do_pad = False
    return processor


def _on_classifier(mean: list[float], std: list[float]) -> Any:
    return RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=mean, image_std=std, do_normalize=True)


def _fit_config(config: Any, labels: Labels, recipe: Recipe) -> None:
    """No queries made of noisy true boxes: they are drawn per batch, so that no batch could be split."""
    if hasattr(config, "num_denoising"):
        config.num_denoising = 0


def _open_rows(recipe: Recipe, labels: Labels, training: bool) -> Callable[[Batch], dict[str, Any]]:
    (column,) = columns_of(recipe.dataset, "image")
    return partial(open_images, column, len(labels.names))


def open_images(column: str, num_labels: int, batch: Batch) -> dict[str, Any]:
    """image: RGB; sizes: its height and width; where targets are known boxes, as tv_tensors that move along with the

    image, classes, int64 [n], and truth, the targets as they are.
    """
    from torchvision.tv_tensors import BoundingBoxes

    images = [load_image(image) for image in batch[column]]
    sizes = [(image.height, image.width) for image in images]
    opened: dict[str, Any] = {"image": images, "sizes": sizes, "num_labels": [num_labels] * len(images)}
    if "targets" in batch:
        opened["boxes"] = [
            BoundingBoxes(
                torch.tensor(row[:, :4], dtype=torch.float32),
                format="XYXY",
                canvas_size=size,
                clamping_mode=None,
            )
            for row, size in zip(batch["targets"], sizes, strict=True)
        ]
        opened["truth"] = list(batch["targets"])
        opened["classes"] = [torch.tensor(row[:, 4], dtype=torch.int64) for row in batch["targets"]]
    return opened


def _configure_transform(processor: Any, recipe: Recipe) -> Callable[[Batch], dict[str, Any]]:
    return partial(read_images, processor)


def read_images(processor: Any, batch: Batch) -> dict[str, Any]:
    """pixel_values float32 [3, H, W], sizes, and where targets are known truth, as they are, and labels:

    {"boxes": [n, 4], "class_labels": int64 [n], "num_labels"}, boxes as centre, width, height in shares of the image.
    """
    pixels = processor(list(batch["image"]), return_tensors="pt")["pixel_values"]
    found: dict[str, Any] = {"pixel_values": pixels, "sizes": [torch.tensor(size) for size in batch["sizes"]]}
    if "boxes" in batch:
        parts = zip(batch["image"], batch["boxes"], batch["classes"], batch["num_labels"], strict=True)
        found |= {"labels": [as_shares(*part) for part in parts], "truth": batch["truth"]}
    return found


def as_shares(image: Any, boxes: torch.Tensor, classes: torch.Tensor, num_labels: int) -> dict[str, Any]:
    """The boxes of an image as its model takes them: cut at its borders, without those that have vanished."""
    corners = torch.as_tensor(boxes).reshape(-1, 4)
    sides = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
    cut = corners.clamp(min=0).minimum(sides)
    left, whole = ((part[:, 2:] - part[:, :2]).clamp(min=0) for part in (cut, corners))
    kept = (left >= LEAST_SIDE).all(1) & (left.prod(1) >= LEAST_SHARE * whole.prod(1))
    centre = (cut[:, :2] + cut[:, 2:]) / 2
    shares = torch.cat([centre, left], 1) / sides
    return {"boxes": shares[kept], "class_labels": classes[kept], "num_labels": num_labels}


def _configure_collate(processor: Any, recipe: Recipe) -> Callable[[Sequence[Batch]], dict[str, Any]]:
    return collate_boxes


def collate_boxes(features: Sequence[Batch]) -> dict[str, Any]:
    """Tensors [B, ...], and labels as a list of what each row has."""
    batch: dict[str, Any] = {
        "pixel_values": torch.stack([feature["pixel_values"] for feature in features]),
        "sizes": torch.stack([feature["sizes"] for feature in features]),
        "weight": torch.tensor([feature["weight"] for feature in features]),
    }
    if "labels" in features[0]:
        batch |= {name: [feature[name] for feature in features] for name in ("labels", "truth")}
    return batch


OBJECT_DETECTION = Task(
    name="object-detection",
    columns={"image": True, "objects": True},
    target="objects",
    read_labels=read_objects,
    name_targets=name_objects,
    decide_labels=decide_objects,
    problems=PROBLEMS,
    auto_model="AutoModelForObjectDetection",
    load_processor=_load_processor,
    on_backbone="rt_detr",
    fit_config=_fit_config,
    fit_model=keep_config,
    prepare=prepare_images,
    find_faults=find_image_faults,
    inspect=inspect_images,
    full_lengths=None,
    longest_input=None,
    open_rows=_open_rows,
    transform=_configure_transform,
    ahead=False,
    collate=_configure_collate,
    length=None,
    write=write_boxes,
    write_files=write_pictures,
    file_columns={"picture": pyarrow.string()},
    opened=load_image,
    pixels=pixels_of,
    streams=False,
    channels_last=True,
    packages=("pycocotools",),
    seen=seen_boxes,
    draw=draw_boxes,
)
