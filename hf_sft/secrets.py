"""Passwords and tokens: a recipe names them by ${VARIABLE}; they are put in where they are used, written nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from hf_sft.errors import EnvironmentProblem, Finding

WORDS = {
    "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PW", "KEY", "KEYS", "APIKEY",
    "CREDENTIAL", "CREDENTIALS", "AUTH", "AUTHORIZATION", "COOKIE",
}  # fmt: skip
SHORTEST = 6  # characters of a value that is looked for in text; shorter ones stand in any text
VARIABLE = re.compile(r"\$\{(\w+)\}")
NAMED = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
PASSWORD = re.compile(r"(\w://[^\s/@:]*:)([^\s/@]+)(?=@)")  # https://me:password@host
PARAMETER = re.compile(r"(?i)([?&][\w-]*(?:token|key|secret|password|signature|sig)=)([^&\s'\"]+)")
TOKEN = re.compile(r"()\b(hf_[A-Za-z0-9]{20,})")
PLACES = (PASSWORD, PARAMETER, TOKEN)  # where text shows that it holds a secret
# Keys whose $VARIABLES are replaced, and saved so; and keys whose words are compared with those of the data.
FOLDERS = {
    ("model", "name"), ("model", "weights"), ("dataset", "path"), ("dataset", "data_files"),
    ("dataset", "options", "data_dir"), ("metrics",), ("output_dir",),
}  # fmt: skip
WORDS_OF_THE_DATA = {("dataset", "labels"), ("dataset", "label_map"), ("dataset", "columns")}
FIX = "set an environment variable and name it, as ${MY_TOKEN}; secrets do not belong in a recipe"

Problem = tuple[tuple[str, ...], dict[str, str]]


def is_secret(name: str) -> bool:
    """Whether a variable or a key of that name holds what nobody should see."""
    return not WORDS.isdisjoint(re.split(r"[^A-Z0-9]+", name.upper()))


def problems_in(content: Any, path: tuple[str, ...] = ()) -> Iterator[Problem]:
    """Secrets that are written out in a recipe, and variables that hold one where the value would be saved."""
    if path[:2] in WORDS_OF_THE_DATA:
        return
    if isinstance(content, dict):
        for key, value in content.items():
            yield from problems_in(value, (*path, str(key)))
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from problems_in(value, path)
    elif isinstance(content, str):
        option, folder = path[:2] == ("dataset", "options"), path[:3] in FOLDERS or path[:2] in FOLDERS
        keyed = option and is_secret(path[-1]) and content and not VARIABLE.fullmatch(content)
        if keyed or any(not VARIABLE.fullmatch(found[2]) for place in PLACES for found in place.finditer(content)):
            yield path, {"expected": "no secret", "found": "one", "fix": FIX}
        elif folder and "://" not in content:
            names = [one or other for one, other in NAMED.findall(content) if is_secret(one or other)]
            if names:
                expected = "variables that name folders: what they hold is written into the run's files"
                yield path, {"expected": expected, "found": f"${names[0]}, which seems to hold a secret"}


def reveal(value: Any, place: str) -> Any:
    """The value with each ${VARIABLE} in it replaced, for use and not for keeping.

    Raises EnvironmentProblem naming a variable that is not set.
    """
    if isinstance(value, dict):
        return {key: reveal(inside, place) for key, inside in value.items()}
    if isinstance(value, list):
        return [reveal(inside, place) for inside in value]
    return VARIABLE.sub(lambda found: _value_of(found[1], place), value) if isinstance(value, str) else value


def _value_of(name: str, place: str) -> str:
    if name not in os.environ:
        expected = f"the environment variable {name}"
        raise EnvironmentProblem(Finding(place=place, expected=expected, found="not set", fix=f"export {name}=..."))
    return os.environ[name]


def mask(text: str, used: Any = None) -> str:
    """Text without secrets: values of variables that hold one (and of those that `used` names), passwords, tokens."""
    named = {name for name in os.environ if is_secret(name)} | set(VARIABLE.findall(str(used)))
    known = {os.environ[name]: name for name in named if len(os.environ.get(name, "")) >= SHORTEST}
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, f"${{{known[value]}}}")
    for place in PLACES:
        text = place.sub(lambda found: found[1] + (found[2] if VARIABLE.fullmatch(found[2]) else "***"), text)
    return text
