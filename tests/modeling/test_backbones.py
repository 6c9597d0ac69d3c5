"""A classifier as the backbone of a model for masks or boxes: its weights arrive, the rest is named, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import CLASSES, SIZE, drawn, masked, save_image_model

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
    "resnet": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=WIDTHS, depths=FOUR, layer_type="basic"
    ),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=WIDTHS, depths=FOUR),
    "swin": lambda: transformers.SwinConfig(**SWIN, depths=FOUR),
    "swinv2": lambda: transformers.Swinv2Config(**SWIN, depths=FOUR),
    "convnextv2": lambda: transformers.ConvNextV2Config(hidden_sizes=WIDTHS, depths=FOUR),
    "focalnet": lambda: transformers.FocalNetConfig(
        image_size=SIDE, embed_dim=8, hidden_sizes=[8, 16, 32, 64], depths=FOUR, focal_levels=FOUR, focal_windows=[3] * 4
    ),
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
SLOW = ("swinv2", "convnextv2", "focalnet", "pvt_v2", "textnet")
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
        config = transformers.TimmWrapperConfig(architecture=name.removeprefix("timm/"), num_labels=3)
        config.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        model: Any = transformers.TimmWrapperForImageClassification(config)
    else:
        model = transformers.AutoModelForImageClassification.from_config(PYRAMIDS[name]())
        transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
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
