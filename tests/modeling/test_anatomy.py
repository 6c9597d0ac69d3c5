"""Every model is embeddings, layers, what follows them, and the head on top, in this order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from families import ALL, HEADS, UNUSUAL, build_any, example, from_config, load
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, TEXT_FAMILIES
from torch import nn

from hf_sft.errors import ModelError
from hf_sft.modeling.anatomy import (
    find_blocks,
    head_modules,
    head_parameters,
    is_convolutional,
    may_be_new,
    output_layers,
)

LAYERS = {  # family -> number of layers
    **dict.fromkeys(("bert", "distilbert", "roberta", "modernbert", "gpt2", "vit", "deit", "resnet", "swin"), 2),
    **dict.fromkeys(("beit", "dinov2", "clip", "siglip", "electra", "albert"), 1),
    **dict.fromkeys(("timm_deit", "swinv2", "regnet", "bart", "xlm"), 2),
    **dict.fromkeys(("convnext", "convnextv2", "timm_resnet"), 4),
    **dict.fromkeys(("deberta-v2", "xlm-roberta", "segformer"), 3),
    **{"timm_efficientnet": 5, "timm_vit": 6, "timm_vgg": 7, "levit": 10, "hgnet_v2": 6},
    **{"mobilenet_v2": 16, "efficientnet": 7, "resnet_deep": 5},
}


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


# blocks


@pytest.mark.parametrize("family", ALL)
def test_every_parameter_belongs_to_one_block(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path)
    blocks = find_blocks(model)
    names = [name for block in blocks for name in block.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    layers = [f"block.{number}" for number in range(LAYERS[family])]
    last = ["final"] * (blocks[-2].name == "final")
    assert [block.name for block in blocks] == ["embeddings", *layers, *last, "head"]
    assert blocks[-1].parameters == tuple(head_parameters(model))
    assert all(block.parameters for block in blocks)


@pytest.mark.parametrize("family", ALL)
def test_blocks_come_in_the_order_in_which_a_forward_pass_reaches_them(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path).eval()
    number = {name: place for place, block in enumerate(find_blocks(model)) for name in block.parameters}
    reached: dict[str, int] = {}  # module with parameters of its own -> its block, in the order of the first calls

    def note(path: str, block: int, module: nn.Module, inputs: Any) -> None:
        reached.setdefault(path, block)

    for path, module in model.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own and own[0] in number:
            assert len({number[name] for name in own if name in number}) == 1
            module.register_forward_pre_hook(partial(note, path, number[own[0]]))
    with torch.no_grad():
        model(**example(family))
    inside = [block for path, block in reached.items() if path != "timm_model"]  # the model itself holds tokens
    assert inside == sorted(inside)
    assert set(inside) >= {place for place in number.values() if place}


def test_a_block_is_a_layer_with_what_leads_to_it(tmp_path: Path) -> None:
    wanted = {  # a parameter of each kind -> its block
        "bert": {"bert.pooler.dense.weight": "final", "bert.encoder.layer.1.output.dense.bias": "block.1"},
        "gpt2": {"transformer.wpe.weight": "embeddings", "transformer.ln_f.weight": "final"},
        "swin": {"swin.encoder.layers.0.downsample.reduction.weight": "block.1", "swin.layernorm.bias": "final"},
        "resnet": {"resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": "block.1"},
        "convnext": {"convnext.encoder.stages.1.downsampling_layer.1.weight": "block.1"},
        "vit": {"vit.embeddings.cls_token": "embeddings", "vit.layernorm.weight": "final"},
        "deberta-v2": {
            "deberta.encoder.rel_embeddings.weight": "embeddings",
            "deberta.encoder.LayerNorm.weight": "embeddings",
        },
        "albert": {"albert.encoder.embedding_hidden_mapping_in.weight": "embeddings", "albert.pooler.weight": "final"},
        "segformer": {"segformer.stages.0.layer_norm.weight": "block.1", "segformer.stages.1.layer_norm.bias": "final"},
        "xlm": {"transformer.layer_norm2.0.weight": "block.0", "transformer.attentions.1.q_lin.weight": "block.1"},
        "mobilenet_v2": {"mobilenet_v2.conv_1x1.convolution.weight": "final"},
        "timm_efficientnet": {"timm_model.conv_head.weight": "final", "timm_model.conv_stem.weight": "embeddings"},
        "timm_vit": {"timm_model.norm.weight": "final", "timm_model.pos_embed": "embeddings"},
        "timm_vgg": {"timm_model.pre_logits.fc1.weight": "final", "timm_model.features.3.weight": "block.0"},
    }
    for family, expected in wanted.items():
        blocks = find_blocks(build_any(family, tmp_path / family))
        assert {name: block.name for block in blocks for name in block.parameters if name in expected} == expected


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        *{"resnet18": 8, "resnet50": 16, "vgg11_bn": 7, "convnext_atto": 12, "efficientnet_lite0": 16}.items(),
        *{"mobilenetv3_small_050": 12, "vit_tiny_patch16_224": 12, "swin_tiny_patch4_window7_224": 12}.items(),
        *{"densenet121": 58, "beit_base_patch16_224": 12, "test_byobnet": 4, "levit_128s": 9}.items(),
    ],
)
def test_timm_models_have_as_many_layers_as_timm_says(architecture: str, layers: int) -> None:
    model: Any = nn.Module()
    with torch.device("meta"):
        model.timm_model = timm.create_model(architecture)
    model.config = SimpleNamespace(model_type="timm_wrapper")
    blocks = find_blocks(model)
    assert [block.name for block in blocks if block.is_layer] == [f"block.{number}" for number in range(layers)]
    assert sorted(name for block in blocks for name in block.parameters) == sorted(dict(model.named_parameters()))
    vectors = [block for block in blocks if block.is_layer and not any(_is_kernel(model, n) for n in block.parameters)]
    assert not vectors


def _is_kernel(model: nn.Module, name: str) -> bool:
    return model.get_parameter(name).ndim > 1


class Backbone(nn.Module):
    """Layers that `make` makes, three of them, between a table and a norm."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 4)
        self.layers = nn.ModuleList(make() for _ in range(3))
        self.norm = nn.LayerNorm(4)


class Whole(nn.Module):
    base_model_prefix = "body"

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="")
        self.body = body
        self.out = nn.Linear(4, 2)


class Experts(nn.Module):
    """A layer that is mostly a list of like parts."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3))


def test_a_layer_that_holds_a_list_of_experts_is_one_block() -> None:
    names = [block.name for block in find_blocks(Whole(Backbone(Experts)))]
    assert names == ["embeddings", "block.0", "block.1", "block.2", "final", "head"]


def test_a_backbone_without_like_layers_is_one_block() -> None:
    model = Whole(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)))
    blocks = {block.name: block.parameters for block in find_blocks(model)}
    assert list(blocks) == ["block.0", "head"]
    assert blocks["block.0"] == tuple(name for name, _ in model.named_parameters() if name.startswith("body."))
