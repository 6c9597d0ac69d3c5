"""What pydantic says of a recipe, said as findings: the place in the file, what was expected, found, what to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hf_sft import training_keys
from hf_sft.errors import Finding, bare_form, describe_value, nearest
from hf_sft.recipe import ROLES, Recipe
from hf_sft.yaml12 import Places

Path = tuple[str, ...]
LONGEST_EXAMPLE = 80  # characters of a value that is written out as it should be
WORDS = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
}


def findings_of(error: ValidationError, content: Any, places: Places) -> list[Finding]:
    """One finding per place: the branches of a union are alternatives, not separate mistakes."""
    grouped: dict[tuple[Path, bool], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        location = tuple(map(str, detail["loc"]))
        named = detail["type"] in ("extra_forbidden", "invalid_key", "missing")
        path = location if named else _known_part(location, content)
        grouped.setdefault((path, "[key]" in location), []).append(detail)
    deepest = [  # a branch that fits in kind and is wrong inside tells more than the branches that do not fit at all
        (path, alternatives)
        for (path, _), alternatives in grouped.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other, _ in grouped)
        or alternatives[0]["type"] in ("extra_forbidden", "invalid_key", "missing")
    ]
    return [_finding(path, alternatives, place_of(path, places)) for path, alternatives in deepest]


def place_of(path: Sequence[str], places: Places) -> str:
    """Where a key stands, or the nearest section around it, followed by its dotted name."""
    path = tuple(path)
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return f"{places[path[:length]]} {'.'.join(path)}".rstrip()
    return ".".join(path) or "recipe"


def _known_part(location: Path, content: Any) -> Path:
    """The path without the names of union branches that pydantic puts into it."""
    path: Path = ()
    for part in location:
        entries = dict(enumerate(content)) if isinstance(content, list) else content
        keys = [key for key in entries if str(key) == part] if isinstance(entries, dict) else []
        if keys:
            path, content = (*path, part), entries[keys[0]]
    return path


def _finding(path: Path, alternatives: list[ErrorDetails], place: str) -> Finding:
    first = alternatives[0]
    kind, context, value = first["type"], first.get("ctx") or {}, first["input"]
    if kind in ("extra_forbidden", "invalid_key"):
        return Finding(place=place, expected="a key of the recipe", found=path[-1], fix=_other_key(path))
    if kind == "missing":
        return Finding(place=place, expected="this key, it has no default", found="nothing", fix=_purpose(path))
    if kind == "recipe":
        return Finding(place=place, expected=context["expected"], found=context["found"], fix=context["fix"])
    expected = " or ".join(dict.fromkeys(map(_expected, alternatives)))
    if "[key]" in first["loc"]:
        return Finding(place=place, expected=f"a key that is {expected}", found=describe_value(value))
    fix = _other_value({detail["type"] for detail in alternatives}, value, path)
    if kind == "literal_error" and len(alternatives) == 1 and isinstance(value, str):
        fix = nearest(value, re.findall(r"'([^']*)'", context["expected"]))
    return Finding(place=place, expected=expected, found=describe_value(value), fix=fix)


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in WORDS:
        return WORDS[detail["type"]]
    context = detail.get("ctx") or {}
    if detail["type"] in ("too_short", "too_long"):
        at = "at least" if detail["type"] == "too_short" else "at most"
        return f"{at} {context.get('min_length', context.get('max_length'))} entries"
    message = detail["msg"].removeprefix("Input should be ")
    return f"a number {message}" if message.startswith(("greater", "less")) else message[0].lower() + message[1:]


def _other_value(kinds: set[str], value: Any, path: Path) -> str:
    """What to write instead, where the value only has another form than the key takes."""
    field = _field(path)
    if value is None and field is not None and not field.is_required():
        return f"leave the key out for its default, {field.get_default()}"
    if isinstance(value, (dict, list)) or value is None or len(str(value)) > LONGEST_EXAMPLE:
        return ""
    if kinds & {"int_type", "float_type", "bool_type"} and bare_form(value):
        return bare_form(value)
    if "string_type" in kinds:
        return "put it in quotes"
    if "list_type" in kinds:
        return f"write {path[-1]}: [{value}]"
    section = _section(path)
    if "model_type" in kinds and section is not None:
        key, field = next(iter(section.model_fields.items()))
        example = field.get_default() if isinstance(value, bool) and not field.is_required() else value
        if not isinstance(example, bool) and example is not None:
            return f"write {path[-1]}: {{{key}: {example}}}"
        return "its keys: " + ", ".join(section.model_fields)
    return ""


def _other_key(path: Path) -> str:
    """The same key in the section that has it, else the nearest key of this section."""
    key = path[-1]
    if len(path) == 1 and "." in key:
        head, _, rest = key.partition(".")
        return f"a dot is for the command line; in a file write {head}: {{{rest}: ...}}"
    if key == "<<":
        return "YAML 1.2 has no merge keys; write the keys out"
    if elsewhere := [".".join(home) for home in homes(key) if home != path]:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    if len(path) == 1 and key in training_keys.OWNED:  # a field of TrainingArguments that is said in another way
        return training_keys.OWNED[key]
    section = _section(path[:-1])
    return nearest(key, section.model_fields if section else ())


def homes(key: str) -> list[Path]:
    """Where in a recipe a key of that name stands."""
    found: list[Path] = [(key,)] if key in Recipe.model_fields else []
    found += [(name, key) for name in Recipe.model_fields if key in getattr(_section((name,)), "model_fields", {})]
    if any(key in roles for roles in ROLES.values()):
        found.append(("dataset", "columns", key))
    field = training_keys.COMMON.get(key, key)
    if field in training_keys.training_fields() and field not in training_keys.OWNED:
        found.append(("training", field))
    return found


def _purpose(path: Path) -> str:
    section, field = _section(path), _field(path)
    return "its keys: " + ", ".join(section.model_fields) if section else (field and field.description) or ""


def _field(path: Path) -> FieldInfo | None:
    section = _section(path[:-1])
    return section.model_fields.get(path[-1]) if section and path else None


def _section(path: Path) -> type[BaseModel] | None:
    """The section that stands at that path of a recipe; None where there is none."""
    if not path:
        return Recipe
    if path[-1].isdigit():  # an entry of a list of sections
        return _section(path[:-1])
    field = _field(path)
    options = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
