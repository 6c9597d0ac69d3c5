"""What is said: plain lines on standard output, once, from the main process; and what may refuse to take them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hf_sft.errors import EnvironmentProblem, HfSftError
from hf_sft.secrets import mask
from hf_sft.tables import printable_lines


def is_main_process() -> bool:
    """Whether this is rank 0 (or the only process), as the launcher's environment says."""
    return int(os.environ.get("RANK", 0)) == 0


def prepare_streams() -> None:
    """Before a command says anything: what the terminal's encoding lacks is escaped, a closed stream is noticed.

    Raises EnvironmentProblem where standard output is closed.
    """
    if sys.stderr is None:  # Python would print to standard output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise EnvironmentProblem("standard output is closed; > FILE or | cat takes it")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a notebook or a test puts there may lack it
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def onto_standard_output() -> Iterator[None]:
    """What is printed meanwhile is out at the end.

    Raises BrokenPipeError where nobody reads any more (`| head`), EnvironmentProblem where it cannot be written (a full
    disk). What is printed after either goes nowhere, so that Python does not fail once more when it ends.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise EnvironmentProblem(f"standard output cannot be written: {error.strerror or error}") from error


def escaped_json(text: str) -> str:
    """JSON as standard output can show it: beyond UTF-8 terminals letters outside ASCII are escaped as JSON does."""
    if (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf"):
        return text
    return re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


_silent: list[str] | None = None


@contextmanager
def overheard() -> Iterator[list[str]]:
    """What is said meanwhile is not printed but kept in the list."""
    global _silent
    before, _silent = _silent, []
    try:
        yield _silent
    finally:
        _silent = before


def say(text: str, *, bar: Any = None) -> None:
    """Print a line on the main process, above a progress bar where there is one; a reader who left is no mistake."""
    if not is_main_process():
        return
    text = mask(printable_lines(text))
    if _silent is not None:
        _silent.append(text)
        return
    with suppress(BrokenPipeError), onto_standard_output():
        if bar is not None:
            bar.write(text, file=sys.stdout)
        else:
            print(text)


def hides_bars() -> bool | None:
    """`disable` of a progress bar: hidden outside a terminal, but not in a notebook, whose output is none either.

    There it is hidden while what is said is kept back.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return _silent is not None if hasattr(shell, "kernel") else None


def report_error(error: HfSftError) -> int:
    """Print what the user can mend, on the main process -> the exit code."""
    if is_main_process():
        number = len(error.findings)
        heading = f"hf-sft: {number} things to mend" if number > 1 else f"hf-sft: {error.heading}"
        text = f"{heading}\n{error}" if number else f"hf-sft: {error}"
        with suppress(OSError):  # the exit code still says it
            print(mask(printable_lines(text)), file=sys.stderr, flush=True)
    return error.exit_code
