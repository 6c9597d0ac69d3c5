"""What is loaded, what is new, and that nothing else is."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL.Image import fromarray
from safetensors.torch import load_file, save_file
from tiny import (
    IMAGE_FAMILIES,
    SIZE,
    TEXT_FAMILIES,
    images,
    save_image_model,
    save_text_model,
    save_tokenizer,
    texts,
)

from hf_sft import Recipe, fine_tune
from hf_sft.data.labels import Labels
from hf_sft.errors import ModelError, RecipeError
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.build import Built, build_model
from hf_sft.tasks import TASKS

FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES, "deit", "timm_vit")
SEVEN = tuple("abcdefg")
TIMM = "timm/test_resnet"


def save_model(family: str, folder: Path, **options: Any) -> Path:
    return (save_text_model if family in TEXT_FAMILIES else save_image_model)(family, folder, **options)


def build(
    family: str,
    name: Path | str,
    labels: Sequence[str] = ("down", "up"),
    *,
    processor: dict[str, Any] | None = None,
    seed: int = 0,
    **model: Any,
) -> Built:
    task = "text-classification" if family in TEXT_FAMILIES else "image-classification"
    content = {"task": task, "model": {"name": str(name), **model}, "dataset": {"path": "memory"}}
    recipe = Recipe.from_dict(content | {"processor": processor or {}})
    transformers.set_seed(seed)
    return build_model(recipe, TASKS[task], Labels(problem="single_label", names=tuple(labels)))


def change_weights(folder: Path, change: Any) -> None:
    """Rewrite a checkpoint: `change` gets its tensors in a dict."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def head_of(built: Built) -> tuple[str, torch.nn.Module]:
    return next(iter(output_layers(built.model, len(built.labels.names)).items()))


# the head


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_with_other_outputs_is_replaced_and_everything_else_is_loaded(family: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m", labels=SEVEN)
    built = build(family, folder)
    name, layer = head_of(built)
    state, loaded = built.model.state_dict(), load_file(folder / "model.safetensors")
    assert built.report == f"{name} 7 -> 2 re-initialised, {len(state) - len(built.new)} tensors loaded"
    assert built.new == {f"{name}.{part}" for part, _ in layer.named_parameters()}
    kept = {name: value for name, value in state.items() if name not in built.new}
    assert sum(value.double().abs().sum().item() for value in kept.values()) == pytest.approx(
        sum(value.double().abs().sum().item() for value in loaded.values() if value.shape[:1] != (7,)), rel=1e-12
    )


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, "vit", "swin"])
def test_a_backbone_alone_gets_a_new_head(family: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m")
    if family in ("vit", "swin"):
        transformers.AutoModelForImageClassification.from_pretrained(folder).base_model.save_pretrained(folder)
    built = build(family, folder)
    name, layer = head_of(built)
    assert built.report.startswith(f"{name}: new, 2 outputs, ")
    assert {f"{name}.{part}" for part, _ in layer.named_parameters()} <= built.new
    others = built.new - {f"{name}.{part}" for part, _ in layer.named_parameters()}
    assert all(other in built.report for other in others)


@pytest.mark.parametrize("head", ["auto", "keep"])
@pytest.mark.parametrize("family", [*TEXT_FAMILIES, "vit", "timm_resnet"])
def test_a_classifier_with_the_same_label_names_is_kept_with_its_ids(family: str, head: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m", labels=("up", "side", "down"))
    built = build(family, folder, ("down", "side", "up"), head=head)
    name, layer = head_of(built)
    assert built.labels.names == ("up", "side", "down")
    assert built.model.config.id2label == {0: "up", 1: "side", 2: "down"}
    assert built.model.config.label2id == {"up": 0, "side": 1, "down": 2}
    assert built.report.startswith(f"{name}: kept, 3 outputs, ")
    assert not built.new
    saved = load_file(folder / "model.safetensors")
    assert any(torch.equal(value, layer.weight) for value in saved.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("labels", "head"), [(("positive", "negative"), "auto"), (("up", "down"), "new")])
def test_as_many_labels_are_no_reason_to_keep_a_classifier(
    family: str, labels: Sequence[str], head: str, tmp_path: Path
) -> None:
    folder = save_model(family, tmp_path / "m", labels=("up", "down"))
    built = build(family, folder, labels, head=head)
    name, layer = head_of(built)
    before = {name: value for name, value in load_file(folder / "model.safetensors").items() if value.ndim == 2}
    assert not any(torch.equal(value, layer.weight) for value in before.values())
    assert f"{name}.weight" in built.new
    assert built.report.startswith(f"{name} 2 -> 2 re-initialised, ")
    assert 0.001 < layer.weight.std() < 0.5
    assert built.labels.names == tuple(labels)


def test_every_output_layer_of_a_distilled_model_is_replaced(tmp_path: Path) -> None:
    folder = save_image_model("deit", tmp_path / "m", labels=("up", "down"))
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(folder)
    before = load_file(folder / "model.safetensors")
    built = build("deit", folder, ("day", "night"))
    assert built.report.startswith("cls_classifier and distillation_classifier 2 -> 2 re-initialised, ")
    for name in ("cls_classifier.weight", "distillation_classifier.weight"):
        assert not torch.equal(before[name], built.model.state_dict()[name])


def test_placeholder_names_are_no_labels(tmp_path: Path) -> None:
    folder = save_image_model("vit", tmp_path / "m", num_labels=2)
    built = build("vit", folder, ("LABEL_0", "LABEL_1"))
    assert built.report.startswith("classifier 2 -> 2 re-initialised")


@pytest.mark.parametrize("labels", [("up", "down", "side"), ("cat", "dog"), ()])
def test_a_head_that_cannot_be_kept_is_an_error(labels: Sequence[str], tmp_path: Path) -> None:
    folder = save_model("bert", tmp_path / "m", labels=labels)
    with pytest.raises(ModelError, match=r"model\.head") as caught:
        build("bert", folder, head="keep")
    assert str(folder) in str(caught.value)
    assert "down, up" in str(caught.value)


# weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "gpt2", "vit", "timm_resnet"])
def test_weights_are_float32_whatever_the_checkpoint_holds(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m", labels=("up", "down"))
    model = (
        transformers.AutoModelForSequenceClassification
        if family in TEXT_FAMILIES
        else transformers.AutoModelForImageClassification
    ).from_pretrained(folder)
    model.to(dtype).save_pretrained(folder)
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} >= {dtype}
    for changes in ({}, {"weights": "random"}):
        state = build(family, folder, **changes).model.state_dict()
        assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("family", ["bert", "roberta", "vit"])
def test_a_missing_pooler_is_new_and_no_error(family: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m")
    change_weights(folder, lambda state: [state.pop(name) for name in list(state) if "pooler" in name])
    built = build(family, folder)
    pooled = {name for name, _ in built.model.named_parameters() if "pooler" in name}
    assert pooled <= built.new
    assert all(name in built.report for name in pooled)


def drop_one(state: dict[str, torch.Tensor]) -> None:
    state.pop(next(name for name in state if "weight" in name and "layer" in name))


def cut_one(state: dict[str, torch.Tensor]) -> None:
    name = next(name for name in state if "weight" in name and "layer" in name and state[name].ndim > 1)
    state[name] = state[name][1:].clone()


@pytest.mark.parametrize("change", [drop_one, cut_one])
@pytest.mark.parametrize("family", ["bert", "modernbert", "vit", "swin", "timm_resnet"])
def test_any_other_missing_or_mismatched_weight_is_an_error(family: str, change: Any, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m")
    change_weights(folder, change)
    with pytest.raises(ModelError, match=r"1 missing or of another shape: .*weight") as caught:
        build(family, folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_are_not_the_pretrained_ones_and_come_again_with_the_seed(family: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m", labels=SEVEN)
    pretrained = build(family, folder).model.state_dict()
    one, again, other = (build(family, folder, weights="random", seed=seed) for seed in (1, 1, 2))
    assert one.report == "random weights: nothing is loaded"
    assert one.new == {name for name, _ in one.model.named_parameters()}
    states = [built.model.state_dict() for built in (one, again, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for state in (pretrained, states[2]):
        matrices = [name for name, value in state.items() if value.ndim > 1 and value.is_floating_point()]
        same = [name for name in matrices if state[name].any() and torch.equal(state[name], states[0][name])]
        assert len(matrices) > 5
        assert not same


@pytest.mark.parametrize("weights", [None, "random"])
def test_a_config_that_names_no_architecture_will_do(weights: str | None, tmp_path: Path) -> None:
    folder = save_model("deit", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config.pop("architectures")
    (folder / "config.json").write_text(json.dumps(config))
    built = build("deit", folder, weights=weights)
    assert type(built.model).__name__ == "DeiTForImageClassification"


@pytest.mark.parametrize("family", ["bert", "resnet", "timm_resnet"])
def test_a_checkpoint_that_is_only_a_pickle_is_refused(family: str, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors") as caught:
        build(family, folder)
    assert str(folder) in str(caught.value)


# settings of the model


def test_model_config_overrides_reach_the_model_and_its_config(tmp_path: Path) -> None:
    folder = save_model("bert", tmp_path / "m")
    built = build("bert", folder, config={"hidden_dropout_prob": 0.25, "num_hidden_layers": 1})
    assert built.model.config.hidden_dropout_prob == 0.25
    assert built.model.bert.embeddings.dropout.p == 0.25
    assert len(built.model.bert.encoder.layer) == 1


def test_unknown_settings_of_a_model_are_errors_with_the_nearest(tmp_path: Path) -> None:
    folder = save_model("bert", tmp_path / "m")
    with pytest.raises(ModelError) as caught:
        build("bert", folder, config={"hidden_dropout": 0.0, "hiden_act": "relu", "hidden_size": 16})
    one, other = caught.value.findings
    assert (one.place, other.place) == ("model.config.hidden_dropout", "model.config.hiden_act")
    assert "hidden_dropout_prob" in one.fix
    assert "hidden_act" in other.fix


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ({"id2label": {0: "a"}}, "label_map"),
        ({"label2id": {"a": 0}}, "label_map"),
        ({"problem_type": "regression"}, r"dataset\.problem"),
        ({"hf_sft_thresholds": [0.5]}, "validation"),
    ],
)
def test_what_the_data_decide_is_no_setting(setting: dict[str, Any], fix: str, tmp_path: Path) -> None:
    folder = save_model("bert", tmp_path / "m")
    with pytest.raises(ModelError, match=rf"(?s)do not decide.*{fix}"):
        build("bert", folder, config=setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_size": "big"},
        {"hidden_act": "nonsense"},
        {"hidden_size": 32},
        {"num_attention_heads": 3},
    ],
)
def test_settings_that_cannot_be_are_errors(setting: dict[str, Any], tmp_path: Path) -> None:
    folder = save_model("bert", tmp_path / "m")
    with pytest.raises(ModelError):
        build("bert", folder, config=setting)


# what is at model.name


def test_what_is_no_model_for_the_task_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    bert, vit = save_model("bert", tmp_path / "bert"), save_model("vit", tmp_path / "vit")
    bare, empty, broken = save_model("bert", tmp_path / "bare"), tmp_path / "empty", save_model("vit", tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    blind = save_model("vit", tmp_path / "blind")
    (blind / "preprocessor_config.json").unlink()
    empty.mkdir()
    (broken / "model.safetensors").write_bytes(b"no tensors")
    cases = {
        "an architecture that can do text-classification": ("bert", vit),
        "an architecture that can do image-classification": ("vit", bert),
        "a tokenizer with a vocabulary": ("bert", bare),
        "a tokenizer or image processor": ("vit", blind),
        r"a folder with config\.json": ("vit", empty),
        "safetensors weights": ("vit", broken),
    }
    for expected, (family, folder) in cases.items():
        with pytest.raises(ModelError, match=rf"(?s)model\.name.*{expected}") as caught:
            build(family, folder)
        assert str(folder) in str(caught.value)


def test_a_tokenizer_that_cannot_pad_is_an_error(tmp_path: Path) -> None:
    folder = save_model("bert", tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="can pad") as caught:
        build("bert", folder)
    assert str(folder) in str(caught.value)


def test_the_end_of_sequence_token_pads_where_there_is_no_other(tmp_path: Path) -> None:
    built = build("gpt2", save_model("gpt2", tmp_path / "m"))
    assert built.processor.pad_token == built.processor.eos_token == "[SEP]"
    assert built.model.config.pad_token_id == built.processor.pad_token_id == 3


@pytest.mark.parametrize(("family", "limit"), [("bert", 64), ("roberta", 63), ("distilbert", 64), ("gpt2", 64)])
def test_texts_are_at_most_as_long_as_the_model_has_positions(family: str, limit: int, tmp_path: Path) -> None:
    folder = save_model(family, tmp_path / "m")
    built = build(family, folder)
    assert built.processor.model_max_length == limit
    with pytest.raises(RecipeError, match=f"at most {limit}"):
        build(family, folder, processor={"max_length": limit + 1})
    tokens = built.processor(" ".join(["good"] * 100), truncation=True, return_tensors="pt")
    assert tokens["input_ids"].shape == (1, limit)
    assert built.model(**tokens).logits.isfinite().all()


def test_token_types_that_a_model_does_not_know_do_no_harm(tmp_path: Path) -> None:
    folder = save_model("distilbert", tmp_path / "m")
    save_tokenizer(folder, token_types=True)
    recipe = {
        "task": "text-classification",
        "model": {"name": str(folder)},
        "dataset": {"path": "memory"},
        "training": {"max_steps": 1},
        "output_dir": str(tmp_path / "run"),
    }
    assert fine_tune(recipe, data={"train": texts(8), "validation": texts(8)}).metrics["validation"]


# timm


def test_a_folder_in_timm_s_own_form_is_read(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(model, str(tmp_path / "m"), model_args={"num_classes": 7}, safe_serialization=True)
    assert "num_classes" in json.loads((tmp_path / "m" / "config.json").read_text())["model_args"]
    built = build("timm_resnet", tmp_path / "m")
    assert built.report.startswith("timm_model.fc 7 -> 2 re-initialised, ")
    state = built.model.timm_model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items() if "fc" not in name)
    built.model.save_pretrained(tmp_path / "again")
    reloaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "again")
    assert reloaded.config.id2label == {0: "down", 1: "up"}


@pytest.fixture
def timm_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=1000).state_dict()


def test_a_bare_checkpoint_of_a_timm_model_is_loaded_below_a_new_head(
    timm_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": {name: value.half() for name, value in timm_state.items()}}, tmp_path / "w.pth")
    built = build("timm_resnet", TIMM, weights=str(tmp_path / "w.pth"))
    assert built.report.startswith("timm_model.fc 1000 -> 2 re-initialised, ")
    assert "renamed" not in built.report
    assert built.new == {"timm_model.fc.weight", "timm_model.fc.bias"}
    state = built.model.timm_model.state_dict()
    for name, value in timm_state.items():
        assert name.startswith("fc.") or torch.equal(value.half().to(value.dtype), state[name])
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("counters", [True, False])
def test_keys_of_other_names_are_taken_by_their_order_and_reported(
    counters: bool, timm_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights = {name: value for name, value in timm_state.items() if counters or "num_batches" not in name}
    named = {f"part_{index}.{name.rpartition('.')[2]}": value for index, (name, value) in enumerate(weights.items())}
    torch.save(named, tmp_path / "w.pth")
    built = build("timm_resnet", TIMM, weights=str(tmp_path / "w.pth"))
    number = sum("num_batches" not in name for name in weights)
    assert f"{number} of {number} keys renamed by order, shapes equal (first: part_0.weight -> conv1.0.weight)" in (
        built.report
    )
    state = built.model.timm_model.state_dict()
    for name, value in timm_state.items():
        assert name.startswith("fc.") or "num_batches" in name or torch.equal(value, state[name])


class RunsCode:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_does_not_fit_is_refused(timm_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    wide = dict(timm_state) | {"conv1.0.weight": torch.zeros(9, 3, 3, 3)}
    other = {f"part_{index}": value for index, value in enumerate(wide.values())}
    lacking = {name: value for name, value in timm_state.items() if name != "conv1.0.weight"}
    more = timm_state | {"aux.weight": torch.zeros(1)}
    for state in (wide, other, lacking, more, {}):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(ModelError, match=r"model\.weights") as caught:
            build("timm_resnet", TIMM, weights=str(tmp_path / "w.pth"))
        assert "w.pth" in str(caught.value)


def test_a_checkpoint_with_code_is_refused_and_not_run(timm_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(timm_state | {"code": RunsCode(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="weights alone"):
        build("timm_resnet", TIMM, weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


def test_an_unknown_timm_architecture_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'test_resnet'"):
        build("timm_resnet", "timm/test_resnett", weights="random")


# image processors


def save_processor(family: str, folder: Path) -> Path:
    """A model whose processor is of the kind its family has on the Hub."""
    save_model(family, folder)
    if family in ("resnet", "convnext"):
        transformers.ConvNextImageProcessor(size={"shortest_edge": SIZE}, crop_pct=0.875).save_pretrained(folder)
    if family == "swin":
        transformers.CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["resnet", "convnext", "swin", "vit", "timm_resnet"])
def test_what_a_recipe_says_of_images_is_saved_with_the_model(family: str, tmp_path: Path) -> None:
    folder = save_processor(family, tmp_path / "m")
    size = SIZE if family == "vit" else 48
    asked = {"size": size, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    recipe = {
        "task": "image-classification",
        "model": {"name": str(folder)},
        "dataset": {"path": "memory"},
        "processor": asked,
        "training": {"max_steps": 1},
        "output_dir": str(tmp_path / "run"),
    }
    saved = fine_tune(recipe, data={"train": images(8), "validation": images(8)}).directory.model
    processor = transformers.AutoImageProcessor.from_pretrained(saved)
    grey = fromarray(np.full((70, 90, 3), 51, dtype=np.uint8))
    pixels = processor(grey, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, size, size)
    expected = (0.2 - np.array(asked["image_mean"])) / np.array(asked["image_std"])
    np.testing.assert_allclose(pixels[0, :, 5, 5], expected, atol=1e-5)
    if family == "timm_resnet":
        config = transformers.AutoConfig.from_pretrained(saved).pretrained_cfg
        assert (config["input_size"], config["mean"], config["std"]) == ([3, size, size], *list(asked.values())[1:])


@pytest.mark.parametrize("family", ["resnet", "timm_resnet"])
@pytest.mark.parametrize("more", [{}, {"image_mean": [0.1, 0.2, 0.3]}])
def test_pixels_are_not_normalised_where_the_recipe_says_so(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    built = build(family, save_processor(family, tmp_path / "m"), processor={"do_normalize": False, **more})
    white = fromarray(np.full((40, 40, 3), 255, dtype=np.uint8))
    assert torch.equal(built.processor(white, return_tensors="pt")["pixel_values"], torch.ones(1, 3, SIZE, SIZE))


@pytest.mark.parametrize("family", ["resnet", "swin", "vit", "timm_resnet"])
def test_a_recipe_that_says_nothing_of_images_leaves_the_processor_as_it_is(family: str, tmp_path: Path) -> None:
    folder = save_processor(family, tmp_path / "m")
    noise = fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    own = transformers.AutoImageProcessor.from_pretrained(folder)
    ours = build(family, folder).processor
    one, other = (processor(noise, return_tensors="pt")["pixel_values"] for processor in (own, ours))
    assert torch.equal(one, other)
    assert one.shape == (1, 3, SIZE, SIZE)
