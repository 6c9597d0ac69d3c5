"""How a command is carried out, and where its words and results go."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer

from hf_sft.console import escaped_json, onto_standard_output, report_error
from hf_sft.errors import HfSftError


@contextlib.contextmanager
def words_apart(apart: bool) -> Iterator[None]:
    """Words go to standard error, so that standard output holds JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if apart else contextlib.nullcontext():
        yield


def help_printed(arguments: list[str]) -> contextlib.AbstractContextManager[None]:
    """Typer prints help itself; what refuses to take it is named as for all other words."""
    alone = not arguments or "--help" in arguments
    return onto_standard_output() if alone else contextlib.nullcontext()


def print_text(text: str) -> None:
    with contextlib.suppress(BrokenPipeError), onto_standard_output():  # `| head` has seen enough
        print(text)


def print_json(content: Any) -> None:
    from hf_sft.record import as_json

    print_text(escaped_json(as_json(content)))


def carry_out(action: Callable[[], int]) -> NoReturn:
    """Do it and leave with its exit code, 2 for what the user can mend, 130 after Ctrl-C.

    Where the reader of standard output leaves early (`| head`), a run goes on and ends with 0, as its results are in
    its folder; tables are done and end with 0; predict stops without a word, with 141, as a shell reports others.
    """
    try:
        code = action()
    except HfSftError as error:
        code = report_error(error)
    except BrokenPipeError:
        code = 141
    except KeyboardInterrupt as stop:
        print("\n".join(["hf-sft: stopped", *getattr(stop, "__notes__", [])]), file=sys.stderr, flush=True)
        code = 130
    raise typer.Exit(code)
