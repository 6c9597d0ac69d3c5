"""The commands `hf-sft cache list` and `hf-sft cache clear`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_sft.cli_action import carry_out, print_json, print_text

CacheDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The recipe's tuning.cache_dir; absent: in Hugging Face's."),
]


def cache_commands() -> typer.Typer:
    """The group."""
    cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @cache.callback()
    def _cache() -> None:
        """What runs recorded of frozen layers (tuning.cache): list it or delete it. Runs record anew what they lack."""

    @cache.command("list", short_help="Key, model, rows, size and last use of each.")
    def cache_list(
        cache_dir: CacheDir = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    ) -> None:
        """What is recorded of which model, the one used last first.

        Example: hf-sft cache list
        """

        def action() -> int:
            from hf_sft.commands.cache import as_text, list_cache

            found = list_cache(cache_dir)
            print_json([one.as_dict() for one in found]) if as_json else print_text(as_text(found, cache_dir))
            return 0

        carry_out(action)

    @cache.command("clear", no_args_is_help=True, short_help="Delete some of it, or all.")
    def cache_clear(
        keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY...]", help="As list shows them.")] = None,
        every: Annotated[bool, typer.Option("--all", help="Delete all that is recorded.")] = False,
        older_than: Annotated[
            float | None, typer.Option(metavar="DAYS", min=0, help="Only what was not used for so many days.")
        ] = None,
        cache_dir: CacheDir = None,
    ) -> None:
        """Delete what is recorded. A run that reads it goes on; a later one records it anew.

        Example: hf-sft cache clear --older-than 30
        """

        def action() -> int:
            from hf_sft.commands.cache import clear_cache, freed

            print_text(freed(clear_cache(keys or [], every=every, older_than=older_than, root=cache_dir)))
            return 0

        carry_out(action)

    return cache
