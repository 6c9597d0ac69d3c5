"""What can go wrong for a reason the user can mend, and how it is said."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: where it is, what was expected, what was found, what to do."""

    place: str
    expected: str = ""
    found: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        """Words from data and recipes are one line each and steer no terminal."""
        for part, text in vars(self).items():
            object.__setattr__(self, part, "".join(letter if letter.isprintable() else " " for letter in text))

    def __str__(self) -> str:
        lines = [self.place]
        lines += [
            f"    {name:<9}{text}"
            for name, text in (("expected", self.expected), ("found", self.found), ("fix", self.fix))
            if text
        ]
        return "\n".join(lines)


class HfSftError(Exception):
    """Base of every error a user can mend. The commands print it without a traceback and exit with `exit_code`."""

    exit_code = 2
    heading = "cannot go on"

    def __init__(self, problem: str | Finding | Sequence[Finding]):
        if isinstance(problem, Finding):
            problem = [problem]
        self.findings: tuple[Finding, ...] = () if isinstance(problem, str) else tuple(problem)
        super().__init__(problem if isinstance(problem, str) else "\n".join(map(str, self.findings)))


class RecipeError(HfSftError):
    """The recipe asks for something that does not exist or does not fit."""


class DataError(HfSftError):
    """The data set is missing, malformed, or not what the recipe says it is."""


class ModelError(HfSftError):
    """The model is missing, incomplete, or of another kind than the task needs."""


class EnvironmentProblem(HfSftError):
    """The machine, the launcher or a folder does not allow what was asked."""


class MissingExtraError(EnvironmentProblem):
    """An optional package is not installed; the message names the command that installs it."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of valid names where none is near."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    close = close or [entry for entry in valid if len(name) > 1 and name.lower() in entry.lower()]
    if 1 <= len(close) <= 6:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return "valid here: " + ", ".join(valid) if valid else ""


def first_few(values: Sequence[Any], most: int = 5) -> str:
    """The first of many, and how many more there are: `3, 8, 12, 20, 31 and 4 more`."""
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


def describe_value(value: Any) -> str:
    """A value as a Finding shows what was found: cut where it is long, with its kind in YAML's words."""
    if value is None or value is True or value is False:
        return {None: "nothing", True: "true", False: "false"}[value]
    kinds = (
        (str, "text"),
        (int, "a whole number"),
        (float, "a number"),
        (Mapping, "keys and values"),
        (list, "a list"),
    )
    kind = next((word for type_, word in kinds if isinstance(value, type_)), type(value).__name__)
    return f"{_short.repr(value)} ({kind})"


def bare_form(value: Any) -> str:
    """What to write for a value whose kind alone is wrong ('3' for 3, yes for true, 3.0 for 3); empty for others."""
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if not isinstance(value, str):
        return ""
    if value.lower() in ("yes", "on", "no", "off"):
        return f"write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    try:
        float(value)
    except ValueError:
        return ""
    return "leave out the quotes: numbers are written bare"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100
_short.maxlong = 40
