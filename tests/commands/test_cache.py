"""Laws of `hf-sft cache`: what is there is shown, what is named goes and nothing else, and is said."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_sft.cli import app
from hf_sft.data.activation_store import Store

KEYS = ("a1" * 16, "b2" * 16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two computations, the second not used for 40 days."""
    for number, key in enumerate(KEYS):
        store = Store(tmp_path / "cache" / key)
        store.describe({"model": f"models/{number}", "boundary": "block.5", "dtype": "float32"})
        store.complete(store.begin([bytes([number] * 16)], np.array([1], dtype=np.int64), [(300_000,)], "float32"))
        used = time.time() - 86_400 * 40 * number
        os.utime(store.folder / "about.json", (used, used))
    return tmp_path / "cache"


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["cache", *words])
    return done.exit_code, done.stdout, done.stderr


def test_list_shows_what_is_there_and_what_it_takes(root: Path) -> None:
    code, text, _ = call("list", "--cache-dir", str(root))
    assert code == 0 and all(word in text for word in (KEYS[0][:12], "models/1", "block.5", "today", "40 days ago"))
    assert f"2 MB in {root}" in text
    code, text, _ = call("list", "--json", "--cache-dir", str(root))
    assert code == 0 and [one["key"] for one in json.loads(text)] == list(KEYS) and json.loads(text)[0]["rows"] == 1
    code, text, _ = call("list", "--cache-dir", str(root / "none"))
    assert code == 0 and "nothing is recorded in" in text


@pytest.mark.parametrize(
    ("words", "left"),
    [(["a1a1"], {KEYS[1]}), (["--older-than", "30"], {KEYS[0]}), (["--all"], set()), ([KEYS[0], KEYS[1][:8]], set())],
)
def test_clear_deletes_what_is_named_and_says_so(words: list[str], left: set[str], root: Path) -> None:
    code, text, _ = call("clear", *words, "--cache-dir", str(root))
    assert code == 0 and {path.name for path in root.iterdir()} == left
    assert text.count("deleted") == 2 - len(left) and f"{2 - len(left)} MB freed" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a1a1a1a1b"], "did you mean 'a1a1a1a1a1a1'?"),
        (["a1", "zz"], "no 'zz'"),
        ([], "name keys that hf-sft cache list"),
    ],
)
def test_a_wrong_key_deletes_nothing_and_is_named(words: list[str], said: str, root: Path) -> None:
    code, _, errors = call("clear", *words, "--cache-dir", str(root))
    assert code == 2 and said in errors and len(list(root.iterdir())) == 2


def test_nothing_old_enough_frees_nothing(root: Path) -> None:
    code, text, _ = call("clear", "--all", "--older-than", "300", "--cache-dir", str(root))
    assert code == 0 and "0 MB freed" in text and len(list(root.iterdir())) == 2
