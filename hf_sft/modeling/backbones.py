"""A pretrained image classifier as the backbone of another model: its layers, without its head, below a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from hf_sft.errors import Finding, ModelError
from hf_sft.modeling import timm_models
from hf_sft.modeling.source import ModelSource

HIDDEN = 128  # channels of a head on top; the defaults of 256 and 512 are for images and batches of a GPU


@dataclass(frozen=True, kw_only=True)
class Top:
    """A model on a backbone. stages: feature maps it is given, the last ones; place: of the backbone in it.

    settings: channels of these maps -> what its configuration says besides.
    """

    stages: int
    place: str
    settings: Callable[[Sequence[int]], dict[str, Any]]


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
    "upernet": Top(stages=4, place="backbone", settings=_segmenter),
    "rt_detr": Top(stages=3, place="model.backbone.model", settings=_detector),
}


def has_backbone(config: Any) -> bool:
    """Whether transformers or timm can give the feature maps of that classifier."""
    return config.model_type == "timm_wrapper" or type(config) in MODEL_FOR_BACKBONE_MAPPING


def make_config(model_type: str, classifier: Any) -> Any:
    """The configuration of a model of that type (of TOPS) on the classifier's backbone."""
    top = TOPS[model_type]
    if classifier.model_type == "timm_wrapper":
        maps: Any = timm.create_model(classifier.architecture, features_only=True).feature_info
        backbone: Any = transformers.TimmBackboneConfig(backbone=classifier.architecture)
        backbone.out_indices = list(range(len(maps)))[-top.stages :]
    else:
        content = {key: value for key, value in classifier.to_dict().items() if key not in ("id2label", "label2id")}
        backbone = type(classifier)(**content)
        numbered = range(1, len(backbone.stage_names))
        spread = [round((index + 1) * len(numbered) / 4) for index in range(4)][-top.stages :]
        backbone.out_features = [backbone.stage_names[place] for place in dict.fromkeys(spread) if place]
    with torch.device("meta"):
        channels = transformers.AutoBackbone.from_config(backbone).channels
    return transformers.AutoConfig.for_model(model_type, backbone_config=backbone, **top.settings(channels))


def load(source: ModelSource, classifier: Any, model: Any, revision: str | None) -> tuple[frozenset[str], str]:
    """Put the classifier's weights into the model's backbone: (new parameters, what was done, in words).

    Raises ModelError where a weight of the backbone is not in the classifier, or is of another shape.
    """
    state = _classifier_state(source, classifier, revision)
    place = TOPS[model.config.model_type].place
    backbone = model.get_submodule(place)
    own = backbone.state_dict()
    found = {name: value for name in own if (value := _find(name, own[name], state)) is not None}
    layers = {name for name, _ in backbone.named_parameters()}
    norms = {name for name in layers if name.startswith("hidden_states_norms.")}  # which only the backbone has
    missing = sorted(name for name in layers - norms - found.keys())
    if missing:
        text = f"{len(missing)} of {len(layers)} missing or of another shape: {', '.join(missing[:4])}"
        expected = f"the weights of a backbone in the classifier {source.name}"
        raise ModelError(Finding(place="model.name", expected=expected, found=text, fix="name another classifier"))
    with torch.no_grad():
        backbone.load_state_dict(found, strict=False)
    loaded = {f"{place}.{name}" for name in layers & found.keys()}
    new = frozenset(name for name, _ in model.named_parameters() if name not in loaded)
    name = type(model).__name__
    return new, f"{len(found)} tensors of a classifier loaded as the backbone of a {name}, whose head is new"


def _classifier_state(source: ModelSource, classifier: Any, revision: str | None) -> Mapping[str, torch.Tensor]:
    """Name -> weight, under the names of the bare backbone."""
    if source.architecture is not None:
        classifier.num_labels = 2
        wrapper, _, _ = timm_models.load(source, classifier)
    else:
        auto_class = transformers.AutoModelForImageClassification
        wrapper = auto_class.from_pretrained(source.name, revision=revision, dtype=torch.float32, use_safetensors=True)
    prefix = "timm_model." if classifier.model_type == "timm_wrapper" else f"{wrapper.base_model_prefix}."
    return {name.removeprefix(prefix): value for name, value in wrapper.state_dict().items()}


def _find(name: str, own: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    found = state.get(name.removeprefix("_backbone."))
    return found if found is not None and found.shape == own.shape else None
