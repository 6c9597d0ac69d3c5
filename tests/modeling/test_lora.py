"""Adapters: where they stand, that they change nothing at first, and that merging gives the same model without them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import ALL, HEADS, build_any, example, load, settings_for
from tiny import save_detector
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_sft.errors import ModelError, RecipeError
from hf_sft.modeling.adapter_files import holds_adapters, load_adapted, save_adapters
from hf_sft.modeling.anatomy import find_blocks, head_parameters
from hf_sft.modeling.lora import adapter_parameters, every_adapter_used, merge_adapters
from hf_sft.modeling.parameter_groups import describe, freeze, parameter_groups
from hf_sft.modeling.tuning import adapt, decide
from hf_sft.recipe import Recipe

pytest.importorskip("peft")

NONE: frozenset[str] = frozenset()
INSIDE = re.compile(r"\.base_layer|\.lora_\w+\.default")
LEAST = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}


def lora(model: Any, new: frozenset[str] = NONE, *, layers: int | None = None, **settings: Any) -> str:
    """Put adapters in, as a recipe asks for them -> what is said of them."""
    return adapt(model, new, settings_for("lora", layers=layers, lora=settings))


def adapted(model: nn.Module) -> list[str]:
    """Names of the layers that carry adapters."""
    return sorted({INSIDE.sub("", name).rpartition(".")[0] for name in adapter_parameters(model)})


def disturb(model: nn.Module) -> None:
    """Adapters as if they had learned something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in sorted(adapter_parameters(model)):
            parameter = model.get_parameter(name)
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        return model(**inputs).logits


EXPECTED = {  # family -> the layers that auto means, their numbers left out
    "bert": "attention.self.query attention.self.key attention.self.value attention.output.dense intermediate.dense "
    "output.dense",
    "distilbert": "attention.q_lin attention.k_lin attention.v_lin attention.out_lin ffn.lin1 ffn.lin2",
    "modernbert": "attn.Wqkv attn.Wo mlp.Wi mlp.Wo",
    "gpt2": "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
    "vit": "attention.q_proj attention.k_proj attention.v_proj attention.o_proj mlp.fc1 mlp.fc2",
    "convnext": "pwconv1 pwconv2 downsampling_layer.1",
    "timm_vit": "attn.qkv attn.proj mlp.fc1 mlp.fc2",
}


@pytest.mark.parametrize("family", EXPECTED)
def test_auto_means_every_linear_layer_of_every_block(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    said = lora(model)
    names = adapted(model)
    kinds = {name for name in EXPECTED[family].split() if any(f".{one}".endswith(f".{name}") for one in names)}
    assert kinds == set(EXPECTED[family].split())
    assert all(any(name.endswith(f".{kind}") for kind in kinds) for name in names)
    assert said.startswith(f"adapters of rank 8 on {len(names)} layers: ")


@pytest.mark.parametrize("family", ALL)
def test_adapters_stand_on_all_plain_layers_of_the_blocks_and_nowhere_else(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path)
    blocks = find_blocks(model)
    expected = set()
    for block in blocks:
        for name in {parameter.rpartition(".")[0] for parameter in block.parameters} if block.is_layer else ():
            layer = model.get_submodule(name)
            plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.dilation == (1, 1)
            expected |= {name} if plain or isinstance(layer, (nn.Linear, Conv1D)) else set()
    lora(model)
    assert set(adapted(model)) == expected != set()
    assert not any(INSIDE.search(name) for name in head_parameters(model))


@pytest.mark.parametrize("family", ALL)
def test_blocks_are_found_alike_with_adapters_and_without(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path)
    before = {block.name: set(block.parameters) for block in find_blocks(model)}
    lora(model)
    after = {block.name: {INSIDE.sub("", name) for name in block.parameters} for block in find_blocks(model)}
    assert after == before


@pytest.mark.parametrize("family", ALL)
def test_outputs_are_those_of_the_base_at_first_and_those_of_the_adapters_after_merging(
    family: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = build_any(family, tmp_path), example(family)
    base, names = outputs(model, inputs), list(model.state_dict())
    lora(model)
    with every_adapter_used(model):
        assert torch.equal(outputs(model, inputs), base)
    disturb(model.double())  # the random weights of some families let rounding grow
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    different = outputs(model, inputs)
    assert not torch.equal(different.float(), base) or family == "efficientnet", (
        "whose random weights let nothing through"
    )
    merge_adapters(model)
    torch.testing.assert_close(outputs(model, inputs), different, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
    assert not hasattr(model, "peft_config")
    assert not any(type(module).__module__.startswith("peft") for module in model.modules())


@pytest.mark.parametrize("family", HEADS)
def test_adapters_the_head_and_what_starts_untrained_train_and_nothing_else(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    new = frozenset(name for name, _ in model.named_parameters() if "pooler" in name)
    lora(model, new)
    settings = settings_for("lora", head_lr_scale=3.0)
    rules = decide(model, new, settings)
    freeze(model, rules)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == adapter_parameters(model) | set(head_parameters(model)) | new
    assert {rules[name].lr_scale for name in head_parameters(model)} == {3.0}
    assert "adapters" in describe(model)[2] and "lora" not in describe(model)[2]
    groups = parameter_groups(model, rules, learning_rate=0.5, weight_decay=0.1)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {decay[id(model.get_parameter(name))] for name in adapter_parameters(model)} == {0.1}


def test_a_layer_that_starts_untrained_carries_no_adapter(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    new = frozenset(name for name, _ in model.named_parameters() if "layer.1.output.dense" in name)
    lora(model, new)
    assert "bert.encoder.layer.0.output.dense" in adapted(model)
    assert "bert.encoder.layer.1.output.dense" not in adapted(model)


def test_layers_are_the_last_that_carry_adapters(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    lora(model, layers=1)
    assert adapted(model) and all(".layer.1." in name for name in adapted(model))
    with pytest.raises(RecipeError, match=r"tuning\.layers\n.*at most 2"):
        lora(load("bert", tmp_path), layers=3)


def test_targets_are_globs_over_layers_below_the_head(tmp_path: Path) -> None:
    model = load("roberta", tmp_path)
    lora(model, targets=["*.query", "roberta.encoder.layer.1.*"], rank=2, alpha=3, dropout=0.5)
    names = adapted(model)
    assert "roberta.encoder.layer.0.attention.self.query" in names
    assert len(names) == 1 + 6, "all of layer 1, norms and dropout left out"
    layer: Any = model.get_submodule("roberta.encoder.layer.0.attention.self.query")
    assert (layer.r["default"], layer.scaling["default"], layer.lora_dropout["default"].p) == (2, 1.5, 0.5)


@pytest.mark.parametrize(
    ("family", "targets", "found", "fix"),
    [
        ("bert", ["*.qury"], "*.qury", "did you mean '*.query'?"),
        ("bert", ["query"], "query", "did you mean '*.query'?"),
        ("bert", ["*.query", "zz"], "zz", "one that matches layers: "),
        ("bert", ["*.LayerNorm"], "*.LayerNorm: LayerNorm", "name other layers"),
        ("bert", ["classifier"], "classifier", "one that matches layers: "),
        ("bert", ["*.word_embeddings"], "Embedding", "name other layers"),
        ("convnext", ["*.dwconv"], "*.dwconv: Conv2d", "name other layers"),
    ],
)
def test_a_target_that_carries_no_adapter_is_an_error(
    family: str, targets: list[str], found: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        lora(load(family, tmp_path), targets=targets)
    (finding,) = caught.value.findings
    assert finding.place == f"tuning.lora.targets.{len(targets) - 1}"
    assert found in finding.found and fix in finding.fix


class Around(nn.Linear):
    """A linear layer that computes something else, as some in timm do."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


def test_layers_that_compute_something_else_carry_no_adapter(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    model.bert.encoder.layer[0].intermediate.dense = Around(16, 32)
    model.bert.encoder.layer[1].intermediate.dense = nn.utils.parametrizations.weight_norm(nn.Linear(16, 32))
    lora(model)
    assert not any("intermediate" in name for name in adapted(model))


def test_a_model_without_a_layer_that_can_carry_one_is_an_error(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    for name, layer in list(model.bert.named_modules()):
        if type(layer) is nn.Linear:
            layer.__class__ = Around
            assert name
    with pytest.raises(ModelError, match=r"tuning\.lora\.targets"):
        lora(model)


def test_an_adapter_whose_layer_is_read_past_it_is_an_error(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    lora(model)
    dense = model.bert.encoder.layer[1].intermediate.dense
    model.bert.encoder.layer[1].intermediate.forward = lambda states: nn.functional.gelu(
        nn.functional.linear(states, dense.weight, dense.bias)
    )
    with pytest.raises(ModelError) as caught, every_adapter_used(model):
        outputs(model, example("bert"))
    (finding,) = caught.value.findings
    assert "bert.encoder.layer.1.intermediate.dense" in finding.found
    assert finding.fix.startswith("set tuning.lora.targets: [")
    assert not any(module._forward_hooks for module in model.modules())


def test_adapters_that_are_not_finite_are_not_merged(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    lora(model)
    with torch.no_grad():
        model.get_parameter(min(adapter_parameters(model))).fill_(float("nan"))
        model.get_parameter(min(adapter_parameters(model)).replace("lora_A", "lora_B")).fill_(1.0)
    with pytest.raises(ModelError, match="finite adapters"):
        merge_adapters(model)


# files


@pytest.mark.parametrize("family", HEADS)
def test_saved_adapters_on_their_base_are_the_model(family: str, tmp_path: Path) -> None:
    """Read by PEFT and by transformers itself; where the base has another classifier, ours takes its place."""
    base, folder = tmp_path / "base", tmp_path / "adapters"
    load(family, base, num_labels=4)
    kind = "SequenceClassification" if "input_ids" in example(family) else "ImageClassification"
    auto = getattr(transformers, f"AutoModelFor{kind}")
    names = ["no", "yes"]
    config = transformers.AutoConfig.from_pretrained(base)
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    if hasattr(config, "label_names"):
        config.label_names = names
    torch.manual_seed(1)
    model = auto.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    new = frozenset(name for name, _ in model.named_parameters() if "pooler" in name)
    lora(model, new)
    freeze(model, decide(model, new, settings_for("lora")))
    disturb(model)
    with torch.no_grad():
        for name in [*new, *head_parameters(model)]:
            model.get_parameter(name).add_(0.1)
    save_adapters(model, folder, auto_model=auto.__name__, base=str(base), revision=None)
    assert holds_adapters(folder) and not (folder / "config.json").exists()
    saved = transformers.AutoConfig.from_pretrained(folder, subfolder="config")
    assert list(saved.id2label.values()) == names
    expected = outputs(model, example_of(family))
    ours = load_adapted(auto, str(folder), saved)
    theirs = auto.from_pretrained(
        folder, config=transformers.AutoConfig.from_pretrained(folder, subfolder="config"), ignore_mismatched_sizes=True
    )
    for other in (ours, theirs):
        torch.testing.assert_close(outputs(other, example_of(family)), expected, atol=1e-5, rtol=1e-4)
        assert list(other.config.id2label.values()) == names
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert size < sum(parameter.numel() * 4 for parameter in model.parameters())


def example_of(family: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return example(family)


def test_heads_at_each_layer_of_a_decoder_are_saved_one_by_one(tmp_path: Path) -> None:
    """Lists of heads, which PEFT cannot wrap; read by PEFT and by transformers itself."""
    auto, base, folder = transformers.AutoModelForObjectDetection, tmp_path / "base", tmp_path / "adapters"
    model = auto.from_pretrained(save_detector("rt_detr", base))
    lora(model)
    freeze(model, decide(model, NONE, settings_for("lora")))
    disturb(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in head_parameters(model):
            parameter = model.get_parameter(name)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_adapters(model, folder, auto_model=auto.__name__, base=str(base), revision=None)
    inputs = {"pixel_values": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))}
    config = transformers.AutoConfig.from_pretrained(folder, subfolder="config")
    for other in (load_adapted(auto, str(folder), config), auto.from_pretrained(folder, config=config)):
        torch.testing.assert_close(outputs(other, inputs), outputs(model, inputs), atol=1e-4, rtol=1e-4)
    kept = load_adapted(auto, str(folder), config).state_dict()
    assert all(torch.equal(kept[name], model.get_parameter(name)) for name in head_parameters(model))


def test_adapters_below_tied_heads_are_merged_or_refused_before_training(tmp_path: Path) -> None:
    auto = transformers.AutoModelForObjectDetection
    save_detector("deformable_detr", tmp_path)
    model = auto.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"tuning\.lora\.merge\n.*PEFT can put together again\n.*heads are tied"):
        lora(model, merge=False)
    ties = model._tied_weights_keys
    lora(model)
    assert adapter_parameters(model) and model._tied_weights_keys == ties
    merge_adapters(model)
    assert list(model.state_dict()) == list(auto.from_pretrained(tmp_path).state_dict())


def test_peft_s_own_class_reads_saved_adapters(tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    model = load("bert", tmp_path / "base")
    lora(model)
    freeze(model, decide(model, NONE, settings_for("lora")))
    disturb(model)
    save_adapters(
        model,
        tmp_path / "adapters",
        auto_model="AutoModelForSequenceClassification",
        base=str(tmp_path / "base"),
        revision=None,
    )
    (tmp_path / "adapters" / "tokenizer_config.json").unlink(missing_ok=True)
    read = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapters", num_labels=5)
    torch.testing.assert_close(outputs(read, example("bert")), outputs(model, example("bert")))


@pytest.mark.parametrize(
    ("name", "error"),
    [("classifier.bias", KeyError), ("bert.encoder.layer.1.output.dense.lora_A.weight", ValueError)],
)
def test_adapters_of_which_some_are_missing_do_not_load(name: str, error: type[Exception], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, folder = load("bert", tmp_path / "base"), tmp_path / "adapters"
    lora(model)
    freeze(model, decide(model, NONE, settings_for("lora")))
    auto = transformers.AutoModelForSequenceClassification
    save_adapters(model, folder, auto_model=auto.__name__, base=str(tmp_path / "base"), revision=None)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(f"base_model.model.{name}")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(error, match=re.escape(name)):
        load_adapted(auto, str(folder), model.config)


# the recipe


def test_the_recipe_of_a_run_says_which_adapters() -> None:
    plain = Recipe.from_dict({**LEAST, "tuning": {"strategy": "lora"}})
    assert plain.to_dict()["tuning"]["lora"] == {
        "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "auto", "merge": True,
    }  # fmt: skip
    assert Recipe.from_dict({**LEAST, "tuning": {"strategy": "full"}}).tuning.lora is None


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"tuning": {"strategy": "lora", "lora": {"rnak": 4}}}, "tuning.lora.rnak", "did you mean 'rank'"),
        ({"tuning": {"strategy": "lora", "lora": {"rank": 0}}}, "tuning.lora.rank", "greater than 0"),
        ({"tuning": {"strategy": "lora", "lora": {"targets": []}}}, "tuning.lora.targets", "at least 1 entries"),
        ({"tuning": {"strategy": "lora", "lora": {"targets": "query"}}}, "tuning.lora.targets", "auto"),
        ({"tuning": {"strategy": "head", "lora": {"rank": 4}}}, "tuning.lora", "set strategy: lora"),
        ({"tuning": {"strategy": "lora", "layer_decay": 0.5}}, "tuning.layer_decay", "a key that strategy lora uses"),
        (
            {"tuning": {"strategy": "lora"}, "model": {"name": "m", "weights": "random"}},
            "tuning.strategy",
            "pretrained weights below the adapters",
        ),
        (
            {
                "tuning": {"strategy": "lora", "lora": {"merge": False}},
                "model": {"name": "timm/resnet18", "weights": "w.pth"},
                "task": "image-classification",
            },
            "tuning.lora.merge",
            "a base that from_pretrained reads",
        ),
        (
            {
                "tuning": {"strategy": "lora"},
                "training": {
                    "activation_checkpointing": True,
                    "activation_checkpointing_kwargs": {"use_reentrant": True},
                },
            },
            "training.activation_checkpointing_kwargs",
            "use_reentrant: false",
        ),
    ],
)
def test_what_makes_no_sense_with_adapters_is_said(changes: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**LEAST, **changes})
    (finding,) = caught.value.findings
    assert finding.place == place and words in str(finding)
