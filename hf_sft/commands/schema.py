"""The recipe as a JSON Schema, for editors that complete and check YAML: what the loader knows, said in that language.

Whatever the loader takes, the schema takes. The loader knows more: keys that need each other, 3.0 where 3 is meant, and
all that needs data, a model or a machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from hf_sft import recipe, training_keys
from hf_sft.recipe import PROCESSOR_KEYS, ROLES, Processor, Recipe

Schema = dict[str, Any]

# What the recipe's own checks of single values mean in JSON Schema.
CHECKED: Mapping[Any, Schema] = {
    recipe._known_metric: {
        "anyOf": [
            {"enum": list(recipe.METRIC_NAMES)},
            {"type": "string", "pattern": "^(evaluate|function):.", "description": "evaluate:<id> | function:<name>"},
        ]
    },
    recipe._split_role: {"enum": list(recipe.SPLIT_ROLES)},
}
COLUMNS = {  # role -> what its column holds
    "text": "one column, or a list of columns joined line by line",
    "text_pair": "the second text of a pair",
    "image": "images, or paths of image files",
    "label": "what is to be predicted",
}
SAMPLES: dict[str, Any] = {  # type in JSON -> a value of it
    "null": None, "boolean": True, "number": 1.5, "integer": 1, "string": "text", "array": [], "object": {},
}  # fmt: skip
TRAINING = {  # the fields that recipes set most
    "learning_rate": "absent: from a table by family and strategy, printed at the start",
    "num_train_epochs": "passes over the training rows",
    "max_steps": "steps in place of epochs; needed when streaming",
    "per_device_train_batch_size": "rows per step and device",
    "per_device_eval_batch_size": "rows at once when evaluating",
    "gradient_accumulation_steps": "batches whose gradients are added up before a step",
    "optim": "adam and sgd mean what PyTorch means; the rest are names of transformers",
    "optim_args": "settings of the optimizer: {momentum: 0.9}",
    "weight_decay": "not applied to biases and normalisation",
    "lr_scheduler_type": "how the learning rate goes on after the warm-up",
    "lr_scheduler_kwargs": "settings of the schedule",
    "warmup_steps": "steps of rising learning rate; below 1: a share of all steps",
    "max_grad_norm": "gradients are clipped at this norm; 0: not clipped",
    "eval_strategy": "when to look at validation; absent: after each epoch",
    "eval_steps": "steps between two evaluations, with eval_strategy: steps",
    "save_strategy": "when to save a checkpoint; absent: after each epoch",
    "save_steps": "steps between two checkpoints, with save_strategy: steps",
    "save_total_limit": "checkpoints kept; absent: 2",
    "logging_steps": "steps between two entries of the history; absent: four an epoch or more",
    "activation_checkpointing": "less memory, more time: activations are computed again in the backward pass",
    "full_determinism": "the same numbers on a GPU at each run, more slowly",
    "report_to": "experiment trackers, by name; absent: none",
    "run_name": "what trackers call the run",
    "torch_compile": "compile the model before training",
}
DEFAULTS = {  # where training is silent; those of hf_sft.training.arguments, which needs torch
    "num_train_epochs": 3, "per_device_train_batch_size": 32, "per_device_eval_batch_size": 64, "weight_decay": 0.01,
    "warmup_steps": 0.1, "lr_scheduler_type": "linear", "max_grad_norm": 1.0, "gradient_accumulation_steps": 1,
}  # fmt: skip


def recipe_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a recipe; `training` has the fields of the installed TrainingArguments."""
    schema = Recipe.model_json_schema(schema_generator=_Generator)
    schema = _flatten(schema, schema.pop("$defs", {}))
    sections = schema["properties"]
    sections["training"] |= {"properties": _training_properties(), "additionalProperties": False}
    columns = sections["dataset"]["properties"]["columns"]
    values = columns["additionalProperties"]
    roles = dict.fromkeys(role for names in ROLES.values() for role in names)
    columns["properties"] = {role: {"description": COLUMNS.get(role, role), **values} for role in roles}
    columns["additionalProperties"] = False
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hf-sft recipe"}
    return {**head, **schema, "allOf": [_of_task(task) for task in ROLES]}


def as_text() -> str:
    """The schema as `hf-sft schema` prints it and recipes/recipe.schema.json holds it."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False)


class _Generator(GenerateJsonSchema):
    """Pydantic's schema, with the recipe's own checks and the keys that may be left empty."""

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> Schema:
        known = CHECKED.get(schema["function"]["function"])
        return dict(known) if known else super().function_after_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        found = super().dict_schema(schema)
        names = self.generate_inner(schema["keys_schema"]).get("enum") if "keys_schema" in schema else None
        if names:
            found.pop("propertyNames", None)
            found["properties"] = dict.fromkeys(names, found["additionalProperties"])
            found["additionalProperties"] = False
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        """`processor:` with nothing after it is an empty section; so with lists."""
        found = super().model_schema(schema)
        for name, field in schema["cls"].model_fields.items():
            default = None if field.is_required() else field.get_default()
            if isinstance(default, (BaseModel, dict, list)):
                value = found["properties"][name]
                outside = {key: value.pop(key) for key in ("default", "description") if key in value}
                if isinstance(default, BaseModel):
                    outside.pop("default", None)  # editors would write the whole section out
                found["properties"][name] = {"anyOf": [value, {"type": "null"}], **outside}
        return found


def _flatten(node: Any, definitions: Mapping[str, Schema]) -> Any:
    """Sections written where they stand, no titles, `type: [string, null]` for a value that may be null."""
    if isinstance(node, list):
        return [_flatten(entry, definitions) for entry in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        outside = {key: value for key, value in node.items() if key != "$ref"}
        return _flatten(definitions[node["$ref"].rpartition("/")[2]] | outside, definitions)
    found = {key: _flatten(value, definitions) for key, value in node.items() if key not in ("title", "properties")}
    if "properties" in node:
        found["properties"] = {name: _flatten(value, definitions) for name, value in node["properties"].items()}
    others = [option for option in found.get("anyOf", ()) if option != {"type": "null"}]
    if len(others) == 1 and isinstance(others[0].get("type"), str):
        found = others[0] | {key: value for key, value in found.items() if key != "anyOf"}
        found["type"] = [found["type"], "null"]
        known = [found.pop("const")] if "const" in found else found.get("enum")
        found |= {"enum": [*known, None]} if known else {}
    return found


def _training_properties() -> Schema:
    fields = [key for key in training_keys.training_fields() if key not in training_keys.OWNED]
    found = {key: _training_field(key) for key in fields if key not in training_keys.RENAMED}
    for old, new in training_keys.RENAMED.items():
        found[old] = found[new] | {"description": f"earlier name of {new}", "deprecated": True}
        found[old].pop("default", None)
    found["warmup_ratio"]["exclusiveMaximum"] = 1
    return found


def _training_field(key: str) -> Schema:
    """What the loader takes for that field, found by asking it."""
    description = TRAINING.get(key, f"{key} of transformers.TrainingArguments")
    annotation = training_keys.training_fields()[key]
    words = [word for name in annotation.split(" | ") for word in training_keys.enumerations().get(name, ())]
    words = list(dict.fromkeys([*words, *(training_keys.OPTIMIZERS if key == "optim" else ())]))
    samples = SAMPLES | ({"string": words[0]} if words else {})
    kinds = [kind for kind, sample in samples.items() if training_keys.problem_with(key, sample) is None]
    if "number" in kinds:
        kinds.remove("integer")
    found: Schema = {"type": kinds[0] if len(kinds) == 1 else kinds, "description": description}
    if words and set(kinds) <= {"string", "null"}:
        found["enum"] = words + [None] * ("null" in kinds)
    if "boolean" not in kinds and training_keys.problem_with(key, False) is None:
        found = {"anyOf": [{"type": kinds}, {"const": False}], "description": description}
    if key in training_keys.LEAST:
        found["minimum"] = training_keys.LEAST[key]
    return found | ({"default": DEFAULTS[key]} if key in DEFAULTS else {})


def _of_task(task: str) -> Schema:
    """Columns and settings of the processor that only another task has."""
    columns = {"propertyNames": {"enum": list(ROLES[task])}}
    others = {key: {"type": "null"} for key in Processor.model_fields if key not in PROCESSOR_KEYS[task]}
    return {
        "if": {"properties": {"task": {"const": task}}, "required": ["task"]},
        "then": {
            "properties": {
                "dataset": {"properties": {"columns": columns}},
                "processor": {"properties": others},
            }
        },
    }
