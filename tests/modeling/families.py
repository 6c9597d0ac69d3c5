"""Models of every family to look into: tiny ones with weights, and unusual ones by their shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import SIZE, TEXT_FAMILIES, save_image_model, save_text_model

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


def load(family: str, folder: Path, num_labels: int = 5) -> Any:
    """A tiny model with a classifier."""
    text = family in TEXT_FAMILIES
    (save_text_model if text else save_image_model)(family, folder, labels=[f"l{index}" for index in range(num_labels)])
    auto = transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForImageClassification
    return auto.from_pretrained(folder)


def from_config(config: Any, kind: str, num_labels: int = 5) -> Any:
    """A model whose weights have shapes and no values."""
    config.num_labels, config.architectures = num_labels, []
    with torch.device("meta"):
        return getattr(transformers, f"AutoModelFor{kind}").from_config(config)


def build(family: str, folder: Path) -> Any:
    """A model of HEADS, or of VISION without weights."""
    return from_config(VISION[family], "ImageClassification") if family in VISION else load(family, folder)
