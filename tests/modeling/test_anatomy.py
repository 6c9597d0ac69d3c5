"""The head is what stands on top of the backbone, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import HEADS, UNUSUAL, from_config, load
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, TEXT_FAMILIES

from hf_sft.errors import ModelError
from hf_sft.modeling.anatomy import head_modules, head_parameters, is_convolutional, may_be_new, output_layers


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
