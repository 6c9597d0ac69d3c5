"""What `hf-sft check` shows of a model's blocks is what training does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import HEADS, STRATEGY_SETTINGS, load, settings_for

from hf_sft.modeling.block_table import HEADS as COLUMNS
from hf_sft.modeling.block_table import block_table
from hf_sft.modeling.tuning import decide
from hf_sft.tables import as_text


def rows(model: Any, strategy: str, **settings: Any) -> list[tuple[str, ...]]:
    rules = decide(model, frozenset(), settings_for(strategy, **settings))
    table = block_table(model, rules, learning_rate=1e-4, weight_decay=0.01)
    assert tuple(table.heads) == COLUMNS
    return [(row[0], *row[2:]) for row in table.rows]


def test_each_strategy_is_shown_as_it_treats_the_blocks(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    frozen, trained = ("no", "-", "-", "eval"), ("yes", "0.0001", "0.01", "train")
    assert rows(model, "top_layers") == [
        ("embeddings", *frozen),
        ("block.0", *frozen),
        ("block.1", *trained),
        ("final", *trained),
        ("head", *trained),
    ]
    assert rows(model, "head") == [
        ("embeddings", *frozen),
        ("block.0 to block.1", *frozen),
        ("final", *frozen),
        ("head", *trained),
    ]
    found = rows(model, "layer_decay", head_lr_scale=10)
    assert [row[2] for row in found] == ["1.25e-05", "2.5e-05", "5e-05", "0.0001", "0.001"]


def test_a_block_that_trains_in_part_says_which_part_and_which_rates(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    written = [
        {"pattern": "*.layer.0.attention.*.weight", "lr_scale": 0.5},
        {"pattern": "*.layer.0.output.*", "weight_decay": 0.0},
        {"pattern": "head"},
        {"pattern": "*", "lr_scale": 0},
    ]
    found = {row[0]: row[1:] for row in rows(model, "rules", rules=written)}
    assert found["block.0"] == ("9 of 16 tensors", "5e-05 to 0.0001", "0 to 0.01", "train, eval")


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
@pytest.mark.parametrize("family", HEADS)
def test_every_parameter_is_counted_once(family: str, strategy: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    rules = decide(model, frozenset(), settings_for(strategy))
    table = block_table(model, rules, learning_rate=1e-4, weight_decay=0.01)
    sizes = [int(row[1].replace(",", "")) for row in table.rows]
    assert sum(sizes) == sum(parameter.numel() for parameter in model.parameters())
    assert as_text(table, 80)
