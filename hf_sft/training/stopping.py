"""Stopping on request: at the next step, after a checkpoint from which the same command goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_sft.console import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 1.0  # seconds: a terminal or SLURM signals a rank itself and its launcher, which hands the signal on
TWICE = 0.05  # seconds: coreutils' timeout signals a process and then its group; nobody presses a key that fast
LAUNCHERS = ("WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class StopOnRequest(TrainerCallback):
    """Saves at the first step after SIGINT, SIGTERM or `max_hours` since `started` (perf_counter), then leaves.

    With KeyboardInterrupt after SIGINT, SystemExit(143) otherwise. All processes leave at the same step, whichever of
    them was asked. A second signal ends at once, unless it is the echo of the first (`echo_of`).
    """

    def __init__(self, *, max_hours: float | None, started: float):
        self.deadline = None if max_hours is None else started + 3600 * max_hours
        self.asked = 0  # the signal's number
        self.asked_at = 0.0
        self.echo = echo_of(os.environ)
        self.leaving = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are noted here meanwhile, where they can be (Python delivers them to the main thread alone)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.asked:
            if time.perf_counter() - self.asked_at < self.echo:
                return
            raise _end(number)
        self.asked, self.asked_at = number, time.perf_counter()
        say("stopping after this step, with a checkpoint; once more stops at once")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        late = self.deadline is not None and time.perf_counter() > self.deadline
        self.leaving = _largest(self.asked or (signal.SIGTERM if late else 0))
        if self.leaving:
            if late and not self.asked:
                say("run.max_hours are over")
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.leaving:
            raise _end(self.leaving)


def echo_of(environment: Mapping[str, str]) -> float:
    """Seconds in which a second signal is taken for the first one, come by another way: long where a launcher is."""
    return ECHO if any(name in environment for name in LAUNCHERS) else TWICE


def _end(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _largest(number: int) -> int:
    """The same on every process: the largest that any has."""
    state = PartialState()
    if state.num_processes == 1:
        return number
    numbers = torch.tensor([number], device=state.device)
    torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MAX)
    return int(numbers.item())
