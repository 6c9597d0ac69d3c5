"""One run at a time writes in a folder; a dead owner stands in nobody's way."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hf_sft import ownership
from hf_sft.errors import EnvironmentProblem
from hf_sft.ownership import FILE, owned, refuse_if_owned


@pytest.fixture
def other() -> Iterator[psutil.Process]:
    """Another process of this machine."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def write(folder: Path, **changes: Any) -> None:
    owner = {
        "token": "other",
        "pid": 1,
        "started": 0.0,
        "host": socket.gethostname(),
        "since": "2026-01-01 00:00:00",
        "heartbeat": time.time(),
    }
    (folder / FILE).write_text(json.dumps(owner | changes))


def test_a_folder_is_owned_while_a_run_is_at_work_and_free_after(tmp_path: Path) -> None:
    with owned(tmp_path / "new"):
        assert json.loads((tmp_path / "new" / FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "new" / FILE).exists()
    with pytest.raises(ValueError), owned(tmp_path):
        raise ValueError
    assert not (tmp_path / FILE).exists()


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path: Path, other: psutil.Process) -> None:
    write(tmp_path, pid=other.pid, started=other.create_time())
    for refuse in (lambda: refuse_if_owned(tmp_path), lambda: owned(tmp_path).__enter__()):
        with pytest.raises(EnvironmentProblem, match=f"process {other.pid} on {socket.gethostname()}"):
            refuse()
    assert json.loads((tmp_path / FILE).read_text())["token"] == "other"


def test_an_owner_that_is_dead_or_another_process_by_now_is_stale(tmp_path: Path, other: psutil.Process) -> None:
    write(tmp_path, pid=other.pid, started=other.create_time() - 100)
    refuse_if_owned(tmp_path)
    pid, started = other.pid, other.create_time()
    other.kill()
    other.wait(10)
    write(tmp_path, pid=pid, started=started)
    with owned(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_an_owner_on_another_machine_is_believed_while_its_heart_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT", 0.05)
    monkeypatch.setattr(ownership, "STALE", 0.5)
    write(tmp_path, host="elsewhere")
    beating = threading.Timer(0.1, lambda: write(tmp_path, host="elsewhere", heartbeat=time.time() + 1))
    beating.start()
    with pytest.raises(EnvironmentProblem, match="on elsewhere"):
        refuse_if_owned(tmp_path)
    beating.join()
    write(tmp_path, host="elsewhere")
    refuse_if_owned(tmp_path)
    write(tmp_path, host="elsewhere", heartbeat=time.time() - 1)
    refuse_if_owned(tmp_path)


def _try_to_own(folder: Path, moment: float, answers: Any) -> None:
    time.sleep(max(0.0, moment - time.time()))
    try:
        with owned(folder):
            answers.put(True)
            time.sleep(0.6)
    except EnvironmentProblem:
        answers.put(False)


def test_of_two_runs_that_begin_at_once_one_at_most_owns_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for trial in range(5):
        answers = context.Queue()
        moment = time.time() + 0.2
        folder = tmp_path / str(trial)
        both = [context.Process(target=_try_to_own, args=(folder, moment, answers)) for _ in range(2)]
        for process in both:
            process.start()
        assert sum(answers.get(timeout=20) for _ in both) <= 1
        for process in both:
            process.join()


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT", 0.02)
    with owned(tmp_path):
        first = json.loads((tmp_path / FILE).read_text())["heartbeat"]
        time.sleep(0.3)
        assert json.loads((tmp_path / FILE).read_text())["heartbeat"] > first


@pytest.mark.parametrize("content", ["", "{}", "[1]", "no json"])
def test_a_file_that_is_no_owner_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    refuse_if_owned(tmp_path)


def test_who_was_faster_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: psutil.Process
) -> None:
    """Both found it free and wrote; the one that finds the other's file when it reads back leaves."""
    beat = ownership._beat

    def overtaken(folder: Path, owner: dict[str, Any]) -> None:
        beat(folder, owner)
        write(folder, pid=other.pid, started=other.create_time())

    monkeypatch.setattr(ownership, "_beat", overtaken)
    with pytest.raises(EnvironmentProblem), owned(tmp_path):
        pytest.fail("two owners")
