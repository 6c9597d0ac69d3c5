"""Rules: which parameters learn how fast. The first that matches wins, and nothing is left to chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hf_sft.errors import Finding, RecipeError, nearest


@dataclass(frozen=True)
class Rule:
    """Parameters that match learn at `lr_scale` times the learning rate; 0 freezes them.

    pattern: a glob over whole names of parameters; where `names` says which they are, what they are called together.
    weight_decay None: the recipe's, where decay applies at all.
    after: epochs or steps (tuning.gradual.unit) for which they wait, frozen, before they learn.
    """

    pattern: str
    lr_scale: float = 1.0
    weight_decay: float | None = None
    names: frozenset[str] | None = None
    after: int = 0

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern) if self.names is None else name in self.names


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
            fix=nearest(rule.pattern, names),
        )
        for rule in rules
        if not any(rule.matches(name) for name in names)
    ]
    missing = [name for name in names if name not in chosen]
    if missing:
        more = f" and {len(missing) - 3} more parameters" if len(missing) > 3 else ""
        fix = "add a last rule: {pattern: '*', lr_scale: 1} trains the rest, lr_scale: 0 freezes it"
        found = ", ".join(missing[:3]) + more
        findings.append(
            Finding(place="tuning.rules", expected="a rule for every parameter", found=f"none for {found}", fix=fix)
        )
    if not findings and not any(rule.lr_scale for rule in chosen.values()):
        fix = "give what should learn a lr_scale above 0"
        expected, found = "something that trains", "every parameter frozen"
        findings.append(Finding(place="tuning", expected=expected, found=found, fix=fix))
    if findings:
        raise RecipeError(findings)
    return chosen
