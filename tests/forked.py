"""Two ranks forked from the test's own process: what `torchrun` starts, without its seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.distributed
from accelerate.state import AcceleratorState, GradientState

PATIENCE = 90  # seconds until ranks that wait for each other are killed


def in_two_processes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns on rank 0 and on rank 1; their environment is that of a launcher."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    ranks = [
        context.Process(target=_run_rank, args=(rank, port, pipes[rank][1], function, arguments)) for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    try:
        answers = [pipe.recv() if pipe.poll(PATIENCE) else (False, "the rank hangs") for pipe, _ in pipes]
    finally:
        for rank in ranks:
            rank.join(5)
            rank.kill()
    failed = [f"rank {number}: {answer}" for number, (good, answer) in enumerate(answers) if not good]
    assert not failed, "\n".join(failed)
    return [answer for _, answer in answers]


def _run_rank(rank: int, port: int, pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)  # what the test's process knew of itself
    GradientState._reset_state()
    try:
        pipe.send((True, function(*arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
