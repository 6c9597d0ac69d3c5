"""Strategies: which weights learn and how fast, written as ordered rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hf_sft.errors import Finding, RecipeError, nearest
from hf_sft.modeling.anatomy import Block, find_blocks, head_parameters, output_layers
from hf_sft.modeling.lora import adapter_parameters, add_adapters
from hf_sft.modeling.rules import Rule, apply_rules
from hf_sft.recipe_tuning import Gradual, Tuning

Strategy = Callable[[Any, frozenset[str], Tuning], list[Rule]]  # model, parameters that start untrained, settings


def full(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """Everything trains."""
    return [*_head_rule(model, settings), Rule("*")]


def head(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """Only the head trains, and whatever below it starts untrained (a pooler the checkpoint lacks).

    A head that is solved changes in its output layer alone.
    """
    if settings.solver == "logistic":
        layers = output_layers(model, model.config.num_labels)
        names = {f"{name}.{part}" for name, layer in layers.items() for part, _ in layer.named_parameters()}
        return [Rule("head", names=frozenset(names)), Rule("*", lr_scale=0.0)]
    return [*_head_rule(model, settings), *_new_rule(new), Rule("*", lr_scale=0.0)]


def top_layers(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """The last layers train, and what follows them."""
    blocks = find_blocks(model)
    layers = _wanted_layers(blocks, settings)[1]
    first = blocks.index(layers[0])
    return _trained_blocks(model, blocks[first:], new, settings)


def first_layers(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """The embeddings and the first layers train, and the head."""
    blocks = find_blocks(model)
    layers = _wanted_layers(blocks, settings)[0]
    last = blocks.index(layers[-1])
    return _trained_blocks(model, blocks[: last + 1], new, settings)


def layer_decay(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """The learning rate falls from each layer to the one before it (ELECTRA: Clark et al. 2020; BEiT: Bao et al. 2022).

    The head and what stands between it and the last layer learn at the whole rate, the last layer at the first power
    of the decay, the embeddings at the power of one more than there are layers.
    """
    assert settings.layer_decay is not None
    below = [block for block in reversed(find_blocks(model)) if block.name not in ("final", "head")]
    slower = [_rule_of(block, settings.layer_decay**depth) for depth, block in enumerate(below, start=1)]
    return [*_head_rule(model, settings), *_new_rule(new), *slower, Rule("*")]


def gradual(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """The head trains first, then layer after layer joins, from the top (ULMFiT: Howard and Ruder 2018).

    `final` joins with the last layers, the embeddings join alone at the end. With `layers: all` everything joins at
    once: two phases, the head and then the whole.
    """
    plan, blocks = settings.gradual or Gradual(), find_blocks(model)
    layers = [block for block in reversed(blocks) if block.is_layer]
    at_a_time = len(layers) if plan.layers == "all" else plan.layers
    turns = {block.name: number // at_a_time + 1 for number, block in enumerate(layers)}
    turns |= {"final": 1, "embeddings": 1 if plan.layers == "all" else max(turns.values()) + 1}
    waiting = [
        Rule(block.name, names=frozenset(block.parameters), after=plan.every * turns[block.name])
        for block in reversed(blocks)
        if block.name != "head" and not set(block.parameters) <= new
    ]
    return [*_head_rule(model, settings), *_new_rule(new), *waiting]


def rules(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """As the recipe's rules say, whose patterns match names of parameters or of blocks."""
    blocks = find_blocks(model)
    block_of = {name: block.name for block in blocks for name in block.parameters}
    of_head = frozenset(head_parameters(model))
    left, found, findings = set(block_of), list[Rule](), list[Finding]()
    for number, rule in enumerate(settings.rules):
        matched = {
            name
            for name, block in block_of.items()
            if fnmatchcase(name, rule.pattern) or fnmatchcase(block, rule.pattern)
        }
        if not matched & left:
            expected = "a pattern that matches a parameter or a block" + (
                " that no earlier rule takes" if matched else ""
            )
            fix = "put it above the rule that matches the same" if matched else _nearest(rule.pattern, blocks)
            place = f"tuning.rules.{number}.pattern"
            findings.append(Finding(place=place, expected=expected, found=rule.pattern, fix=fix))
        for names, scale in ((matched & left & of_head, settings.head_lr_scale), (matched & left - of_head, 1.0)):
            if names:
                found.append(Rule(rule.pattern, rule.lr_scale * scale, rule.weight_decay, frozenset(names)))
        left -= matched
    scales = {rule.lr_scale for rule in found if rule.names and rule.names & of_head}
    if settings.head_lr_scale != 1 and scales == {0.0}:
        fix = "leave it out, or let a rule train the head"
        expected = "a head that trains, whose rate it scales"
        findings.append(Finding(place="tuning.head_lr_scale", expected=expected, found="a frozen head", fix=fix))
    if findings:
        raise RecipeError(findings)
    return found


def lora(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """The adapters that `adapt` has put in train, the head, and whatever below it starts untrained."""
    adapters = adapter_parameters(model)
    trained = [Rule("adapters", names=adapters)] if adapters else []
    return [*_head_rule(model, settings), *_new_rule(new), *trained, Rule("*", lr_scale=0.0)]


STRATEGIES: dict[str, Strategy] = {
    "full": full,
    "head": head,
    "top_layers": top_layers,
    "first_layers": first_layers,
    "layer_decay": layer_decay,
    "gradual": gradual,
    "rules": rules,
    "lora": lora,
}


def adapt(model: Any, new: frozenset[str], settings: Tuning) -> str:
    """What a strategy changes in the model itself, before rules are written -> in words; empty for most."""
    if settings.lora is None:
        return ""
    blocks = find_blocks(model)
    layers = _wanted_layers(blocks, settings)[1] if settings.layers else [block for block in blocks if block.is_layer]
    return add_adapters(model, layers, new, settings.lora)


def decide(model: Any, new: frozenset[str], settings: Tuning) -> dict[str, Rule]:
    """Parameter name -> its rule under the recipe's strategy. Raises RecipeError where that does not fit the model."""
    names = [name for name, _ in model.named_parameters()]
    return apply_rules(STRATEGIES[settings.strategy](model, new, settings), names)


def _head_rule(model: Any, settings: Tuning) -> list[Rule]:
    names = frozenset(head_parameters(model))
    return [Rule("head", settings.head_lr_scale, names=names)] if names else []


def _new_rule(new: frozenset[str]) -> list[Rule]:
    return [Rule("parameters that start untrained", names=new)] if new else []


def _rule_of(block: Block, lr_scale: float) -> Rule:
    return Rule(block.name, lr_scale, names=frozenset(block.parameters))


def _trained_blocks(model: Any, blocks: Sequence[Block], new: frozenset[str], settings: Tuning) -> list[Rule]:
    """These train, with the head and what starts untrained; all else is frozen."""
    trained = [_rule_of(block, 1.0) for block in blocks if block.name != "head"]
    return [*_head_rule(model, settings), *_new_rule(new), *trained, Rule("*", lr_scale=0.0)]


def _wanted_layers(blocks: Sequence[Block], settings: Tuning) -> tuple[list[Block], list[Block]]:
    """(the first, the last) so many layers. Raises RecipeError where the model has fewer."""
    layers, number = [block for block in blocks if block.is_layer], settings.layers
    assert number is not None
    if number > len(layers):
        expected = f"at most {len(layers)}, the layers that this model has"
        fix = "strategy: full trains everything"
        raise RecipeError(Finding(place="tuning.layers", expected=expected, found=str(number), fix=fix))
    return layers[:number], layers[-number:]


def _nearest(pattern: str, blocks: Sequence[Block]) -> str:
    """What may have been meant: a parameter, a module, a block; else the blocks that there are."""
    names = [name for block in blocks for name in block.parameters]
    parts = {name.rsplit(".", depth)[0] + ".*" for name in names for depth in range(1, name.count(".") + 1)}
    hint = nearest(pattern, sorted([*(block.name for block in blocks), *parts, *names]))
    if not hint.startswith("valid here"):
        return hint
    inner = [block.name for block in blocks if block.is_layer][1:-1]
    shown = [block.name for block in blocks if block.name not in inner[1:]]
    return "the blocks of this model: " + ", ".join("..." if name in inner else name for name in shown)
