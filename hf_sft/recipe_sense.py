"""What one section of a recipe alone cannot know: keys that the task decides, sections that need each other."""

from __future__ import annotations

from typing import Any, get_args

from hf_sft import training_keys
from hf_sft.errors import nearest
from hf_sft.recipe import AUGMENTATION_KEYS, BOXED_TASKS, MASKED_TASKS, MIXED_TASKS, PROCESSOR_KEYS, ROLES, Processor
from hf_sft.recipe_tuning import OPTIONAL_STRATEGY_KEYS, STRATEGY_KEYS, StrategyName
from hf_sft.tracker_names import problem_with_trackers

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
    if isinstance(training, dict) and (problem := problem_with_trackers(training.get("report_to"))):
        found.append((("training", "report_to"), problem))
    found += _batch_problems(content.get("run"), training)
    if isinstance(training, dict) and isinstance(content.get("early_stopping"), dict):
        found += _early_stopping_problems(content, training)
    if isinstance(content.get("tuning"), dict):
        found += _tuning_problems(content["tuning"])
        found += _probe_problems(content, content["tuning"])
        found += _gradual_problems(content["tuning"], content.get("dataset"))
        found += _lora_problems(content, content["tuning"])
        found += _cache_problems(content["tuning"], content.get("augment"))
        found += _inspect_problems(content.get("inspect"), content["tuning"])
    task = content.get("task")
    found += _objective_problems(content, task)
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


def _batch_problems(run: Any, training: Any) -> list[Problem]:
    """Of the size of a step and the batches it is made of, one is given and the other follows."""
    whole = run.get("global_batch_size") if isinstance(run, dict) else None
    if whole is None or not isinstance(training, dict) or "gradient_accumulation_steps" not in training:
        return []
    found = f"{training['gradient_accumulation_steps']}, and run.global_batch_size {whole}"
    expected, fix = "run.global_batch_size or this key", "leave it out: it follows from run.global_batch_size"
    return [(("training", "gradient_accumulation_steps"), {"expected": expected, "found": found, "fix": fix})]


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


def _objective_problems(content: dict[str, Any], task: Any) -> list[Problem]:
    """Settings that exclude each other, that a stream cannot serve, and images mixed where there are none."""
    sections = (content.get(name) for name in ("objective", "dataset"))
    objective, data = (section if isinstance(section, dict) else {} for section in sections)
    mixed = {("objective", key): str(objective[key]) for key in ("mixup", "cutmix") if objective.get(key) is not None}
    keys = (("dataset", "sampling", data), ("objective", "class_weights", objective))
    balanced = {(name, key): "balanced" for name, key, section in keys if section.get(key) == "balanced"}
    found: list[Problem] = []
    if len(balanced) == 2:
        expected, fix = "one remedy for rare classes, not two", "leave out dataset.sampling or objective.class_weights"
        both = "sampling: balanced and class_weights: balanced"
        found.append((("dataset", "sampling"), {"expected": expected, "found": both, "fix": fix}))
    if objective.get("focal_gamma") and objective.get("label_smoothing"):
        expected = "no label_smoothing beside it, which would outweigh what is left of rows predicted well"
        fix = "leave out objective.focal_gamma or objective.label_smoothing"
        smoothing = f"label_smoothing {objective['label_smoothing']}"
        found.append((("objective", "focal_gamma"), {"expected": expected, "found": smoothing, "fix": fix}))
    if data.get("streaming") is True:
        expected, fix = "training rows that are known beforehand", "leave it out, or leave out dataset.streaming"
        found += [
            (place, {"expected": expected, "found": f"{value}, and a stream", "fix": fix})
            for place, value in (balanced | mixed).items()
        ]
    if isinstance(task, str) and task in ROLES and task not in MASKED_TASKS:
        masks = [("objective", "dice_weight", objective)]
        masks += [("dataset", key, data) for key in ("ignore_label", "label_colors")]
        expected, fix = f"a key that {' or '.join(MASKED_TASKS)} has", "leave it out: masks alone have pixels"
        found += [
            ((name, key), {"expected": expected, "found": key, "fix": fix})
            for name, key, section in masks
            if section.get(key) not in (None, {})
        ]
    if (
        isinstance(task, str)
        and task in ROLES
        and task not in BOXED_TASKS
        and data.get("bbox_format", "xywh") != "xywh"
    ):
        expected, fix = f"a key that {' or '.join(BOXED_TASKS)} has", "leave it out: there are no boxes"
        found.append((("dataset", "bbox_format"), {"expected": expected, "found": "bbox_format", "fix": fix}))
    if isinstance(task, str) and task in ROLES and task not in MIXED_TASKS:
        expected, fix = f"a key that {' or '.join(MIXED_TASKS)} has", "leave it out: images alone are mixed"
        found += [(place, {"expected": expected, "found": place[-1], "fix": fix}) for place in mixed]
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
    optional = OPTIONAL_STRATEGY_KEYS
    for key in dict.fromkeys([*STRATEGY_KEYS.values(), *(key for keys in optional.values() for key in keys)]):
        if key != needed and key not in optional.get(strategy, ()) and tuning.get(key) not in (None, []):
            users = [name for name, used in STRATEGY_KEYS.items() if used == key]
            users += [name for name, keys in optional.items() if key in keys]
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


def _probe_problems(content: dict[str, Any], tuning: dict[str, Any]) -> list[Problem]:
    """A solved head needs all rows at once and a head that is its own to write; layers drawn anew have to train."""
    strategy, solved = tuning.get("strategy", "full"), tuning.get("solver") == "logistic"
    key, warm = "solver" if solved else "warm_start", tuning.get("warm_start") == "linear_probe"
    model, data = (content[name] if isinstance(content.get(name), dict) else {} for name in ("model", "dataset"))
    wrong: list[tuple[bool, str, str, str, str]] = [
        (solved and strategy != "head", "solver", "strategy head beside solver: logistic", str(strategy),
         "set strategy: head, or warm_start: linear_probe to begin with a solved head"),
        (solved and warm, "warm_start", "solver: gradient beside warm_start", "solver: logistic",
         "leave warm_start out: the head is solved already"),
        ((solved or warm) and data.get("streaming") is True, key, "training rows that can be read at once",
         "dataset.streaming: true", "leave streaming out, or this key"),
        ((solved or warm) and model.get("head") == "keep", key, "a new head, which it solves", "model.head: keep",
         "leave model.head out to let the solved head replace the model's own"),
    ]  # fmt: skip
    if tuning.get("batch_norm") == "frozen":
        expected = "pretrained statistics, in layers that train"
        wrong += [
            (strategy == "head", "batch_norm", expected, "strategy: head, which freezes the layers themselves",
             "leave it out: frozen layers keep their statistics"),
            (model.get("weights") == "random", "batch_norm", expected, "model.weights: random",
             "leave it out: a network drawn at random has no statistics"),
        ]  # fmt: skip
    if tuning.get("reinit_layers") is not None:
        expected = "layers that train and were trained before"
        wrong += [
            (strategy == "head", "reinit_layers", expected, "strategy: head, which freezes them",
             "set strategy: full or top_layers, or leave it out"),
            (model.get("weights") == "random", "reinit_layers", expected, "model.weights: random",
             "leave it out: all weights are drawn anew"),
        ]  # fmt: skip
    return [
        (("tuning", place), {"expected": expected, "found": found, "fix": fix})
        for applies, place, expected, found, fix in wrong
        if applies
    ]


def _gradual_problems(tuning: dict[str, Any], dataset: Any) -> list[Problem]:
    """A stream is read on and on: it has no epochs to count in."""
    streams = isinstance(dataset, dict) and dataset.get("streaming") is True
    settings = tuning.get("gradual")
    unit = settings.get("unit", "epochs") if isinstance(settings, dict) else "epochs"
    if tuning.get("strategy") != "gradual" or not streams or unit != "epochs":
        return []
    fix = "write gradual: {every: 100, unit: steps}"
    problem = {"expected": "steps, with dataset.streaming", "found": "epochs", "fix": fix}
    return [(("tuning", "gradual", "unit"), problem)]


def _lora_problems(content: dict[str, Any], tuning: dict[str, Any]) -> list[Problem]:
    """Adapters need pretrained weights below them, and gradients that reach them."""
    if tuning.get("strategy") != "lora":
        return []
    found: list[Problem] = []
    model, training, settings = (
        section if isinstance(section, dict) else {}
        for section in (content.get("model"), content.get("training"), tuning.get("lora"))
    )
    weights, merge = model.get("weights"), settings.get("merge", True)
    if tuning.get("wise_ft") is not None:
        problem = {"expected": "a strategy that trains the weights themselves", "found": "strategy: lora"}
        fix = "leave it out: lora.alpha scales what adapters add"
        found.append((("tuning", "wise_ft"), problem | {"fix": fix}))
    if weights == "random":
        problem = {"expected": "pretrained weights below the adapters", "found": "model.weights: random"}
        found.append((("tuning", "strategy"), problem | {"fix": "set strategy: full, or name a pretrained model"}))
    elif weights is not None and merge is False:
        problem = {"expected": "true where the base is a checkpoint file (model.weights)", "found": "false"}
        fix = "leave it out: adapters alone need a base that from_pretrained reads"
        found.append((("tuning", "lora", "merge"), problem | {"fix": fix}))
    hub = content.get("hub")
    if isinstance(hub, dict) and hub.get("every") == "checkpoint":
        problem = {"expected": "end with strategy lora, whose adapters are merged at the end", "found": "checkpoint"}
        found.append((("hub", "every"), problem | {"fix": "leave it out"}))
    checkpointing = training.get("activation_checkpointing_kwargs")
    if isinstance(checkpointing, dict) and checkpointing.get("use_reentrant") is True:
        problem = {"expected": "use_reentrant: false, through which gradients reach adapters", "found": "true"}
        place = ("training", "activation_checkpointing_kwargs")
        found.append((place, problem | {"fix": "leave it out: false is the default"}))
    return found


def _inspect_problems(inspect: Any, tuning: dict[str, Any]) -> list[Problem]:
    """A head that is solved takes no steps of which something could be recorded."""
    if not isinstance(inspect, dict) or inspect.get("record") is not True or tuning.get("solver") != "logistic":
        return []
    problem = {"expected": "training step by step, which it watches", "found": "tuning.solver: logistic"}
    return [(("inspect", "record"), problem | {"fix": "leave it out, or set tuning.solver: gradient"})]


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
