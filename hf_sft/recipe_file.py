"""Reading recipes: YAML 1.2 with the place of every key, overrides, and all mistakes in one report."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hf_sft import recipe as schema
from hf_sft import training_keys
from hf_sft.errors import Finding, RecipeError, nearest

Places = dict[tuple[str | int, ...], str]  # path of keys -> "file:line:column"


class _Yaml12Loader(yaml.SafeLoader):
    """Scalars by the core schema of YAML 1.2: `2e-5` is a number, `no` and `12:30` are words."""


_Yaml12Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),  # noqa: E501
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):  # fmt: skip
    _Yaml12Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first] + ([""] if _tag == "null" else [])
    )


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 8) if text.startswith("0o") else int(text, 16) if text.startswith("0x") else int(text)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def bundled_recipes() -> list[str]:
    """Names that `bundled:<name>` accepts."""
    return sorted(
        file.name.removesuffix(".yaml") for file in _bundled_folder().iterdir() if file.name.endswith(".yaml")
    )


def _bundled_folder() -> Path:
    inside = Path(str(resources.files("hf_sft"))) / "recipes"  # as the wheel carries them
    return inside if inside.is_dir() else inside.parents[1] / "recipes"  # as a clone has them


def load(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> schema.Recipe:
    """Read a recipe file; `Recipe.load` describes it."""
    name = str(path)
    if name.startswith("bundled:"):
        bundled = name.removeprefix("bundled:")
        if bundled not in bundled_recipes():
            raise RecipeError(
                Finding(place=name, expected="a bundled recipe", found=bundled, fix=nearest(bundled, bundled_recipes()))
            )
        path = _bundled_folder() / f"{bundled}.yaml"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fix = "name a recipe file, or one of bundled:" + ", bundled:".join(bundled_recipes())
        raise RecipeError(Finding(place=name, expected="a recipe in YAML", found=_reason(error), fix=fix)) from error
    content, places, findings = _parse(text, name)
    return build(content, overrides, folder=Path(path).resolve().parent, places=places, earlier=findings)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "text that is not UTF-8"


def build(
    content: Any,
    overrides: tuple[str, ...] | list[str] = (),
    *,
    folder: Path,
    places: Places | None = None,
    earlier: list[Finding] | None = None,
) -> schema.Recipe:
    """A recipe from plain values and `key.sub=value` overrides. Raises RecipeError naming every mistake."""
    places, findings = dict(places or {}), list(earlier or [])
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        findings.append(
            Finding(place=places.get((), "recipe"), expected="keys and values (task, model, ...)", found=found)
        )
        raise RecipeError(findings)
    content = _apply(content, overrides, places, findings)
    notices: list[str] = []
    training = content.get("training")
    if isinstance(training, dict):
        training, notices = training_keys.translate(training)
        content = {**content, "training": training}
    elif "training" in content and training is None:
        content = {**content, "training": {}}
    for path, problem in schema.problems_across_sections(content):
        findings.append(Finding(place=_place(path, places), **problem))
    try:
        recipe = schema.Recipe.model_validate(content)
    except ValidationError as error:
        findings += _findings(error.errors(include_url=False), content, places)
    if findings:
        raise RecipeError(sorted(dict.fromkeys(findings), key=_by_place)) from None
    recipe._folder, recipe._notices = folder, tuple(notices)
    return recipe


def _by_place(finding: Finding) -> tuple[str, int, int]:
    """The order of the file; other places first."""
    match = re.match(r"(.*?):(\d+):(\d+)", finding.place)
    return (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)


def _parse(text: str, name: str) -> tuple[Any, Places, list[Finding]]:
    places: Places = {(): f"{name}:1:1"}
    findings: list[Finding] = []
    loader = _Yaml12Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, places, findings
        _note_places(root, (), name, places, findings, depth=0)
        return loader.construct_document(root), places, findings
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        found = getattr(error, "problem", None) or str(error) or "nesting without end"
        raise RecipeError(Finding(place=place, expected="YAML", found=found)) from None
    finally:
        loader.dispose()


def _note_places(
    node: yaml.Node, path: tuple[str | int, ...], name: str, places: Places, findings: list[Finding], depth: int
) -> None:
    if depth > 50:
        raise RecursionError("more than 50 levels of nesting")
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            where = (*path, key.value if isinstance(key, yaml.ScalarNode) else "?")
            place = f"{name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            places[where] = place
            if where in seen:
                findings.append(Finding(place=f"{place} {_dotted(where)}", expected="each key once", found="it twice"))
            seen.add(where)
            _note_places(value, where, name, places, findings, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*path, index)] = f"{name}:{value.start_mark.line + 1}:{value.start_mark.column + 1}"
            _note_places(value, (*path, index), name, places, findings, depth + 1)


def _apply(content: dict[str, Any], overrides: Any, places: Places, findings: list[Finding]) -> dict[str, Any]:
    for override in overrides:
        dotted, sign, text = override.partition("=")
        keys = tuple(dotted.strip().split("."))
        place = "command line"
        if not sign or not all(keys):
            findings.append(Finding(place=place, expected="key=value or key.sub=value", found=override))
            continue
        try:
            value = yaml.load(text, Loader=_Yaml12Loader)  # a SafeLoader
        except (yaml.YAMLError, ValueError) as error:
            findings.append(
                Finding(place=place, expected="a YAML value", found=f"{text!r}: {getattr(error, 'problem', error)}")
            )
            continue
        content = _with(content, keys, value)
        for length in range(1, len(keys) + 1):
            places.setdefault(keys[:length], place)
        places[keys] = place
    return content


def _with(content: Any, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    content = dict(content) if isinstance(content, dict) else {}
    content[keys[0]] = value if len(keys) == 1 else _with(content.get(keys[0]), keys[1:], value)
    return content


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def _place(path: tuple[str | int, ...], places: Places) -> str:
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return f"{places[path[:length]]} {_dotted(path)}".rstrip()
    return _dotted(path) or "recipe"


def _findings(details: list[ErrorDetails], content: Any, places: Places) -> list[Finding]:
    """One finding per place: the branches of a union are alternatives, not separate mistakes."""
    by_place: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in details:
        named = detail["type"] in ("extra_forbidden", "missing")
        path = tuple(detail["loc"]) if named else _known_part(tuple(detail["loc"]), content)
        by_place.setdefault(path, []).append(detail)
    return [_finding(path, alternatives, places) for path, alternatives in by_place.items()]


def _finding(path: tuple[str | int, ...], alternatives: list[ErrorDetails], places: Places) -> Finding:
    place, first = _place(path, places), alternatives[0]
    kind, context = first["type"], first.get("ctx") or {}
    if kind == "extra_forbidden":
        fix = nearest(str(path[-1]), _keys_beside(path))
        return Finding(place=place, expected="a key of the recipe", found=str(path[-1]), fix=fix)
    if kind == "missing":
        return Finding(place=place, expected="this key, it has no default", found="nothing")
    if kind == "recipe":
        return Finding(place=place, expected=context["expected"], found=context["found"], fix=context["fix"])
    found = first["input"]
    fix = ""
    if kind == "literal_error" and isinstance(found, str):
        fix = nearest(found, re.findall(r"'([^']*)'", context["expected"]))
    expected = " or ".join(dict.fromkeys(map(_expected, alternatives)))
    return Finding(place=place, expected=expected, found=f"{found!r} ({type(found).__name__})", fix=fix)


def _expected(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Input should be ").replace("valid ", "").replace("dictionary", "mapping")
    return message[0].lower() + message[1:]


def _known_part(path: tuple[str | int, ...], content: Any) -> tuple[str | int, ...]:
    """The path without the names of union branches that pydantic appends."""
    for length, part in enumerate(path):
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return path[:length]
    return path


def _keys_beside(path: tuple[str | int, ...]) -> list[str]:
    section: Any = schema.Recipe
    for part in path[:-1]:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        sections = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return list(section.model_fields)
