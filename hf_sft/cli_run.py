"""What `hf-sft run` does around fine_tune: processes, signals, exit codes, and faults that are kept."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hf_sft.console import is_main_process, report_error
from hf_sft.errors import HfSftError


def start_processes(recipe: str, overrides: Sequence[str], flags: Sequence[str], processes: int) -> int:
    """Start the ranks, once the recipe is known to be right: a wrong one is reported in a second."""
    from hf_sft.recipe import Recipe

    try:
        Recipe.load(recipe, overrides)
    except HfSftError as error:
        return report_error(error)
    from hf_sft.launch import launch

    return launch([recipe, *overrides, *flags], processes)


def run_here(recipe: str, overrides: Sequence[str], *, overwrite: bool, trust_remote_code: bool) -> int:
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
