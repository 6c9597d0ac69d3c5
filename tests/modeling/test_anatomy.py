"""The head is what stands on top of the backbone, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, SIZE, TEXT_FAMILIES, save_image_model, save_text_model

from hf_sft.errors import ModelError
from hf_sft.modeling.anatomy import head_modules, head_parameters, is_convolutional, may_be_new, output_layers

HEADS = {
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


def load(family: str, folder: Path, num_labels: int = 5) -> Any:
    text = family in TEXT_FAMILIES
    (save_text_model if text else save_image_model)(family, folder, labels=[f"l{index}" for index in range(num_labels)])
    auto = transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForImageClassification
    return auto.from_pretrained(folder)


def from_config(config: Any, kind: str, num_labels: int = 5) -> Any:
    config.num_labels = num_labels
    with torch.device("meta"):
        return getattr(transformers, f"AutoModelFor{kind}").from_config(config)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES])
def test_the_head_of_every_family_is_found(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    assert list(head_modules(model)) == HEADS[family]
    names = [name for name, _ in model.named_parameters()]
    assert head_parameters(model) == [name for name in names if name.startswith(tuple(HEADS[family]))]
    outputs = output_layers(model, 5)
    assert all(layer.weight.shape[0] == 5 for layer in outputs.values())
    assert all(model.get_submodule(name) is layer for name, layer in outputs.items())
    assert len(outputs) == (2 if family == "timm_deit" else 1)


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_head_is_small_where_the_backbone_has_another_name(name: str) -> None:
    config, kind, expected = UNUSUAL[name]
    model = from_config(config, kind)
    assert list(head_modules(model)) == expected
    head = set(head_parameters(model))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(sizes[name] for name in head) < 0.5 * sum(sizes.values())


@pytest.mark.parametrize("num_labels", [5, 16])
def test_a_dense_layer_of_as_many_features_as_labels_is_no_output_layer(num_labels: int, tmp_path: Path) -> None:
    names = {"roberta": "classifier.out_proj", "distilbert": "classifier", "modernbert": "classifier"}
    for family, expected in names.items():
        assert list(output_layers(load(family, tmp_path / family, num_labels), num_labels)) == [expected]


def test_a_model_without_such_outputs_is_an_error(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    with pytest.raises(ModelError, match=r"(?s)a head with 6 outputs.*BertForSequenceClassification has none"):
        output_layers(model, 6)


def test_a_checkpoint_may_lack_the_head_and_the_pooler_alone(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    allowed = {name for name, _ in model.named_parameters() if may_be_new(name, model)}
    parts = ("classifier", "bert.pooler.dense")
    assert allowed == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


@pytest.mark.parametrize("family", ["resnet", "timm_resnet", "timm_efficientnet", "vit", "swin", "bert", "timm_vit"])
def test_convolutional_models_are_told_from_others(family: str, tmp_path: Path) -> None:
    expected = family in ("resnet", "timm_resnet", "timm_efficientnet")
    assert is_convolutional(load(family, tmp_path)) == expected
