"""Reading recipes: a file or plain values, overrides, and all mistakes in one report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hf_sft import recipe as schema
from hf_sft import secrets, training_keys
from hf_sft.errors import Finding, RecipeError, describe_value, nearest
from hf_sft.recipe_mistakes import findings_of, place_of
from hf_sft.recipe_sense import problems_across_sections
from hf_sft.yaml12 import MAX_DEPTH, Places, parse, unwritable

COMMAND_LINE = "command line"  # the place of every override
MAX_SIZE = 1_000_000  # bytes; YAML of that size takes seconds to read
MAX_FINDINGS, MAX_TEXT = 50, 1000  # mistakes that are told, characters of each of their parts


def bundled_recipes() -> list[str]:
    """Names that `bundled:<name>` accepts."""
    return sorted(
        file.name.removesuffix(".yaml") for file in _bundled_folder().iterdir() if file.name.endswith(".yaml")
    )


def _bundled_folder() -> Path:
    inside = Path(str(resources.files("hf_sft"))) / "recipes"  # as the wheel carries them
    return inside if inside.is_dir() else inside.parents[1] / "recipes"  # as a clone has them


def load(path: str | Path, overrides: Sequence[str] = ()) -> schema.Recipe:
    """Read a recipe file; `Recipe.load` describes it."""
    name = str(path)
    if name.startswith("bundled:"):
        bundled = name.removeprefix("bundled:")
        if bundled not in bundled_recipes():
            raise RecipeError(
                Finding(place=name, expected="a bundled recipe", found=bundled, fix=nearest(bundled, bundled_recipes()))
            )
        path = _bundled_folder() / f"{bundled}.yaml"
    from_hub = name.startswith("hub:")
    if from_hub:
        from hf_sft.hub.fetch import fetch_recipe

        path = fetch_recipe(name, MAX_SIZE)
    try:
        text = _read(Path(path), name)
    except UnicodeDecodeError as error:
        found, fix = f"byte {error.start} is not UTF-8", "save the file as UTF-8"
        raise RecipeError(Finding(place=name, expected="a recipe in YAML", found=found, fix=fix)) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        fix = "name a recipe file, or one of bundled:" + ", bundled:".join(bundled_recipes())
        found = getattr(error, "strerror", None) or str(error)
        raise RecipeError(Finding(place=name, expected="a recipe in YAML", found=found, fix=fix)) from error
    content, places, findings = parse(text, lambda line, column: f"{name}:{line}:{column}")
    folder = Path(path).resolve().parent
    if from_hub:  # it has no folder of its own: what it names is looked for where the command is given
        folder = Path.cwd()
        content, refused = _of_a_stranger(content, overrides, places)
        findings = [*findings, *refused]
    return build(content, overrides, folder=folder, places=places, earlier=findings)


def _of_a_stranger(content: Any, overrides: Sequence[str], places: Places) -> tuple[Any, list[Finding]]:
    """A recipe from the Hub without what was its author's own, and what it may not say."""
    from hf_sft.hub.fetch import outside, own_part

    if not isinstance(content, dict):
        return content, []
    given = [tuple(override.partition("=")[0].strip().split(".")) for override in overrides]
    content = own_part(content)
    findings = [
        Finding(place=place_of(path, places), **problem)
        for path, problem in outside(content)
        if not any(path[: len(keys)] == keys for keys in given)
    ]
    return content, findings


def _read(file: Path, name: str) -> str:
    """The text of the file; of one that can be no recipe (data, a device) only so much is read as shows that."""
    with file.open("rb") as stream:
        content = stream.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        found, fix = f"more than {MAX_SIZE:,} bytes", "name the recipe; data are named inside it, in dataset.path"
        raise RecipeError(Finding(place=name, expected="a recipe in YAML", found=found, fix=fix))
    return content.decode("utf-8-sig")


def build(
    content: Any,
    overrides: Sequence[str] = (),
    *,
    folder: Path,
    places: Places | None = None,
    earlier: Sequence[Finding] = (),
) -> schema.Recipe:
    """A recipe from plain values and `key.sub=value` overrides. Raises RecipeError naming every mistake."""
    places, findings = dict(places or {}), list(earlier)
    if not isinstance(content, dict):
        findings.append(
            Finding(
                place=places.get((), "recipe"),
                expected="keys and values (task, model, dataset, ...)",
                found=describe_value(content),
            )
        )
        raise RecipeError(_told(findings))
    if not places and (unusable := list(_unwritable(content))):  # from Python: a file has been looked at already
        raise RecipeError(_told(unusable))
    content = _apply(content, overrides, places, findings)
    notices: list[str] = []
    if isinstance(content.get("training"), dict):
        training, notices = training_keys.translate(content["training"])
        content = {**content, "training": training}
        for old, new in training_keys.RENAMED.items():
            if ("training", old) in places and old not in training:
                places[("training", new)] = places[("training", old)]
    for path, problem in (*problems_across_sections(content), *secrets.problems_in(content)):
        findings.append(Finding(place=place_of(path, places), **problem))
    try:
        recipe = schema.Recipe.model_validate(content)
    except ValidationError as error:
        findings += findings_of(error, content, places)
    if findings:
        raise RecipeError(_told(findings)) from None
    recipe._folder, recipe._notices = folder, tuple(notices)
    return recipe


def _unwritable(value: Any, path: tuple[str, ...] = ()) -> Iterator[Finding]:
    """What no recipe file can hold, wherever it stands in these values."""
    problem = f"more than {MAX_DEPTH} levels" if len(path) > MAX_DEPTH else unwritable(value)
    if problem:
        yield Finding(place=".".join(path) or "recipe", expected="what a recipe file can hold", found=problem)
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield from _unwritable(key, (*path, "a key"))
            yield from () if unwritable(key) else _unwritable(inside, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for position, inside in enumerate(value):
            yield from _unwritable(inside, (*path, str(position)))


def _told(findings: Sequence[Finding]) -> list[Finding]:
    """Each mistake once, in the order of the file; what goes on without end is cut."""
    told = sorted(dict.fromkeys(map(_cut, findings)), key=_by_place)
    more = Finding(place=f"and {len(told) - MAX_FINDINGS:,} more mistakes")
    return [*told[:MAX_FINDINGS], more] if len(told) > MAX_FINDINGS else told


def _cut(finding: Finding) -> Finding:
    parts = {part: secrets.mask(text) for part, text in vars(finding).items()}
    parts = {part: f"{text[:MAX_TEXT]}..." if len(text) > MAX_TEXT else text for part, text in parts.items()}
    return replace(finding, **parts)


def _by_place(finding: Finding) -> tuple[str, int, int]:
    """The order of the file; other places first."""
    match = re.match(r"(.*?):(\d{1,9}):(\d{1,9})", finding.place)
    return (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)


def _apply(
    content: dict[str, Any], overrides: Sequence[str], places: Places, findings: list[Finding]
) -> dict[str, Any]:
    """The content with every override in it; `places` and `findings` are brought up to date."""
    for override in overrides:
        dotted, sign, text = override.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not sign or not all(keys) or len(keys) > MAX_DEPTH:
            fix = "no spaces around = ; quote what the shell would split" if not sign else ""
            findings.append(Finding(place=COMMAND_LINE, expected="key=value or key.sub=value", found=override, fix=fix))
            continue
        try:
            value, inside, repeated = parse(text, lambda line, column: COMMAND_LINE)
        except RecipeError as error:
            findings += [replace(finding, place=f"{COMMAND_LINE} {dotted}") for finding in error.findings]
            continue
        findings += [replace(finding, place=f"{COMMAND_LINE} {dotted}") for finding in repeated]
        content = _with(_without_synonyms(content, keys), keys, value)
        for path in [path for path in places if path[: len(keys)] == keys]:
            del places[path]  # what the file said there is replaced
        for length in range(1, len(keys)):
            places.setdefault(keys[:length], COMMAND_LINE)
        places |= {(*keys, *path): place for path, place in inside.items()}
    return content


def _without_synonyms(content: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """training.warmup_steps on the command line replaces a file's training.warmup_ratio, its earlier name."""
    training = content.get("training")
    if keys[0] != "training" or len(keys) == 1 or not isinstance(training, dict):
        return content
    today = training_keys.RENAMED.get(keys[1], keys[1])
    kept = {
        key: value for key, value in training.items() if key == keys[1] or training_keys.RENAMED.get(key, key) != today
    }
    return {**content, "training": kept}


def _with(content: Any, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    content = dict(content) if isinstance(content, dict) else {}
    key = next((known for known in content if str(known) == keys[0]), keys[0])  # label_map has numbers for keys
    content[key] = value if len(keys) == 1 else _with(content.get(key), keys[1:], value)
    return content
