"""Several processes on this machine, started through torchrun's own API: exit codes and signals pass through."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `python -m hf_sft.run ARGUMENTS` in that many ranks -> the exit code of the first that failed, or 0."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        run_id=f"hf-sft-{os.getpid()}",
        max_restarts=0,
        monitor_interval=0.1,
    )
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the ranks say what went wrong
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each rank sets its own share of the cores
    try:
        elastic_launch(config, sys.executable)("-m", "hf_sft.run", *arguments)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
