"""The blocks of a model as `hf-sft check` shows them: what trains, how fast, and what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from torch import nn

from hf_sft.modeling.anatomy import Block, find_blocks
from hf_sft.modeling.parameter_groups import decays
from hf_sft.modeling.rules import Rule
from hf_sft.tables import Table

HEADS = ("block", "parameters", "trains", "learning rate", "weight decay", "mode")


def block_table(
    model: nn.Module,
    rules: Mapping[str, Rule],
    *,
    learning_rate: float,
    weight_decay: float,
    unit: str = "epochs",
    solved: bool = False,
) -> Table:
    """One row per block in forward order; neighbours that are treated alike share one.

    weight decay is that of the matrices and kernels of a block: biases and norms never decay. mode eval: dropout is
    off and BatchNorm's statistics stay; where a block trains in part, so does what is frozen inside it. unit: in which
    blocks that join later count. solved: what the rules leave free is solved, not trained.
    """
    parameters = dict(model.named_parameters())
    rows = [
        (block, _treatment(block, rules, parameters, learning_rate, weight_decay, unit)) for block in find_blocks(model)
    ]
    if solved:
        rows = [(block, ("no" if shown[0] == "no" else "solved", "-", "-", "eval")) for block, shown in rows]
    told = [
        (_name([block for block, _ in members]), f"{_size(members, parameters):,}", *treatment)
        for treatment, members in _neighbours(rows)
    ]
    return Table(title="blocks", heads=HEADS, rows=told, left=1, firm=1)


def _neighbours(
    rows: Sequence[tuple[Block, tuple[str, ...]]],
) -> Iterator[tuple[tuple[str, ...], list[tuple[Block, tuple[str, ...]]]]]:
    """Rows in their order, those of the numbered blocks that are treated alike together."""
    for (_, treatment), members in groupby(rows, key=lambda row: (row[0].is_layer or row[0].name, row[1])):
        yield treatment, list(members)


def _treatment(
    block: Block,
    rules: Mapping[str, Rule],
    parameters: Mapping[str, nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    unit: str,
) -> tuple[str, ...]:
    """What the columns behind the size say."""
    trained = [name for name in block.parameters if rules[name].lr_scale > 0]
    if not trained:
        return "no", "-", "-", "eval"
    rates = {learning_rate * rules[name].lr_scale for name in trained}
    own = {name: rules[name].weight_decay for name in trained if decays(name, parameters[name])}
    decay = {weight_decay if value is None else value for value in own.values()} or {0.0}
    whole = len(trained) == len(block.parameters)
    share = "yes" if whole else f"{len(trained)} of {len(block.parameters)} tensors"
    mode = "train" if whole else "train, eval"
    joins = max(rules[name].after for name in trained)
    if joins:
        mode, when = f"eval, then {mode}", f"from {unit.removesuffix('s')} {joins + 1}"
        share = when if whole and joins == min(rules[name].after for name in trained) else f"{share}, all {when}"
    return share, _span(rates), _span(decay), mode


def _span(values: set[float]) -> str:
    least, most = f"{min(values):.3g}", f"{max(values):.3g}"
    return least if least == most else f"{least} to {most}"


def _name(blocks: Sequence[Block]) -> str:
    return blocks[0].name if len(blocks) == 1 else f"{blocks[0].name} to {blocks[-1].name}"


def _size(members: Sequence[tuple[Block, tuple[str, ...]]], parameters: Mapping[str, nn.Parameter]) -> int:
    return sum(parameters[name].numel() for block, _ in members for name in block.parameters)
