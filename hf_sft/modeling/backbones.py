"""A pretrained image classifier as the backbone of another model: its layers, without its head, below a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import timm
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from hf_sft.errors import Finding, ModelError, first_few
from hf_sft.modeling import timm_models
from hf_sft.modeling.backbone_weights import only_in_backbone, pair_names
from hf_sft.modeling.source import ModelSource

HIDDEN = 128  # channels of a head on top; the defaults of 256 and 512 are for images and batches of a GPU
PYRAMID = 5  # stages at most, each of coarser maps; of more, the layers of a flat transformer, four are spread evenly
SIZE = 512  # pixels of the sides of images, where the processor names none
STRIDE = 32  # pixels of the image that the coarsest map of most classifiers has as one
FITTING = "ResNet, ConvNeXt, Swin (of transformers), or timm's ResNets, EfficientNets, ConvNeXts, as timm/resnet50"
FAULTS = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, ImportError)


@dataclass(frozen=True, kw_only=True)
class Top:
    """A model on a backbone. stages: feature maps it is given, the last ones; place: of the backbone in it.

    settings: channels of these maps -> what its configuration says besides.
    halving: it needs so many maps, each half as high and wide as the one before.
    """

    stages: int
    place: str
    settings: Callable[[Sequence[int]], dict[str, Any]]
    halving: bool


def _segmenter(channels: Sequence[int]) -> dict[str, Any]:
    return {"hidden_size": HIDDEN, "use_auxiliary_head": False}


def _detector(channels: Sequence[int]) -> dict[str, Any]:
    """RT-DETR reads maps of an eighth, a 16th, a 32nd of the image. Frozen norms of its own lose timm's activations."""
    return {
        "freeze_backbone_batch_norms": False,
        "encoder_in_channels": list(channels),
        "encoder_hidden_dim": HIDDEN,
        "d_model": HIDDEN,
        "decoder_in_channels": [HIDDEN] * len(channels),
        "encoder_ffn_dim": 4 * HIDDEN,
        "decoder_ffn_dim": 4 * HIDDEN,
        "decoder_layers": 3,
        "num_queries": 100,
    }


TOPS = {
    "upernet": Top(stages=4, place="backbone", settings=_segmenter, halving=False),
    "rt_detr": Top(stages=3, place="model.backbone.model", settings=_detector, halving=True),
}


def has_backbone(config: Any) -> bool:
    """Whether transformers or timm can give the feature maps of that classifier."""
    return config.model_type == "timm_wrapper" or type(config) in MODEL_FOR_BACKBONE_MAPPING


def explain_unfit(config: Any, task: str) -> tuple[str, str]:
    """(expected, fix) for a model that neither does that task nor has feature maps."""
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return f"an architecture that can do {task}, or an image classifier", "is the task the right one?"
    expected = f"an architecture that can do {task}, or an image classifier of which transformers gives feature maps"
    return expected, f"name another classifier: {FITTING}"


def make_config(model_type: str, classifier: Any, name: str, size: Mapping[str, int] | None = None) -> Any:
    """The configuration of a model of that type (of TOPS) on the backbone of that classifier, called `name`.

    size: height and width of its images. Raises ModelError where the classifier does not give the maps that the model
    reads, or the backbone would have other weights than the classifier.
    """
    top, size = TOPS[model_type], dict(size or {})
    sides = (size.get("height") or SIZE, size.get("width") or SIZE)
    try:
        backbone = _backbone_config(top, classifier)
        channels = _check_maps(top, backbone, sides)
        _, missing = pair_names(*_empty(backbone, classifier))
    except FAULTS as error:
        raise _refusal(top, classifier, name, sides, error) from error
    if missing:
        arguments = getattr(classifier, "model_args", None)
        raise _unlike(
            name, missing, f"; a timm backbone takes no model_args: {', '.join(arguments)}" if arguments else ""
        )
    return transformers.AutoConfig.for_model(model_type, backbone_config=backbone, **top.settings(channels))


def _backbone_config(top: Top, classifier: Any) -> Any:
    """Of the backbone whose maps are the last ones of the classifier."""
    if classifier.model_type == "timm_wrapper":
        with torch.device("meta"):
            maps: Any = timm.create_model(classifier.architecture, features_only=True).feature_info
        backbone: Any = transformers.TimmBackboneConfig(backbone=classifier.architecture)
        backbone.out_indices = list(range(len(maps)))[-top.stages :]
        return backbone
    content = {key: value for key, value in classifier.to_dict().items() if key not in ("id2label", "label2id")}
    backbone = type(classifier)(**content)
    stages = [name for name in backbone.stage_names if name != "stem"]
    spread = [round((index + 1) * len(stages) / 4) for index in range(4)]
    chosen = stages if len(stages) <= PYRAMID else [stages[place - 1] for place in spread]
    backbone.out_features = chosen[-top.stages :]
    return backbone


def _check_maps(top: Top, backbone: Any, sides: tuple[int, int]) -> list[int]:
    """The channels of its maps. Raises ValueError for maps that the model does not read, and what a backbone raises."""
    maps, channels = _maps(backbone, sides)
    found = "maps of " + ", ".join(" x ".join(map(str, shape)) for shape in maps) + " (channels, height, width)"
    announced = [len(shape) == 3 and shape[0] == number for shape, number in zip(maps, channels, strict=True)]
    if not all(announced):
        raise ValueError(f"{found}, though {', '.join(map(str, channels))} channels are announced")
    halved = all(fine[1:] == (2 * coarse[1], 2 * coarse[2]) for fine, coarse in pairwise(maps))
    if top.halving and (len(maps) < top.stages or not halved):
        raise ValueError(found)
    return channels


def _maps(backbone: Any, sides: tuple[int, int]) -> tuple[list[tuple[int, ...]], list[int]]:
    """(shapes of the maps of one image, channels that are announced). Values are computed only where shapes alone fail,

    for an architecture may look at them.
    """
    for place in ("meta", "cpu"):
        with torch.device(place), torch.no_grad():
            model = transformers.AutoBackbone.from_config(backbone).eval()
            if getattr(getattr(model, "_backbone", None), "output_fmt", "NCHW") == "NHWC":
                raise ValueError("maps with channels last, which transformers does not turn")
            try:
                found = model(torch.zeros(1, 3, *sides)).feature_maps
            except FAULTS:
                if place == "cpu":
                    raise
            else:
                return [tuple(one.shape[1:]) for one in found], list(model.channels)
    raise AssertionError


def _empty(backbone: Any, classifier: Any) -> tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor], str]:
    """Both state dicts, of shapes without values, and the prefix of the base model."""
    with torch.device("meta"):
        wrapper = transformers.AutoModelForImageClassification.from_config(classifier)
        own = transformers.AutoBackbone.from_config(backbone)
    return own.state_dict(), wrapper.state_dict(), f"{wrapper.base_model_prefix}."


def _refusal(top: Top, classifier: Any, name: str, sides: tuple[int, int], error: Exception) -> ModelError:
    """Of a classifier whose maps are not what the model reads."""
    expected = "an image classifier that gives feature maps, for a backbone"
    if top.halving:
        expected = f"an image classifier with {top.stages} feature maps, each half as high and wide as the one before"
    ways = [f"name another classifier: {FITTING}"]
    for side in _other_sides(top, classifier, sides):
        ways.append(f"or set processor.size: {side}")
    kind = classifier.architecture if classifier.model_type == "timm_wrapper" else classifier.model_type
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    found = f"{kind} ({name}); for images of {sides[0]} x {sides[1]}: {why}"
    return ModelError(Finding(place="model.name", expected=expected, found=found, fix="; ".join(ways)))


def _other_sides(top: Top, classifier: Any, sides: tuple[int, int]) -> list[int]:
    """The side of square images at which the classifier would do, where there is one: its own, or a round one."""
    own = (getattr(classifier, "pretrained_cfg", None) or {}).get("input_size") or [
        getattr(classifier, "image_size", 0)
    ]
    for side in (own[-1], -(-max(sides) // STRIDE) * STRIDE):
        if isinstance(side, int) and side and (side, side) != sides:
            with suppress(*FAULTS):
                _check_maps(top, _backbone_config(top, classifier), (side, side))
                return [side]
    return []


def _unlike(name: str, missing: Sequence[str], why: str = "") -> ModelError:
    found = f"{len(missing)} missing or of another shape: {first_few(missing, 4)}{why}"
    expected = f"the weights of a backbone in the classifier {name}"
    fix = f"name another classifier: {FITTING}"
    return ModelError(Finding(place="model.name", expected=expected, found=found, fix=fix))


def load(source: ModelSource, classifier: Any, model: Any, revision: str | None) -> tuple[frozenset[str], str]:
    """Put the classifier's weights into the model's backbone: (new parameters, what was done, in words).

    Raises ModelError where a weight of the backbone is not in the classifier, or is of another shape.
    """
    state, prefix = _load_classifier(source, classifier, revision)
    place = TOPS[model.config.model_type].place
    backbone = model.get_submodule(place)
    own = backbone.state_dict()
    pairs, missing = pair_names(own, state, prefix)
    if missing:
        raise _unlike(source.name, missing)
    backbone.load_state_dict({name: state[theirs] for name, theirs in pairs.items()}, strict=False)
    loaded = {f"{place}.{name}" for name in pairs}
    new = frozenset(name for name, _ in model.named_parameters() if name not in loaded)
    norms = sorted(name for name in own if only_in_backbone(name))
    also = f"; new in the backbone, which the classifier lacks: {first_few(norms, 4)}" if norms else ""
    name = type(model).__name__
    return new, f"{len(pairs)} tensors of a classifier loaded as the backbone of a {name}, whose head is new{also}"


def _load_classifier(source: ModelSource, classifier: Any, revision: str | None) -> tuple[dict[str, torch.Tensor], str]:
    """(Name -> what the checkpoint holds, nothing that was drawn; the prefix of the base model)."""
    if source.architecture is not None:
        classifier.num_labels = 2
        wrapper, drawn, _ = timm_models.load(source, classifier)
    else:
        wrapper, info = transformers.AutoModelForImageClassification.from_pretrained(
            source.name,
            revision=revision,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
        )
        drawn = frozenset(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}
    state = {name: value for name, value in wrapper.state_dict().items() if name not in drawn}
    return state, f"{wrapper.base_model_prefix}."
