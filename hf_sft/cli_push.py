"""The command `hf-sft push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_sft.cli_action import carry_out, print_text


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo: Annotated[
        str | None, typer.Argument(metavar="[REPO]", help="me/my-model; absent: the recipe's hub.repo_id.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository; private where nothing is said.")
    ] = None,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace the card, even where it was edited on the Hub.")
    ] = False,
) -> None:
    """Put a finished run on the Hub: model, card, recipe, record, pictures. Only what changed is uploaded.

    Exit code 75: the Hub did not take it, and the same command repeats it. 2: it cannot be asked to.
    Example: hf-sft push runs/bert_sentiment me/bert-sentiment
    """

    def action() -> int:
        from hf_sft.environment import silence_libraries
        from hf_sft.hub.push import push as push_run

        silence_libraries()
        print_text(str(push_run(run, repo, private=private, overwrite_card=overwrite_card)))
        return 0

    carry_out(action)
