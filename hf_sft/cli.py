"""The command `hf-sft`. Each command is a few lines; what takes time to import is imported inside."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hf_sft.console import is_main_process, report_error
from hf_sft.errors import HfSftError

app = typer.Typer(
    name="hf-sft",
    help="Fine-tune a pretrained vision or text model by a YAML recipe.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("hf-sft"))
        raise typer.Exit


class _RunCommand(typer.core.TyperCommand):
    """Answers `--learning_rate 1e-4`, the form that other trainers take, with the form that ours takes."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        flags = [flag for parameter in self.params for flag in parameter.opts] + ["--help"]
        for word in args[: args.index("--") if "--" in args else len(args)]:
            flag, _, value = word.partition("=")
            if flag.startswith("--") and not difflib.get_close_matches(flag, flags):
                key = flag.lstrip("-").replace("-", "_")
                ctx.fail(f"No such option: {flag}; keys of the recipe are set without dashes: {key}={value or 'VALUE'}")
        return super().parse_args(ctx, args)


@app.command(no_args_is_help=True, cls=_RunCommand)
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or bundled:<name>.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys: training.num_train_epochs=1")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Start this many processes (one per device).")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in output_dir first.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code that a model or an evaluate metric brings.")
    ] = False,
) -> None:
    """Train, evaluate, save and document a model.

    Example: hf-sft run bundled:bert_sentiment training.num_train_epochs=1
    """
    flags = ["--overwrite"] * overwrite + ["--trust-remote-code"] * trust_remote_code
    if processes > 1:
        raise typer.Exit(_launch(recipe, overrides or [], flags, processes))
    raise typer.Exit(_run(recipe, overrides or [], overwrite=overwrite, trust_remote_code=trust_remote_code))


def run_command(arguments: list[str]) -> int:
    """`python -m hf_sft.run ARGUMENTS` -> exit code; the launchers start this."""
    command = typer.main.get_command(app)
    try:
        result = command.main(["run", *arguments], prog_name="hf-sft", standalone_mode=True)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return int(result or 0)


def _launch(recipe: str, overrides: Sequence[str], flags: Sequence[str], processes: int) -> int:
    """Start the ranks, once the recipe is known to be right: a wrong one is reported in a second."""
    from hf_sft.recipe import Recipe

    try:
        Recipe.load(recipe, overrides)
    except HfSftError as error:
        return report_error(error)
    from hf_sft.launch import launch

    return launch([recipe, *overrides, *flags], processes)


def _run(recipe: str, overrides: Sequence[str], *, overwrite: bool, trust_remote_code: bool) -> int:
    from hf_sft.recipe import Recipe

    loaded = None
    signal.signal(signal.SIGTERM, _stop)
    try:
        loaded = Recipe.load(recipe, overrides)
        from hf_sft.run import fine_tune

        fine_tune(loaded, overwrite=overwrite, trust_remote_code=trust_remote_code)
        return 0
    except HfSftError as error:
        return report_error(error)
    except KeyboardInterrupt:
        return _stopped(130)
    except SystemExit as stop:
        return _stopped(stop.code if isinstance(stop.code, int) else 1)
    except Exception:
        return _broken(Path(loaded.output_dir) if loaded else None)
    finally:
        _leave_process_group()


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _stopped(code: int) -> int:
    if is_main_process():
        print("hf-sft: stopped; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
    return code


def _broken(directory: Path | None) -> int:
    """A fault of ours or of a library: the traceback is shown, and kept in the run directory."""
    text = traceback.format_exc()
    print(text, file=sys.stderr, flush=True)
    if directory is not None and is_main_process():
        with contextlib.suppress(OSError):  # the traceback on the screen says more than why it could not be kept
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "traceback.txt").write_text(text, encoding="utf-8")
    return 1


def _leave_process_group() -> None:
    if "torch" in sys.modules and "RANK" in os.environ:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def main() -> None:
    """Entry point of the command `hf-sft`."""
    app()
