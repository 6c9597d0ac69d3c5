"""Strategies: which weights learn and how fast, written as ordered rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_sft.errors import Finding, RecipeError, nearest
from hf_sft.modeling.anatomy import head_parameters
from hf_sft.recipe import Tuning


@dataclass(frozen=True)
class Rule:
    """Parameters whose name matches `pattern` (a regular expression over the whole name) learn at

    `lr_scale` times the learning rate; 0 freezes them. weight_decay None: the recipe's, where decay applies at all.
    """

    pattern: str
    lr_scale: float = 1.0
    weight_decay: float | None = None

    def matches(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None


Strategy = Callable[[Any, frozenset[str], Tuning], list[Rule]]


def full(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """Everything trains."""
    return [Rule(".*")]


def head(model: Any, new: frozenset[str], settings: Tuning) -> list[Rule]:
    """Only the head trains, and whatever below it starts untrained (a pooler the checkpoint lacks)."""
    wanted = new | set(head_parameters(model))
    trained = [name for name, _ in model.named_parameters() if name in wanted]
    return [*(Rule(re.escape(name)) for name in trained), Rule(".*", lr_scale=0.0)]


STRATEGIES: dict[str, Strategy] = {"full": full, "head": head}


def apply_rules(rules: Sequence[Rule], names: Sequence[str]) -> dict[str, Rule]:
    """Parameter name -> its rule; the first match wins.

    Raises RecipeError for a rule that matches nothing, a parameter no rule covers, or when nothing would train.
    """
    chosen: dict[str, Rule] = {}
    for name in names:
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if rule is not None:
            chosen[name] = rule
    findings = [
        Finding(
            place="tuning.rules",
            expected="a pattern that matches a parameter",
            found=rule.pattern,
            fix=nearest(rule.pattern, names) if len(names) < 1000 else "",
        )
        for rule in rules
        if not any(rule.matches(name) for name in names)
    ]
    findings += [
        Finding(place="tuning.rules", expected="a rule for every parameter", found=name, fix="add a last rule '.*'")
        for name in names
        if name not in chosen
    ][:3]
    if not findings and not any(rule.lr_scale for rule in chosen.values()):
        findings.append(Finding(place="tuning", expected="something that trains", found="every parameter frozen"))
    if findings:
        raise RecipeError(findings)
    return chosen
