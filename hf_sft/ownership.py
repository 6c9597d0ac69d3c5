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

from hf_sft.console import is_main_process, say
from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.record import write_text

FILE = "owner.json"
BEAT = 15.0  # seconds between two heartbeats
SETTLE = 0.3  # seconds between writing the file and reading it back; whoever passed by meanwhile has written by then
STALE = 120.0  # seconds without one, after which an owner on another machine is taken for dead


def refuse_if_owned(folder: Path) -> None:
    """Raises EnvironmentProblem when another process is at work in the folder.

    On this machine the process is looked for. Of another machine's only the heartbeat can be seen: it is waited for,
    at most STALE seconds, so that a run that was killed there goes on here by itself.
    """
    owner = _read(folder)
    if owner is None or not _may_live(owner):
        return
    if owner["host"] != socket.gethostname() and not _beats(folder, owner):
        return
    where = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    fix = f"wait for it, stop it, or choose another output_dir (if it is certainly dead, remove {folder / FILE})"
    place = f"output_dir {folder}"
    raise EnvironmentProblem(Finding(place=place, expected="a folder that no run is writing to", found=where, fix=fix))


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder is ours meanwhile. Needs no file locks: of two that write at once, the later stays in the file.

    Raises EnvironmentProblem when another process is at work there, or was later.
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
    time.sleep(SETTLE)
    if (_read(folder) or {}).get("token") != token:
        place, found = f"output_dir {folder}", "another run, which began at the same moment"
        expected, fix = "a folder that no run is writing to", "choose another output_dir"
        raise EnvironmentProblem(Finding(place=place, expected=expected, found=found, fix=fix))
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


def _may_live(owner: dict[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return time.time() - float(owner["heartbeat"]) < STALE
    try:
        process = psutil.Process(int(owner["pid"]))
        alive = abs(process.create_time() - float(owner["started"])) < 1.0
    except psutil.NoSuchProcess:
        return False
    return alive and process.pid != os.getpid()  # a run of this very process that was interrupted is over


def _beats(folder: Path, owner: dict[str, Any]) -> bool:
    """Whether the heartbeat of another machine moves before it is stale."""
    say(f"{folder} belongs to process {owner['pid']} on {owner['host']}; waiting to see whether it still runs")
    while time.time() - float(owner["heartbeat"]) < STALE:
        time.sleep(min(BEAT / 3, 1.0))
        now = _read(folder)
        if now is None:
            return False
        if now["heartbeat"] != owner["heartbeat"]:
            return True
    return False
