"""What flags of the command line mean: those that several commands have, names of tasks, pairs, mappings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from hf_sft.errors import Finding, RecipeError, nearest

if TYPE_CHECKING:
    from hf_sft.recipe import TaskName

MODEL = "A run directory, a folder that save_pretrained wrote, package:..., or a Hub id."
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow code that a model or an evaluate metric brings.")
]
Columns = Annotated[
    list[str] | None, typer.Option(metavar="ROLE=COLUMN", help="text=body, label=queue; text=title,body joins two.")
]
Options = Annotated[
    list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="For the reader: sep=';', encoding=latin-1.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows per batch.")]


def read_task(name: str | None) -> TaskName | None:
    """Raises RecipeError for what is no task."""
    from hf_sft.recipe import TaskName

    names = get_args(TaskName)
    if name is not None and name not in names:
        raise RecipeError(Finding(place="--task", expected="a task", found=name, fix=nearest(name, names)))
    return cast("TaskName | None", name)


def read_pairs(given: list[str] | None, flag: str) -> dict[str, Any]:
    """`key=value` words as a mapping; a value with commas is a list, numbers and true are what they look like."""
    found: dict[str, Any] = {}
    for word in given or []:
        key, sign, value = word.partition("=")
        if not (sign and key and value):
            raise RecipeError(Finding(place=flag, expected="name=value", found=word))
        found[key] = value.split(",") if "," in value and len(value) > 1 else value
    return found


def read_mapping(text: str | None, flag: str) -> dict[Any, Any] | None:
    """YAML on the command line, which must be keys and values."""
    if text is None:
        return None
    from hf_sft.yaml12 import parse

    content, _, findings = parse(text, lambda line, column: flag)
    if findings or not isinstance(content, dict):
        raise RecipeError(findings or Finding(place=flag, expected="'{from: to, ...}'", found=text))
    return content
