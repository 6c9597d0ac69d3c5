"""What `hf-sft run` does around fine_tune: flags of others, processes, signals, exit codes, faults that are kept."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from hf_sft.console import is_main_process, report_error
from hf_sft.errors import HfSftError
from hf_sft.record import RunDirectory
from hf_sft.secrets import mask
from hf_sft.tables import printable_lines


class RunCommand(typer.core.TyperCommand):
    """Answers `--learning_rate 1e-4`, the form that other trainers take, with the form that ours takes."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        flags = [flag for parameter in self.params for flag in parameter.opts] + ["--help"]
        for place, word in enumerate(args[: args.index("--") if "--" in args else len(args)]):
            flag, _, value = word.partition("=")
            if flag.startswith("--") and not difflib.get_close_matches(flag, flags):
                following = args[place + 1] if place + 1 < len(args) else ""
                if not value and following and not re.match(r"--|bundled:|.*=|.*\.ya?ml$", following):
                    value = following
                ctx.fail(f"No such option: {flag}; {_key_instead(flag, value or 'VALUE')}")
        return super().parse_args(ctx, args)


def _key_instead(flag: str, value: str) -> str:
    """The key of the recipe that says what a flag of other trainers says."""
    from hf_sft.recipe_mistakes import homes
    from hf_sft.training_keys import OWNED

    key = flag.lstrip("-").replace("-", "_")
    keys = [".".join(home) for home in homes(key)] or ([] if key in OWNED else [key])
    said = " or ".join(f"{key}={value}" for key in keys)
    return f"keys of the recipe are set without dashes: {said}" if said else OWNED[key]


def start_processes(recipe: str, overrides: Sequence[str], flags: Sequence[str], processes: int) -> int:
    """Start the ranks, once the recipe is known to be right: a wrong one is reported in a second."""
    from hf_sft.recipe import Recipe

    try:
        Recipe.load(recipe, overrides)
    except HfSftError as error:
        return report_error(error)
    from hf_sft.launch import launch

    return launch([recipe, *overrides, *flags], processes)


def run_here(
    recipe: str, overrides: Sequence[str], *, overwrite: bool, with_probe: bool, trust_remote_code: bool
) -> int:
    from hf_sft.recipe import Recipe

    directory = None
    signal.signal(signal.SIGTERM, _stop)
    try:
        loaded = Recipe.load(recipe, overrides)
        directory = RunDirectory(Path(loaded.output_dir))
        from hf_sft.run import fine_tune

        fine_tune(loaded, overwrite=overwrite, with_probe=with_probe, trust_remote_code=trust_remote_code)
        return 0
    except HfSftError as error:
        return report_error(error)
    except KeyboardInterrupt:
        return _stopped(130, directory)
    except SystemExit as stop:
        return _stopped(stop.code if isinstance(stop.code, int) else 1, directory)
    except Exception:
        return _broken(directory)
    finally:
        _leave_process_group()


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _stopped(code: int, directory: RunDirectory | None) -> int:
    if is_main_process():
        what = (
            "goes on from the last checkpoint"
            if directory and _has_checkpoint(directory)
            else "starts again: there is no checkpoint yet"
        )
        print(f"hf-sft: stopped; the same command {what}", file=sys.stderr, flush=True)
    return code


def _has_checkpoint(directory: RunDirectory) -> bool:
    there = [*directory.checkpoints.glob("checkpoint-*")]
    if there:  # only now is the import, which takes seconds, worth it
        from hf_sft.training.checkpoints import COMPLETE

        return any((checkpoint / COMPLETE).is_file() for checkpoint in there)
    return False


def _broken(directory: RunDirectory | None) -> int:
    """A fault of ours or of a library: the traceback is shown, and kept in the run directory."""
    text = mask(printable_lines(traceback.format_exc()))
    print(text, file=sys.stderr, flush=True)
    if directory is not None and is_main_process():
        with contextlib.suppress(OSError):  # the traceback on the screen says more than why it could not be kept
            directory.path.mkdir(parents=True, exist_ok=True)
            directory.traceback.write_text(text, encoding="utf-8")
    return 1


def _leave_process_group() -> None:
    if "torch" in sys.modules and "RANK" in os.environ:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
