"""What a run says: plain lines on standard output, once, from the main process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hf_sft.errors import HfSftError


def is_main_process() -> bool:
    """Whether this is rank 0 (or the only process), as the launcher's environment says."""
    return int(os.environ.get("RANK", 0)) == 0


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
    """Print a line on the main process, above a progress bar where there is one."""
    if not is_main_process():
        return
    if _silent is not None:
        _silent.append(text)
    elif bar is not None:
        bar.write(text, file=sys.stdout)
        sys.stdout.flush()
    else:
        print(text, flush=True)


def report_error(error: HfSftError) -> int:
    """Print what the user can mend, on the main process -> the exit code."""
    if is_main_process():
        number = len(error.findings)
        heading = f"hf-sft: {number} things to mend" if number > 1 else "hf-sft: cannot go on"
        print(f"{heading}\n{error}", file=sys.stderr, flush=True)
    return error.exit_code
