"""One run at a time in a folder: who is writing there, told by a small file with a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from hf_sft.console import is_main_process
from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.record import write_text

FILE = "owner.json"
BEAT = 15.0  # seconds between two heartbeats
STALE = 120.0  # seconds without one, after which an owner on another machine is taken for dead


def refuse_if_owned(folder: Path) -> None:
    """Raises EnvironmentProblem when another process is at work in the folder.

    On this machine the process is looked for; of another machine's only the heartbeat can be seen.
    """
    owner = _read(folder)
    if owner is None or not _lives(owner):
        return
    where = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    fix = f"wait for it, stop it, or choose another output_dir (if it is certainly dead, remove {folder / FILE})"
    place = f"output_dir {folder}"
    raise EnvironmentProblem(Finding(place=place, expected="a folder that no run is writing to", found=where, fix=fix))


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder is ours meanwhile. Needs no file locks: the file is read back after it was written.

    Raises EnvironmentProblem when another process is at work there, or was faster.
    """
    refuse_if_owned(folder)
    token = uuid.uuid4().hex
    owner = {
        "token": token,
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    _beat(folder, owner)
    if (_read(folder) or {}).get("token") != token:
        refuse_if_owned(folder)
    done = threading.Event()
    heart = threading.Thread(target=_keep_beating, args=(folder, owner, done), daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        if (_read(folder) or {}).get("token") == token:
            (folder / FILE).unlink(missing_ok=True)


@contextmanager
def owned_by_main_process(folder: str) -> Iterator[None]:
    """`owned`, where this is the main process of a launch."""
    with owned(Path(folder)) if is_main_process() else nullcontext():
        yield


def _keep_beating(folder: Path, owner: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(BEAT):
        try:
            _beat(folder, owner)
        except OSError:  # a full disk: the process itself can still be seen on this machine
            continue


def _beat(folder: Path, owner: dict[str, Any]) -> None:
    write_text(folder / FILE, json.dumps({**owner, "heartbeat": time.time()}))


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return owner if {"token", "pid", "started", "host", "since", "heartbeat"} <= set(owner) else None
    except (OSError, ValueError, TypeError):
        return None


def _lives(owner: dict[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return time.time() - float(owner["heartbeat"]) < STALE
    if owner["pid"] == os.getpid():
        return False  # a run of this very process, that was interrupted
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - float(owner["started"])) < 1.0
    except psutil.NoSuchProcess:
        return False
