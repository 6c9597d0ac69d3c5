"""What one section of a recipe alone cannot know: keys that the task decides, sections that need each other."""

from __future__ import annotations

from typing import Any, get_args

from hf_sft import training_keys
from hf_sft.errors import nearest
from hf_sft.recipe import AUGMENTATION_KEYS, PROCESSOR_KEYS, ROLES, STRATEGY_KEYS, Processor, StrategyName

Problem = tuple[tuple[str, ...], dict[str, str]]  # where in the recipe, and the parts of a Finding


def problems_across_sections(content: dict[str, Any]) -> list[Problem]:
    """What one section alone cannot know: keys that the task or transformers decides, sections that need each other.

    `content` may be wrong elsewhere; what cannot be judged is left to the schema.
    """
    found: list[Problem] = []
    training = content.get("training")
    for key, value in training.items() if isinstance(training, dict) else ():
        if isinstance(key, str) and (problem := training_keys.problem_with(key, value)):
            found.append((("training", key), problem))
    if isinstance(training, dict) and isinstance(content.get("early_stopping"), dict):
        found += _early_stopping_problems(content, training)
    if isinstance(content.get("tuning"), dict):
        found += _tuning_problems(content["tuning"])
        found += _cache_problems(content["tuning"], content.get("augment"))
    task = content.get("task")
    if not isinstance(task, str) or task not in ROLES:
        return found
    for section, valid in ((("dataset", "columns"), ROLES[task]), (("processor",), PROCESSOR_KEYS[task])):
        given: Any = content
        for part in section:
            given = given.get(part) if isinstance(given, dict) else None
        for key, value in given.items() if isinstance(given, dict) else ():
            known = section == ("dataset", "columns") or key in Processor.model_fields
            if isinstance(key, str) and known and key not in valid and value is not None:
                problem = {"expected": f"a key that {task} has", "found": key, "fix": nearest(key, valid)}
                found.append(((*section, key), problem))
    return found + _augment_problems(content.get("augment"), task)


def _augment_problems(entries: Any, task: str) -> list[Problem]:
    found: list[Problem] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        named = {entry: None} if isinstance(entry, str) else entry
        for name, settings in named.items() if isinstance(named, dict) else ():
            place, known = ("augment", str(number)), AUGMENTATION_KEYS[task]
            if name not in known:
                fix = nearest(str(name), known)
                found.append((place, {"expected": f"an augmentation for {task}", "found": str(name), "fix": fix}))
                continue
            for key in settings if isinstance(settings, dict) else ():
                if key not in known[name]:
                    fix = nearest(str(key), known[name]) if known[name] else f"{name} has no settings"
                    problem = {"expected": f"a setting of {name}", "found": str(key), "fix": fix}
                    found.append(((*place, name, str(key)), problem))
    return found


def _tuning_problems(tuning: dict[str, Any]) -> list[Problem]:
    """A key that the strategy lacks or does not use, a rule that freezes and decays."""
    strategy = tuning.get("strategy", "full")
    if strategy not in get_args(StrategyName):
        return []
    found: list[Problem] = []
    needed = STRATEGY_KEYS.get(strategy)
    if needed and tuning.get(needed) in (None, []):
        example = {"layers": "2", "layer_decay": "0.8", "rules": "[{pattern: head}, {pattern: '*', lr_scale: 0.1}]"}
        expected, fix = f"this key, which strategy {strategy} needs", f"{needed}: {example[needed]}"
        found.append((("tuning", needed), {"expected": expected, "found": "nothing", "fix": fix}))
    for key in dict.fromkeys(STRATEGY_KEYS.values()):
        if key != needed and tuning.get(key) not in (None, []):
            users = [name for name, used in STRATEGY_KEYS.items() if used == key]
            expected, fix = (
                f"a key that strategy {strategy} uses",
                f"set strategy: {' or '.join(users)}, or leave it out",
            )
            found.append((("tuning", key), {"expected": expected, "found": key, "fix": fix}))
    rules = tuning.get("rules")
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, dict) and rule.get("lr_scale") == 0 and rule.get("weight_decay") is not None:
            expected, fix = "no weight_decay beside lr_scale: 0", "frozen parameters do not decay: leave it out"
            problem = {"expected": expected, "found": str(rule["weight_decay"]), "fix": fix}
            found.append((("tuning", "rules", str(number), "weight_decay"), problem))
    return found


def _cache_problems(tuning: dict[str, Any], augment: Any) -> list[Problem]:
    """Keys of the cache that do nothing: views without augmentation, anything while it is off."""
    found: list[Problem] = []
    for key, default in (("cache_dir", None), ("cache_dtype", "float32"), ("cache_views", None)):
        value = tuning.get(key)
        if tuning.get("cache") == "off" and value not in (None, default):
            fix = "leave it out, or set tuning.cache: auto"
            problem = {"expected": "a key that does something", "found": f"{key} beside cache: off", "fix": fix}
            found.append((("tuning", key), problem))
        elif key == "cache_views" and value is not None and augment in (None, []):
            expected, fix = "augment, whose views it keeps", "leave it out: every epoch sees the same rows"
            found.append((("tuning", key), {"expected": expected, "found": "nothing to augment", "fix": fix}))
    return found


def _early_stopping_problems(content: dict[str, Any], training: dict[str, Any]) -> list[Problem]:
    """Early stopping goes back to the best checkpoint: one has to be saved whenever validation is looked at."""
    data = content.get("dataset")
    interval = "steps" if isinstance(data, dict) and data.get("streaming") is True else "epoch"
    evaluates, saves = (training.get(key, interval) for key in ("eval_strategy", "save_strategy"))
    if evaluates != "no" and saves in (evaluates, "best"):
        return []
    return [
        (
            ("early_stopping",),
            {
                "expected": "training.save_strategy equal to training.eval_strategy, and neither of them no",
                "found": f"eval_strategy {evaluates}, save_strategy {saves}",
                "fix": "leave both strategies out, or early_stopping",
            },
        )
    ]
