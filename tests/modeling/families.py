"""Models of every family to look into: tiny ones with weights, and unusual ones by their shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import SIZE, TEXT_FAMILIES, save_image_model, save_text_model

from hf_sft.recipe_tuning import Tuning

HEADS = {  # family -> the modules on top of its backbone
    "bert": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "roberta": ["classifier"],
    "modernbert": ["head", "classifier"],
    "gpt2": ["score"],
    "resnet": ["classifier"],
    "vit": ["classifier"],
    "convnext": ["classifier"],
    "swin": ["classifier"],
    "deit": ["classifier"],
    "timm_resnet": ["timm_model.fc"],
    "timm_efficientnet": ["timm_model.classifier"],
    "timm_vit": ["timm_model.head"],
    "timm_deit": ["timm_model.head", "timm_model.head_dist"],
    "timm_vgg": ["timm_model.head.fc"],
}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TOWER |= {"image_size": SIZE, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 20}
CONV = {"hidden_sizes": [8, 16], "depths": [1, 1]}
UNUSUAL: dict[str, tuple[Any, str, list[str]]] = {  # no backbone of the usual name, or more than a classifier on top
    "clip": (transformers.CLIPConfig(vision_config=TOWER, text_config=TEXT), "ImageClassification", ["classifier"]),
    "siglip": (transformers.SiglipConfig(vision_config=TOWER, text_config=TEXT), "ImageClassification", ["classifier"]),
    "hgnet_v2": (transformers.HGNetV2Config(), "ImageClassification", ["fc"]),
    "regnet": (transformers.RegNetConfig(**CONV, groups_width=8), "ImageClassification", ["classifier"]),
    "electra": (transformers.ElectraConfig(**TEXT, embedding_size=16), "SequenceClassification", ["classifier"]),
    "deberta-v2": (transformers.DebertaV2Config(**TEXT), "SequenceClassification", ["pooler", "classifier"]),
    "bart": (
        transformers.BartConfig(vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1),
        "SequenceClassification",
        ["classification_head"],
    ),
}
SWIN = {"image_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
VISION: dict[str, Any] = {  # with class and register tokens, position tables, layer scale, GRN, BatchNorm
    "beit": transformers.BeitConfig(**TOWER, use_relative_position_bias=True, use_absolute_position_embeddings=True),
    "dinov2": transformers.Dinov2WithRegistersConfig(**TOWER),
    "convnextv2": transformers.ConvNextV2Config(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]),
    "swinv2": transformers.Swinv2Config(**SWIN),
    "levit": transformers.LevitConfig(
        image_size=SIZE, hidden_sizes=[16, 16, 16], num_attention_heads=[1, 1, 1], depths=[1, 1, 1], key_dim=[8, 8, 8]
    ),
    "regnet": transformers.RegNetConfig(**CONV, groups_width=8),
}

BERT = {**TEXT, "num_hidden_layers": 3}
LAYERED: dict[str, tuple[Any, str]] = {  # with tables behind the layers, shared layers, stages, a last convolution
    "albert": (transformers.AlbertConfig(**BERT, embedding_size=8), "SequenceClassification"),
    "deberta-v2": (
        transformers.DebertaV2Config(**BERT, relative_attention=True, norm_rel_ebd="layer_norm"),
        "SequenceClassification",
    ),
    "xlm-roberta": (transformers.XLMRobertaConfig(**BERT, pad_token_id=0), "SequenceClassification"),
    "xlm": (
        transformers.XLMConfig(vocab_size=20, emb_dim=16, n_layers=2, n_heads=2, pad_index=0),
        "SequenceClassification",
    ),
    "segformer": (
        transformers.SegformerConfig(
            num_encoder_blocks=2,
            depths=[1, 2],
            hidden_sizes=[8, 16],
            num_attention_heads=[1, 2],
            sr_ratios=[2, 1],
            patch_sizes=[7, 3],
            strides=[4, 2],
            mlp_ratios=[2, 2],
        ),
        "ImageClassification",
    ),
    "mobilenet_v2": (transformers.MobileNetV2Config(depth_multiplier=0.25), "ImageClassification"),
    "efficientnet": (
        transformers.EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320),
        "ImageClassification",
    ),
    "resnet_deep": (
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 3], layer_type="bottleneck"),
        "ImageClassification",
    ),
}
ALL = list(dict.fromkeys([*HEADS, *VISION, *UNUSUAL, *LAYERED]))

STRATEGY_SETTINGS: dict[str, dict[str, Any]] = {  # the least that each strategy has to be told
    "full": {"strategy": "full"},
    "head": {"strategy": "head"},
    "top_layers": {"strategy": "top_layers", "layers": 1},
    "first_layers": {"strategy": "first_layers", "layers": 1},
    "layer_decay": {"strategy": "layer_decay", "layer_decay": 0.5},
    "gradual": {"strategy": "gradual"},
    "rules": {"strategy": "rules", "rules": [{"pattern": "*"}]},
    "lora": {"strategy": "lora"},
}


def settings_for(strategy: str, **settings: Any) -> Tuning:
    """The `tuning` section of a recipe."""
    return Tuning.model_validate({**STRATEGY_SETTINGS[strategy], **settings})


def load(family: str, folder: Path, num_labels: int = 5) -> Any:
    """A tiny model with a classifier."""
    text = family in TEXT_FAMILIES
    (save_text_model if text else save_image_model)(family, folder, labels=[f"l{index}" for index in range(num_labels)])
    auto = transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForImageClassification
    return auto.from_pretrained(folder)


def from_config(config: Any, kind: str, num_labels: int = 5, device: str = "meta") -> Any:
    """A model whose weights have shapes and, on the meta device, no values."""
    config.num_labels, config.architectures = num_labels, []
    with torch.device(device):
        return getattr(transformers, f"AutoModelFor{kind}").from_config(config)


def build(family: str, folder: Path) -> Any:
    """A model of HEADS, or of VISION without weights."""
    return from_config(VISION[family], "ImageClassification") if family in VISION else load(family, folder)


def build_any(family: str, folder: Path) -> Any:
    """A model of ALL, with weights."""
    if family in HEADS:
        return load(family, folder)
    if family in VISION:
        return from_config(VISION[family], "ImageClassification", device="cpu")
    config, kind = LAYERED[family] if family in LAYERED else UNUSUAL[family][:2]
    return from_config(config, kind, device="cpu")


def example(family: str) -> dict[str, torch.Tensor]:
    """What a model of that family takes: one text, or one image."""
    kind = LAYERED[family][1] if family in LAYERED else UNUSUAL[family][1] if family in UNUSUAL else ""
    if family in TEXT_FAMILIES or kind == "SequenceClassification":
        return {"input_ids": torch.tensor([[5, 6, 7, 2]])}
    return {"pixel_values": torch.rand(1, 3, SIZE, SIZE)}
