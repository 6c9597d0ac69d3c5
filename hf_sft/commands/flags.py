"""What a recipe would say, said with the flags of a command: there is no recipe to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from hf_sft.errors import Finding, HfSftError

# Words of findings -> what they mean on the command line, whatever the data.
WORDS = ((r"(?:set )?dataset\.on_bad_row: skip", "--on-bad-row skip"), (r"dataset\.label_map\b", "--label-map"))
# Those about data that the command line names.
WORDS_OF_DATA = (
    (r"""set dataset\.options: \{(\w+): ["']?(.*?)["']?\}""", r"--option \1='\2'"),
    (r"dataset\.options\b(?=[^:{]|$)", "--option NAME=VALUE"),
    (r"set dataset\.columns: \{(\w+): (.*?)\}", r"--columns \1=\2"),
    (r"relative paths start from the recipe's folder", "relative paths start from the working directory"),
    (r"dataset\.path, data_files and options", "--data and --option NAME=VALUE"),
    (r"dataset\.path\b", "--data"),
)
PLACES = (
    (r"dataset\.path", "--data"),
    (r"dataset\.columns\.(\w+)", r"--columns \1"),
    (r"dataset\.options\.(\w+)", r"--option \1"),
    (r"dataset\.label_map", "--label-map"),
)


@contextmanager
def said_with_flags(*, data: bool) -> Iterator[None]:
    """Errors raised meanwhile name flags instead of keys of a recipe. data: whether --data names the data."""
    try:
        yield
    except HfSftError as error:
        if not error.findings:
            raise
        raise type(error)([with_flags(finding, data=data) for finding in error.findings]) from error


def with_flags(finding: Finding, *, data: bool) -> Finding:
    """The finding with its place and what to do as the command line has them."""
    place, fix = finding.place, finding.fix
    for pattern, flag in PLACES if data else ():
        place = re.sub(rf"^{pattern}$", flag, place)
    for pattern, flag in (*WORDS, *WORDS_OF_DATA) if data else WORDS:
        fix = re.sub(pattern, flag, fix)
    return replace(finding, place=place, fix=fix)
