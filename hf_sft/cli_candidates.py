"""How `hf-sft rank-models` reads its line: all words behind --candidates are models, up to the next flag."""

from __future__ import annotations

from typing import Annotated

import typer

FLAG = "--candidates"
Candidates = Annotated[
    list[str],
    typer.Option(
        FLAG,
        metavar="MODEL...",
        help="As in model.name; MODEL@random: drawn weights; '{name: ..., config: {...}}': a section model.",
    ),
]


class ManyCandidates(typer.core.TyperCommand):
    """`--candidates a b c` is what `--candidates a --candidates b --candidates c` is."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, spread(args))


def spread(words: list[str]) -> list[str]:
    """The flag before each word that follows it, up to the next flag."""
    found: list[str] = []
    inside = False
    for place, word in enumerate(words):
        if word == FLAG:
            inside = place + 1 < len(words) and not words[place + 1].startswith("--")
            found += [] if inside else [word]
        elif inside and not word.startswith("--"):
            found += [FLAG, word]
        else:
            inside = False
            found.append(word)
    return found
