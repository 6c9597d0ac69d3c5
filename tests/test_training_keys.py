"""What a recipe's `training:` may hold, judged by the installed TrainingArguments without importing it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from hf_sft import training_keys
from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.training_keys import (
    COMMON,
    GONE,
    LEAST,
    OWNED,
    RENAMED,
    enumerations,
    problem_with,
    training_fields,
    translate,
)

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
FREE = sorted(set(FIELDS) - set(OWNED))  # what a recipe may set under that name


def recipe(**training: Any) -> Recipe:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "p"}, "training": training}
    return Recipe.from_dict(content)


# --- the tables and the installed library


def test_the_fields_read_from_the_source_are_those_of_the_class() -> None:
    assert list(training_fields()) == list(FIELDS)


def test_the_enumerations_read_from_the_source_are_those_of_the_classes() -> None:
    for kind in (SchedulerType, OptimizerNames, IntervalStrategy, SaveStrategy):
        assert enumerations()[kind.__name__] == tuple(member.value for member in kind)


def test_every_owned_key_is_or_was_a_field() -> None:
    """A misspelt entry of OWNED would guard nothing."""
    was: set[str] = set()  # fields of an earlier transformers that the installed one dropped
    assert set(OWNED) - set(FIELDS) == was


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not set(GONE) & set(FIELDS)
    assert not set(OWNED) & (set(RENAMED) | set(GONE))
    assert set(RENAMED.values()) <= set(FREE)
    assert set(LEAST) <= set(FREE)
    assert set(COMMON.values()) <= set(FREE) and not set(COMMON) & set(FIELDS)


def test_every_fix_is_a_sentence_about_what_to_do() -> None:
    for fix in (*OWNED.values(), *GONE.values()):
        assert fix.startswith(("set ", "leave it out", "put ", "pass ")), fix


def test_keys_that_a_fix_names_exist() -> None:
    for fix in (*OWNED.values(), *GONE.values()):
        for word in fix.replace(":", " ").replace(",", " ").split():
            section, dot, key = word.partition(".")
            if dot and section in Recipe.model_fields and key and section != "training":
                Recipe.model_fields[section].annotation.model_fields[key]  # type: ignore[union-attr]


def test_defaults_of_every_free_field_are_accepted() -> None:
    for name in set(FREE) - set(RENAMED):
        default = FIELDS[name].default
        if default is not dataclasses.MISSING and not isinstance(default, (tuple, set)):
            value = getattr(default, "value", default)
            assert problem_with(name, value) is None, name


def test_without_transformers_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_keys.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match="pip install 'transformers"):
        training_fields.__wrapped__()


# --- names


@pytest.mark.parametrize("key", OWNED)
def test_an_owned_key_is_an_error_that_says_what_to_set(key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(**{key: True})
    (finding,) = caught.value.findings
    assert finding.place == f"training.{key}"
    assert finding.fix == OWNED[key]


@pytest.mark.parametrize("key", GONE)
def test_a_key_that_is_gone_is_an_error_that_says_what_to_do(key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(**{key: True})
    assert caught.value.findings[0].fix == GONE[key]


@pytest.mark.parametrize(
    ("old", "value"),
    [
        ("evaluation_strategy", "epoch"),
        ("warmup_ratio", 0.1),
        ("warmup_ratio", 0),
        ("gradient_checkpointing", True),
        ("gradient_checkpointing_kwargs", {"use_reentrant": False}),
        ("per_gpu_train_batch_size", 8),
        ("per_gpu_eval_batch_size", 8),
    ],
)
def test_a_name_of_an_earlier_version_is_read_as_todays_and_said(old: str, value: Any) -> None:
    read = recipe(**{old: value})
    assert read.training == {RENAMED[old]: value}
    (notice,) = read.notices
    assert f"training.{old}" in notice and f"training.{RENAMED[old]}" in notice
    assert not recipe(**{RENAMED[old]: value}).notices


def test_all_earlier_names_are_tried_above() -> None:
    values: dict[str, Any] = {"warmup_ratio": 0.1}
    translated, notices = translate({key: values.get(key, 1) for key in RENAMED})
    assert set(translated) == set(RENAMED.values()) and len(notices) == len(RENAMED)


@pytest.mark.parametrize("old", RENAMED)
def test_the_earlier_and_todays_name_together_are_an_error(old: str) -> None:
    for names in ((old, RENAMED[old]), (RENAMED[old], old)):
        values: dict[str, Any] = {"evaluation_strategy": "epoch", "gradient_checkpointing": True, "warmup_ratio": 0.1}
        value = {} if old.endswith("kwargs") else values.get(old, 1)
        with pytest.raises(RecipeError) as caught:
            recipe(**dict.fromkeys(names, value))
        (finding,) = caught.value.findings
        assert finding.place == f"training.{old}" and f"both {old} and {RENAMED[old]}" in finding.found


@pytest.mark.parametrize("value", [1, 1.0, 10, -0.1, "0.1", None, True])
def test_a_warmup_ratio_that_is_no_share_is_not_read_as_steps(value: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(warmup_ratio=value)
    (finding,) = caught.value.findings
    assert finding.place == "training.warmup_ratio" and "share" in finding.expected


def test_a_wrong_value_under_an_earlier_name_is_placed_where_it_stands(tmp_path: Path) -> None:
    text = "task: text-classification\nmodel: {name: m}\ndataset: {path: p}\n"
    (tmp_path / "r.yaml").write_text(f"{text}training:\n  seeds: 1\n  evaluation_strategy: 3\n")
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tmp_path / "r.yaml")
    assert [finding.place.rpartition("r.yaml:")[2] for finding in caught.value.findings] == [
        "5:3 training.seeds",
        "6:3 training.eval_strategy",
    ]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("learnin_rate", "learning_rate"),
        ("num_train_epoch", "num_train_epochs"),
        ("eval_stratgy", "eval_strategy"),
        ("warm_up_steps", "warmup_steps"),
        *COMMON.items(),
    ],
)
def test_a_misspelt_field_is_answered_with_the_nearest(key: str, near: str) -> None:
    problem = problem_with(key, 1)
    assert problem is not None and problem["fix"] == f"did you mean {near!r}?"


def test_a_field_near_nothing_is_not_answered_with_a_hundred_names() -> None:
    problem = problem_with("zzz", 1)
    assert problem is not None and len(problem["fix"]) < 100


# --- values


@pytest.mark.parametrize(
    ("key", "value", "expected", "fix"),
    [
        ("learning_rate", "1e-4", "a number", "leave out the quotes"),
        ("learning_rate", True, "a number", ""),
        ("learning_rate", None, "a number", ""),
        ("learning_rate", [1e-4], "a number", ""),
        ("learning_rate", float("nan"), "a finite number", ""),
        ("learning_rate", float("inf"), "a finite number", ""),
        ("learning_rate", -1e-4, "at least 0", ""),
        ("num_train_epochs", "3", "a number", "leave out the quotes"),
        ("num_train_epochs", -1, "at least 0", ""),
        ("max_steps", 1e3, "a whole number", "write 1000"),
        ("max_steps", 10.5, "a whole number", ""),
        ("max_steps", "many", "a whole number", ""),
        ("per_device_train_batch_size", 0, "at least 1", ""),
        ("per_device_eval_batch_size", -8, "at least 1", ""),
        ("gradient_accumulation_steps", 0, "at least 1", ""),
        ("dataloader_pin_memory", "yes", "true or false", "write true"),
        ("dataloader_pin_memory", "off", "true or false", "write false"),
        ("dataloader_pin_memory", 1, "true or false", ""),
        ("liger_kernel_config", True, "keys and values", ""),
        ("trackio_static_space_id", True, "text or nothing or false", ""),
        ("lr_scheduler_type", "cosin", "a value that lr_scheduler_type has", "did you mean 'cosine'?"),
        ("lr_scheduler_type", 3, "text", ""),
        ("lr_scheduler_kwargs", [1], "keys and values or text", ""),
        ("optim", "adamm", "a value that optim has", "did you mean 'adam'?"),
        ("optim_args", ["momentum=0.9"], "text", ""),
        ("eval_strategy", "epochs", "a value that eval_strategy has", "did you mean 'epoch'?"),
        ("save_strategy", "bets", "a value that save_strategy has", "did you mean 'best'?"),
        ("report_to", 3, "text or a list", ""),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error(key: str, value: Any, expected: str, fix: str) -> None:
    problem = problem_with(key, value)
    assert problem is not None
    assert expected in problem["expected"] and problem["found"]
    assert fix in problem.get("fix", "") and bool(fix) == bool(problem.get("fix", ""))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 1),
        ("learning_rate", 0),
        ("num_train_epochs", 0.5),
        ("warmup_steps", 0.1),
        ("max_steps", -1),
        ("weight_decay", 0),
        ("tf32", None),
        ("report_to", "none"),
        ("report_to", ["tensorboard"]),
        ("lr_scheduler_kwargs", {"num_cycles": 2}),
        ("optim", "sgd"),
        ("optim", "adamw_torch"),
        ("optim_args", "momentum=0.9"),
        ("optim_args", {"momentum": 0.9}),
        ("optim_args", None),
        ("save_strategy", "best"),
        ("trackio_static_space_id", False),
        ("liger_kernel_config", {"rope": True}),
    ],
)
def test_a_value_of_the_right_kind_is_accepted(key: str, value: Any) -> None:
    assert problem_with(key, value) is None
    assert recipe(**{key: value}).training == {key: value}


def test_training_arguments_take_every_value_of_the_enumerations() -> None:
    """What the check lets through, transformers does not refuse: else it would be found after the model is loaded."""
    for key, kind in (("lr_scheduler_type", SchedulerType), ("eval_strategy", IntervalStrategy)):
        assert all(kind(value) for value in enumerations()[kind.__name__])
        assert problem_with(key, enumerations()[kind.__name__][0]) is None
