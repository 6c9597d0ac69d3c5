"""What trains, what decays and what stays in eval mode, for every family."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from families import HEADS, UNUSUAL, VISION, build, from_config, load, settings_for
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_sft.modeling.anatomy import head_parameters
from hf_sft.modeling.parameter_groups import decays, describe, freeze, parameter_groups
from hf_sft.modeling.rules import Rule, apply_rules
from hf_sft.modeling.tuning import STRATEGIES, adapt, decide

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, Conv1D, nn.Embedding)
TIMM = ["test_vit", "test_vit2", "test_vit3", "test_convnext2", "test_coatnet", "test_byobnet", "test_resnet"]
TIMM += [
    "beit_base_patch16_224",
    "swinv2_tiny_window8_256",
    "deit_tiny_distilled_patch16_224",
    "levit_128",
    "mvitv2_tiny",
]


def rules_for(model: Any, strategy: str = "full", **settings: Any) -> dict[str, Rule]:
    if strategy == "lora":
        pytest.importorskip("peft")
    adapt(model, frozenset(), settings_for(strategy, **settings))
    return decide(model, frozenset(), settings_for(strategy, **settings))


def is_matrix(model: Any, name: str) -> bool:
    """The weight of a linear layer, a kernel or a table of words; not of positions, and no relative position bias."""
    path, _, kind = name.rpartition(".")
    module = model.get_submodule(path)
    positions = any("position" in part or part == "wpe" for part in path.split("."))
    return isinstance(module, MATRICES) and kind == "weight" and not positions


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", [*HEADS, *VISION])
def test_every_trainable_parameter_is_in_one_group_and_the_head_s_come_first(
    family: str, strategy: str, tmp_path: Path
) -> None:
    model = build(family, tmp_path)
    rules = rules_for(model, strategy)
    freeze(model, rules)
    groups = parameter_groups(model, rules, learning_rate=0.5, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    flat = [name for group in members for name in group]
    assert sorted(flat) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    head = set(head_parameters(model))
    in_head = [set(group) <= head for group in members]
    assert all(set(group) <= head or not set(group) & head for group in members)
    assert in_head[0]
    assert in_head == sorted(in_head, reverse=True)
    for group, inside in zip(groups, members, strict=True):
        assert {0.5 * rules[name].lr_scale for name in inside} == {group["lr"]}
    assert all(in_head) == (strategy == "head")


@pytest.mark.parametrize("family", [*HEADS, *VISION])
@pytest.mark.parametrize("strategy", ["full", "layer_decay"])
def test_weight_decay_reaches_matrices_and_kernels_and_nothing_else(family: str, strategy: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    groups = parameter_groups(model, rules_for(model, strategy), learning_rate=0.5, weight_decay=0.1)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name for name, parameter in model.named_parameters() if decay[id(parameter)]}
    expected = {name for name, _ in model.named_parameters() if is_matrix(model, name)}
    assert found == expected
    assert set(decay.values()) == {0.0, 0.1}


@pytest.mark.parametrize("architecture", TIMM)
def test_what_timm_says_does_not_decay_does_not(architecture: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture)
    parameters = dict(model.named_parameters())
    named = set(model.no_weight_decay()) & set(parameters) if hasattr(model, "no_weight_decay") else set()
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__ or "Scale" in type(module).__name__ or "Grn" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    tokens = {name for name in parameters if name.endswith(("token", "pos_embed", "gamma", "bias"))}
    assert not [name for name in named | norms | tokens if decays(name, parameters[name])]
    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    linear = [name for name in linear if "cpb_mlp" not in name]
    assert all(decays(f"{name}.weight", parameters[f"{name}.weight"]) for name in linear)


def test_a_rule_s_own_decay_and_rate_win(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    rules = apply_rules(
        [Rule("classifier.*", 1.0, 0.5), Rule("bert.pooler.*", 0.0), Rule("*", 0.1)],
        [name for name, _ in model.named_parameters()],
    )
    freeze(model, rules)
    groups = parameter_groups(model, rules, learning_rate=1.0, weight_decay=0.1)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.0),
        (1.0, 0.5),
        (0.1, 0.0),
        (0.1, 0.1),
    ]
    assert not any(parameter.requires_grad for parameter in model.bert.pooler.parameters())


def test_learning_rates_fall_by_exact_powers_and_the_logged_one_is_the_head_s(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    rules = rules_for(model, "layer_decay", layer_decay=0.8)
    groups = parameter_groups(model, rules, learning_rate=1e-4, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {1e-4 * 0.8**depth for depth in range(4)}
    assert groups[0]["lr"] == 1e-4
    rules = rules_for(model, "layer_decay", layer_decay=0.8, head_lr_scale=10.0)
    groups = parameter_groups(model, rules, learning_rate=1e-4, weight_decay=0.1)
    assert groups[0]["lr"] == 1e-3 and model.classifier.bias is groups[0]["params"][0]


@pytest.mark.parametrize("name", UNUSUAL)
def test_strategy_head_freezes_most_of_models_with_unusual_names(name: str) -> None:
    config, kind, _ = UNUSUAL[name]
    model = from_config(config, kind)
    freeze(model, rules_for(model, "head"))
    total, trainable, _ = describe(model)
    assert 0 < trainable < 0.5 * total


class Mixed(nn.Module):
    """Dropout everywhere: before, inside and behind what is frozen, and in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="")
        self.early = nn.Dropout()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
        self.late = nn.Dropout()
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.Dropout())
        self.last = nn.Dropout()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([Rule("head.*"), Rule("*", 0.0)], {"early", "body", "body.0", "body.1", "body.2", "body.3", "body.3.0"}),
        ([Rule("body.2.*"), Rule("head.*"), Rule("*", 0.0)], {"early", "body.0"}),
        ([Rule("body.*"), Rule("*", 0.0)], {"late", "head", "head.0", "head.1", "head.2", "last"}),
        ([Rule("*")], set()),
    ],
)
def test_what_is_frozen_takes_its_dropout_and_statistics_with_it(rules: list[Rule], expected: set[str]) -> None:
    model = Mixed()
    names = [name for name, _ in model.named_parameters()]
    frozen = {id(module) for module in freeze(model, apply_rules(rules, names))}
    assert {name for name, module in model.named_modules() if id(module) in frozen} == expected


def test_what_trains_is_said_in_one_line(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    total = sum(parameter.numel() for parameter in model.parameters())
    tensors = len(list(model.parameters()))
    freeze(model, rules_for(model, "head"))
    line = f"training 2 of {tensors} tensors (85 of {total:,} parameters): classifier"
    assert describe(model) == (total, 85, line)
    freeze(model, rules_for(model, "top_layers"))
    assert describe(model)[2].endswith(": bert.encoder.layer.1, bert.pooler, classifier")
    freeze(model, rules_for(model, "rules", rules=[{"pattern": "*.1.*.bias"}, {"pattern": "*", "lr_scale": 0}]))
    assert describe(model)[2].endswith(
        ": bert.encoder.layer.1.attention.self.query.bias, bert.encoder.layer.1.attention.self.key.bias, "
        "bert.encoder.layer.1.attention.self.value.bias, bert.encoder.layer.1.attention.output.dense.bias ..."
    )
    freeze(model, rules_for(model))
    assert describe(model) == (
        total,
        total,
        f"training {tensors} of {tensors} tensors ({total:,} of {total:,} parameters)",
    )
