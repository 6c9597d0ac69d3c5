"""The order of a backbone's parts, read off its structure: what stands before, in and after its stacks of layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

EMBEDS = re.compile(r"embed|stem|position")  # names of parts that stand before the layers, wherever they are defined


@dataclass(frozen=True)
class Part:
    """Parameters that belong together: those of one layer, or of something between layers."""

    is_layer: bool
    names: tuple[str, ...]


def parts_in_order(model: nn.Module, head: frozenset[str]) -> list[Part]:
    """The parts of the backbone in forward order, without the parameters of the head."""
    wanted = {name for name, _ in model.named_parameters()} - head  # a tied parameter is known by its first name
    found = [
        Part(part.is_layer, tuple(name for name in part.names if name in wanted))
        for part in _parts(model, "", staged=True)
    ]
    return [part for part in found if part.names]


def _parts(module: nn.Module, prefix: str, *, staged: bool) -> Iterator[Part]:
    """What stands in a module that holds a stack. staged: the stack's layers may be stages that hold stacks."""
    yield Part(False, _named(module, prefix, recurse=False))  # class tokens, tables of positions
    children = _tables_first([child for child in module.named_children() if _size(child[1])])
    beside = _beside_each_other(children)
    for name, child in children:
        path = f"{prefix}{name}."
        if name in beside:
            if name == beside[0]:
                yield from _layers([(f"{prefix}{one}.", part) for one, part in children if one in beside], staged)
        elif _holds_stack(name, child):
            yield from _layers([(path, child)], staged) if _is_stack(child) else _parts(child, path, staged=staged)
        else:
            yield Part(False, _named(child, path))


def _tables_first(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Embeddings defined behind a stack come before it, with what follows them: it normalises or reads them."""
    stacks = [number for number, child in enumerate(children) if _holds_stack(*child)]
    tables = [
        number
        for number, (name, child) in enumerate(children)
        if (isinstance(child, nn.Embedding) or EMBEDS.search(name)) and stacks and number > stacks[-1]
    ]
    return children[tables[0] :] + children[: tables[0]] if tables else children


def _layers(lists: list[tuple[str, nn.Module]], staged: bool) -> Iterator[Part]:
    """The layers of one list, or of several whose members with the same number work together (XLM, PoolFormer)."""
    rows = [
        [(f"{prefix}{name}.", part) for (name, part), prefix in zip(row, (path for path, _ in lists), strict=True)]
        for row in zip(*(module.named_children() for _, module in lists), strict=True)
    ]
    shapes = {tuple(tuple(p.shape) for _, part in row for p in part.parameters()) for row in rows}
    for row in rows:
        sizes = {path: _size(part) for path, part in row}
        biggest = max(sizes, key=sizes.__getitem__)
        if staged and _is_stage(dict(row)[biggest], alike=len(rows) > 1 and len(shapes) == 1):
            for path, part in row:
                if path == biggest:
                    yield from _layers([(path, part)], False) if _is_stack(part) else _parts(part, path, staged=False)
                else:
                    yield Part(False, _named(part, path))
        else:
            yield Part(True, tuple(name for path, part in row for name in _named(part, path)))


def _is_stage(part: nn.Module, *, alike: bool) -> bool:
    """Whether a member of a stack holds layers: a stack with a quarter of its parameters or more.

    Members that are all alike are layers, whatever lists they hold (experts): stages differ in width.
    """
    return _is_stack(part) or (not alike and 4 * sum(map(_size, _stacks(part))) >= _size(part) > 0)


def _stacks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost stacks below a module."""
    for name, child in module.named_children():
        if not EMBEDS.search(name):
            yield from [child] if _is_stack(child) else _stacks(child)


def _holds_stack(name: str, module: nn.Module) -> bool:
    return not EMBEDS.search(name) and (_is_stack(module) or any(True for _ in _stacks(module)))


def _is_stack(module: nn.Module) -> bool:
    """A list of which most members are of one kind, a compound one: layers, not convolutions and their norms."""
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return False
    members = [part for part in module if any(True for _ in part.parameters())]
    compound = Counter(type(part) for part in members if any(True for _ in part.children()))
    return bool(compound) and 2 * max(compound.values()) > len(members)


def _beside_each_other(children: list[tuple[str, nn.Module]]) -> list[str]:
    """Names of lists of one length, each of one kind, that stand beside a stack in one module."""
    lists = [
        (name, child)
        for name, child in children
        if isinstance(child, nn.ModuleList) and len(child) > 1 and len({type(part) for part in child}) == 1
    ]
    stacks = [child for name, child in lists if _is_stack(child) and not EMBEDS.search(name)]
    if not stacks:
        return []
    names = [name for name, child in lists if len(child) == len(max(stacks, key=_size))]
    return names if len(names) > 1 else []


def _named(module: nn.Module, prefix: str, *, recurse: bool = True) -> tuple[str, ...]:
    return tuple(prefix + name for name, _ in module.named_parameters(recurse=recurse))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
