"""Laws of the recipe's JSON Schema: it takes what the loader takes, and refuses what an editor can know to be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from record_fixture import make_recipe

from hf_sft import recipe_file
from hf_sft.commands.schema import DEFAULTS, TRAINING, as_text, recipe_schema
from hf_sft.errors import RecipeError
from hf_sft.recipe import METRIC_NAMES, ROLES, Recipe
from hf_sft.training_keys import OWNED, RENAMED, training_fields
from hf_sft.yaml12 import parse

ROOT = Path(__file__).parents[2]
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), *sorted((ROOT / "benchmarks" / "recipes").glob("*.yaml"))]
LEAST = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}


def mistakes(content: Any) -> list[str]:
    """What the schema refuses; keys as JSON has them, all text."""
    found = Draft202012Validator(recipe_schema()).iter_errors(json.loads(json.dumps(content)))
    return [f"{error.json_path}: {error.message}" for error in found]


def loads(content: dict[str, Any]) -> bool:
    try:
        Recipe.from_dict(content)
    except RecipeError:
        return False
    return True


def changed(**changes: Any) -> dict[str, Any]:
    """The least recipe with sections merged and other keys replaced; a key set to ... is left out."""
    content: dict[str, Any] = {**LEAST}
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return {key: value for key, value in content.items() if value is not ...}


def test_schema_is_a_valid_one() -> None:
    Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_fits(path: Path) -> None:
    content, _, _ = parse(path.read_text(encoding="utf-8"), lambda line, column: f"{line}:{column}")
    assert mistakes(content) == []
    assert mistakes(Recipe.load(path).to_dict()) == []  # with every key written out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_names_its_schema(path: Path) -> None:
    key, _, name = path.read_text(encoding="utf-8").splitlines()[0].partition("$schema=")
    assert key == "# yaml-language-server: "
    assert (path.parent / name).resolve() == ROOT / "recipes" / "recipe.schema.json"


@pytest.mark.parametrize(
    "content",
    [
        changed(),
        make_recipe(),
        changed(processor=None, tuning=None, training=None, metrics=None, early_stopping=None, run=None),
        changed(dataset={"columns": None, "splits": None, "options": None, "max_samples": None}),
        changed(dataset={"columns": {"text": ["title", "body"], "text_pair": "b", "label": "c"}}),
        changed(dataset={"splits": {"train": "train[:80%]", "validation": None}, "max_samples": {"train": 5}}),
        changed(dataset={"label_map": {1: "negative", "2": None, "3": 4}, "labels": ["a", "b"]}),
        changed(dataset={"data_files": {"train": ["a.csv", "b.csv"], "test": "c.csv"}, "problem": "multi_label"}),
        changed(task="image-classification", dataset={"columns": {"image": "img"}}, processor={"size": 64}),
        changed(processor={"size": None, "max_length": 12}),
        changed(metrics=["accuracy", "evaluate:f1", "evaluate:./mine.py", "function:own"]),
        changed(training={"learning_rate": 1e-4, "num_train_epochs": 2, "optim": "adam", "optim_args": {"eps": 1e-6}}),
        changed(training={"optim": "sgd", "optim_args": "momentum=0.9", "report_to": ["tensorboard"]}),
        changed(training={"evaluation_strategy": "epoch", "warmup_ratio": 0.1, "gradient_checkpointing": True}),
        changed(training={"trackio_static_space_id": False, "save_total_limit": None, "debug": ["underflow_overflow"]}),
        changed(run={"workers": 0, "precision": "bf16"}, resume="never", seed=0, objective={"label_smoothing": 0}),
        changed(objective={"class_weights": "balanced", "focal_gamma": 2, "mixup": None}),
        changed(
            objective={"class_weights": {"a": 2, "b": 0.5}, "label_smoothing": 0.1}, dataset={"sampling": "natural"}
        ),
        changed(task="image-classification", objective={"mixup": 0.2, "cutmix": 1}, dataset={"sampling": "balanced"}),
        changed(early_stopping={}, model={"config": {"hidden_dropout_prob": 0.0}}),
    ],
)
def test_right_recipes_load_and_fit(content: dict[str, Any]) -> None:
    assert loads(content)
    assert mistakes(content) == []


@pytest.mark.parametrize(
    "content",
    [
        changed(dataset=...),
        changed(model={"name": ""}),
        changed(task="text-clasification"),
        changed(learning_rate=1e-4),
        changed(model={"nam": "m"}),
        changed(dataset={"columns": {"txt": "a"}}),
        changed(dataset={"columns": {"image": "a"}}),
        changed(dataset={"columns": {"text": []}}),
        changed(dataset={"columns": {"text": None}}),
        changed(dataset={"splits": {"dev": "dev"}}),
        changed(dataset={"max_samples": {"train": 0}}),
        changed(dataset={"max_samples": {"dev": 3}}),
        changed(dataset={"validation_fraction": 1}),
        changed(dataset={"problem": "single"}),
        changed(dataset={"streaming": "yes"}),
        changed(dataset={"label_map": {"1": ["a"]}}),
        changed(processor={"size": 64}),
        changed(processor={"max_length": "128"}),
        changed(task="image-classification", processor={"max_length": 128}),
        changed(task="image-classification", processor={"image_mean": [0.5]}),
        changed(tuning={"strategy": "lore"}),
        changed(tuning={"strategy": "lora", "lora": {"rank": 0}}),
        changed(objective={"label_smoothing": 1}),
        changed(objective={"class_weights": "balance"}),
        changed(objective={"class_weights": {"a": 0}}),
        changed(objective={"class_weights": ["a"]}),
        changed(objective={"focal_gamma": -1}),
        changed(task="image-classification", objective={"mixup": 0}),
        changed(task="image-classification", objective={"cutmix": True}),
        changed(dataset={"sampling": "even"}),
        changed(metrics=["acuracy"]),
        changed(metrics=["evaluate:"]),
        changed(metrics="accuracy"),
        changed(training={"learnin_rate": 1e-4}),
        changed(training={"learning_rate": "1e-4"}),
        changed(training={"learning_rate": -1}),
        changed(training={"num_train_epochs": True}),
        changed(training={"per_device_train_batch_size": 0}),
        changed(training={"per_device_train_batch_size": 1.5}),
        changed(training={"eval_strategy": "epochs"}),
        changed(training={"optim": "adamw"}),
        changed(training={"warmup_ratio": 1}),
        changed(training={"seed": 1}),
        changed(training={"group_by_length": True}),
        changed(training={"logging_steps": None}),
        changed(training={"trackio_static_space_id": True}),
        changed(training=["learning_rate"]),
        changed(early_stopping={"patience": 0}),
        changed(run={"precision": "fp8"}),
        changed(run={"workers": -1}),
        changed(resume=True),
        changed(seed=-1),
        changed(output_dir=""),
    ],
)
def test_wrong_recipes_neither_load_nor_fit(content: dict[str, Any]) -> None:
    assert not loads(content)
    assert mistakes(content)


def properties(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in schema.get("properties", {}).items():
        yield f"{place}{name}", value
        yield from properties(value, f"{place}{name}.")


def test_every_key_is_described() -> None:
    roles = ("dataset.splits.", "dataset.max_samples.")  # the keys are the three splits
    silent = [
        name
        for name, schema in properties(recipe_schema())
        if not schema.get("description") and not name.startswith(roles)
    ]
    assert not silent, f"give these a description= in hf_sft/recipe.py: {silent}"


def test_unknown_keys_are_errors_in_every_section() -> None:
    open_ = {
        name
        for name, schema in properties(recipe_schema())
        if "object" in schema.get("type", ()) and not name.startswith("training.") and schema["additionalProperties"]
    }
    assert open_ == {"model.config", "dataset.options", "dataset.label_map", "dataset.label_colors"}


def test_training_has_the_fields_that_a_recipe_may_set() -> None:
    training = recipe_schema()["properties"]["training"]
    assert set(training["properties"]) == (set(training_fields()) - set(OWNED)) | set(RENAMED)
    assert all(schema.get("deprecated") for name, schema in training["properties"].items() if name in RENAMED)
    assert set(TRAINING) <= set(training["properties"])


def test_metrics_and_roles_are_offered_by_name() -> None:
    schema = recipe_schema()["properties"]
    assert schema["metrics"]["items"]["anyOf"][0] == {"enum": list(METRIC_NAMES)}
    columns = schema["dataset"]["properties"]["columns"]["properties"]
    assert set(columns) == {role for roles in ROLES.values() for role in roles}


def test_training_defaults_are_those_of_a_run() -> None:
    from hf_sft.training import arguments

    assert arguments.DEFAULTS == DEFAULTS


def test_file_for_editors_is_the_schema() -> None:
    """But for the fields of TrainingArguments, which follow the installed transformers."""
    written = json.loads((ROOT / "recipes" / "recipe.schema.json").read_text(encoding="utf-8"))
    now = json.loads(as_text())
    for schema in (written, now):
        assert schema["properties"]["training"].pop("properties")
    assert written == now, "the recipe has changed; run: hf-sft schema > recipes/recipe.schema.json"


def test_file_for_editors_is_no_recipe() -> None:
    assert (recipe_file._bundled_folder() / "recipe.schema.json").is_file()
    assert not any("schema" in name for name in recipe_file.bundled_recipes())
