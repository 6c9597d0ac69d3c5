"""A classifier as the backbone of a model for masks or boxes: its weights arrive and the rest is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import CLASSES, drawn, masked, save_image_model

from hf_sft.commands.check import check
from hf_sft.data.labels import Labels
from hf_sft.errors import ModelError
from hf_sft.modeling import backbones
from hf_sft.modeling.backbone_weights import pair_names
from hf_sft.modeling.build import Built, build_model
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS

SIDE = 64
HEADS = {"image-segmentation": "backbone", "object-detection": "model.backbone.model"}  # task -> where the backbone is
PROBLEMS = {"image-segmentation": "pixels", "object-detection": "boxes"}
WIDTHS, FOUR = [8, 8, 16, 16], [1, 1, 1, 1]
SWIN = {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "num_heads": [1, 2, 2, 2], "window_size": 2}
PYRAMIDS: dict[str, Any] = {
    "resnet": lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=WIDTHS, depths=FOUR, layer_type="basic"),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=WIDTHS, depths=FOUR),
    "swin": lambda: transformers.SwinConfig(**SWIN, depths=FOUR),
    "swinv2": lambda: transformers.Swinv2Config(**SWIN, depths=FOUR),
    "convnextv2": lambda: transformers.ConvNextV2Config(hidden_sizes=WIDTHS, depths=FOUR),
    "pvt_v2": lambda: transformers.PvtV2Config(hidden_sizes=[8, 8, 16, 16], depths=FOUR, num_attention_heads=[1] * 4),
    "textnet": lambda: transformers.TextNetConfig(
        stem_out_channels=8,
        hidden_sizes=[8, 8, 8, 16, 16],
        conv_layer_kernel_sizes=[[[3, 3]]] * 4,
        conv_layer_strides=[[2]] * 4,
    ),
}
FAST = ("resnet", "convnext", "swin", "timm/test_resnet", "timm/test_convnext", "timm/test_efficientnet")
FAST += ("timm/test_nfnet", "timm/test_byobnet")
SLOW = ("swinv2", "convnextv2", "pvt_v2", "textnet")
SLOW += tuple(
    f"timm/{name}"
    for name in (
        "vgg11", "densenet121", "darknet53", "fastvit_t8", "mobilevit_xxs", "repvgg_a0", "cspresnet50", "hgnetv2_b0",
        "mobilenetv3_small_050", "regnetx_002", "edgenext_xx_small", "pvt_v2_b0", "poolformer_s12", "hrnet_w18_small",
        "resnetv2_50", "dla34", "rexnet_100", "efficientvit_b0", "twins_pcpvt_small", "skresnet18",
    )
)  # fmt: skip
ALL = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def save_classifier(name: str, folder: Path) -> Any:
    """The classifier of that name, every tensor of other values, in that folder with its image processor."""
    torch.manual_seed(0)
    if name.startswith("timm/"):
        head = {"mlp_ratio": 0.01} if name == "timm/vgg11" else None  # of 120M parameters
        config = transformers.TimmWrapperConfig(architecture=name.removeprefix("timm/"), num_labels=3, model_args=head)
        config.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        model: Any = transformers.TimmWrapperForImageClassification(config)
    else:
        model = transformers.AutoModelForImageClassification.from_config(PYRAMIDS[name]())
        transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand_like(value)).add_(0.001 * torch.rand_like(value))
    model.save_pretrained(folder)
    return model.eval()


def recipe_of(task: str, name: Path | str, **model: Any) -> Recipe:
    content = {"task": task, "model": {"name": str(name), **model}, "processor": {"size": SIDE}}
    return Recipe.from_dict({**content, "dataset": {"path": "memory"}, "output_dir": "never"})


def build(task: str, name: Path | str, **model: Any) -> Built:
    return build_model(recipe_of(task, name, **model), TASKS[task], Labels(problem=PROBLEMS[task], names=CLASSES))


@pytest.mark.parametrize("name", ALL)
def test_every_weight_of_a_backbone_is_the_classifiers_and_the_rest_is_named(name: str, tmp_path: Path) -> None:
    classifier = save_classifier(name, tmp_path)
    given = {value.numpy().tobytes(): key for key, value in classifier.state_dict().items() if value.numel() > 1}
    for task, place in HEADS.items():
        built = build(task, tmp_path)
        own = built.model.get_submodule(place).state_dict()
        lone = [key for key, value in own.items() if value.numel() > 1 and value.numpy().tobytes() not in given]
        assert all(key.startswith("hidden_states_norms.") for key in lone)
        assert all((key in built.report) == (key in sorted(lone)[:4]) for key in lone)
        learned = {f"{place}.{key}" for key, _ in built.model.get_submodule(place).named_parameters()}
        assert learned & built.new == {f"{place}.{key}" for key in lone}
        assert built.new >= {key for key, _ in built.model.named_parameters()} - learned
        if name.startswith("timm/"):
            assert_same_maps(built.model.get_submodule(place), classifier.timm_model)


def assert_same_maps(backbone: Any, classifier: Any) -> None:
    """The weights stand where they stood: the maps are those that the classifier has on its way."""
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = backbone.eval()(pixels).feature_maps
        seen = classifier.forward_intermediates(pixels, indices=backbone.out_indices, intermediates_only=True)
    for one, other in zip(found, seen, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["swin", "timm/test_convnext", "timm/test_vit"])
def test_a_model_on_a_backbone_is_read_back_as_it_was_saved(name: str, tmp_path: Path) -> None:
    """A flat transformer gives four maps of one size: enough for masks."""
    save_classifier(name, tmp_path / "base")
    built = build("image-segmentation", tmp_path / "base")
    assert "as the backbone of a UperNetForSemanticSegmentation" in built.report
    built.model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        logits, other = (model.eval()(pixels).logits for model in (built.model, again))
    torch.testing.assert_close(logits, other)


def check_quickly(task: str, name: Path | str, **changes: Any) -> str:
    """What `check --fast` finds wrong, in words; empty where nothing is."""
    recipe = recipe_of(task, name, **changes)
    rows = {"image-segmentation": masked, "object-detection": drawn}[task]
    return "\n".join(map(str, check(recipe, data={"train": rows(4), "validation": rows(2)}, fast=True).errors))


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("family", ["vit", "deit"])
def test_a_classifier_without_feature_maps_is_refused_with_those_that_have_them(
    task: str, family: str, tmp_path: Path
) -> None:
    said = check_quickly(task, save_image_model(family, tmp_path))
    assert "an image classifier of which transformers gives feature maps" in said and f"{family} ({tmp_path})" in said
    assert "name another classifier: ResNet, ConvNeXt, Swin" in said and "the task the right one" not in said


@pytest.mark.parametrize("family", ["swin", "timm_vit"])
def test_a_fast_check_refuses_a_backbone_that_a_detector_cannot_read(family: str, tmp_path: Path) -> None:
    said = check_quickly("object-detection", save_image_model(family, tmp_path))
    assert "3 feature maps, each half as high and wide as the one before" in said
    assert {"swin": "maps of 8 x 16 x 16, 16 x 8 x 8 (", "timm_vit": "maps of 64 x 4 x 4, 64 x 4 x 4, "}[family] in said


def test_a_fast_check_refuses_a_timm_backbone_of_another_size_than_the_classifier(tmp_path: Path) -> None:
    said = check_quickly("image-segmentation", save_image_model("timm_vit", tmp_path))
    assert "pos_embed" in said and "a timm backbone takes no model_args: img_size" in said


@pytest.mark.parametrize("task", HEADS)
def test_a_fast_check_takes_a_backbone_that_fits(task: str, tmp_path: Path) -> None:
    save_classifier("swin", tmp_path)
    assert not check_quickly(task, tmp_path)


def make(head: str, architecture: str, side: int) -> Any:
    config = transformers.TimmWrapperConfig(architecture=architecture)
    config.pretrained_cfg = {"input_size": (3, 160, 160)}
    return backbones.make_config(head, config, "there", {"height": side, "width": side})


@pytest.mark.parametrize(
    ("head", "architecture", "side", "said"),
    [
        ("upernet", "test_mambaout", 160, "channels last"),
        ("rt_detr", "test_mambaout", 160, "channels last"),
        ("rt_detr", "test_vit", 160, "maps of 64 x 10 x 10, 64 x 10 x 10, 64 x 10 x 10"),
        ("rt_detr", "test_resnet", 100, "maps of 48 x 13 x 13.*or set processor.size: 160"),
        ("rt_detr", "test_coatnet", 512, "or set processor.size: 160"),
        ("upernet", "coat_tiny", 160, "duplicates"),
        ("rt_detr", "no_such_net", 160, "no_such_net"),
    ],
)
def test_maps_that_cannot_be_read_are_found_from_the_configuration(
    head: str, architecture: str, side: int, said: str
) -> None:
    with pytest.raises(ModelError, match=f"(?s){said}"):
        make(head, architecture, side)


def tensors(**sides: int) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(side) for name, side in sides.items()}


def test_a_weight_that_could_be_two_or_is_of_another_shape_is_missing() -> None:
    given = tensors(timm_model__a__b=2, timm_model__a_c=3, timm_model__head=4)
    own = tensors(_backbone__a_b=2, _backbone__a_c=5, _backbone__d=1, hidden_states_norms__x=1)
    pairs, missing = pair_names(own, given, "base.")
    assert pairs == {"_backbone.a_b": "timm_model.a.b"}
    assert missing == ["_backbone.a_c", "_backbone.d"]
    assert pair_names(own, given | tensors(timm_model__a_b=2), "base.")[0] == {}


@pytest.mark.parametrize("whole", ["_backbone__model__", "_backbone__body__", "_backbone__", "base__", ""])
def test_names_are_the_same_whatever_stands_before_them(whole: str) -> None:
    for before in ("timm_model__", "base__", ""):
        given = tensors(**{f"{before}stages__0__weight": 2, f"{before}model__bias": 3})
        own = tensors(**{f"{whole}stages_0__weight": 2, f"{whole}model__bias": 3})
        pairs, missing = pair_names(own, given, "base.")
        assert dict(zip(own, given, strict=True)) == pairs and not missing


def test_a_checkpoint_without_a_weight_of_the_backbone_is_refused(tmp_path: Path) -> None:
    save_classifier("swin", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if not name.endswith("embeddings.norm.bias")}, file)
    with pytest.raises(ModelError, match=r"embeddings\.norm\.bias"):
        build("image-segmentation", tmp_path)


def test_a_classifier_whose_weights_cannot_be_read_is_refused_in_our_words(tmp_path: Path) -> None:
    save_classifier("resnet", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="an image classifier with safetensors weights"):
        build("object-detection", tmp_path)
