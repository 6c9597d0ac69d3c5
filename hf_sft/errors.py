"""What can go wrong for a reason the user can mend, and how it is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: where it is, what was expected, what was found, what to do."""

    place: str
    expected: str = ""
    found: str = ""
    fix: str = ""

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
    if close:
        return f"did you mean {close[0]!r}?"
    return "valid here: " + ", ".join(valid) if valid else ""
