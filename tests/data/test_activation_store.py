"""Laws of the store of activations: what is read is what was written, whole, or nothing."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from hf_sft.data import activation_store
from hf_sft.data.activation_store import Store, activation_file
from hf_sft.data.recorded import COMPLETE, amount, choose_recorded, clear_recorded, list_recorded
from hf_sft.errors import EnvironmentProblem

KEY = "0123456789abcdef" * 2
KEYS = [bytes([number] * 16) for number in range(3)]
STEPS = np.array([2, 3, 1], dtype=np.int64)
ABOUT = {"model": "some/model", "boundary": "block.1", "dtype": "float32"}


def fill(store: Store, *, complete: bool = True, dtype: str = "float32", keys: list[bytes] = KEYS) -> Path:
    """A segment of a ragged activation whose entries count up, as steps of two numbers."""
    store.describe(ABOUT)
    folder = store.begin(keys, STEPS, [(2,)], dtype)
    file = np.load(activation_file(folder, 0), mmap_mode="r+")
    file[:] = np.arange(12).reshape(6, 2)
    file.flush()
    if complete:
        store.complete(folder)
    return folder


def reopened(store: Store) -> Store:
    other = Store(store.folder)
    other.read(other.complete_segments())
    return other


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_read_as_they_were_written(dtype: str, tmp_path: Path) -> None:
    store = Store(tmp_path / KEY)
    fill(store, dtype=dtype)
    found = reopened(store)
    place = found.find(KEYS[1])
    assert place is not None and found.find(b"x" * 16) is None
    assert found.row(place, 0, ragged=True).tolist() == [[4, 5], [6, 7], [8, 9]]
    again = pickle.loads(pickle.dumps(found))
    assert again.row(place, 0, ragged=True).tolist() == [[4, 5], [6, 7], [8, 9]]
    assert len(pickle.dumps(found.segments)) < 500


def test_a_half_written_segment_is_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path / KEY)
    fill(store, complete=False)
    assert reopened(store).places == {}


@pytest.mark.parametrize("file", ["keys.npy", "offsets.npy", "activation_0.npy", COMPLETE])
@pytest.mark.parametrize("harm", ["cut", "gone", "nonsense"])
def test_a_damaged_segment_counts_as_not_there(file: str, harm: str, tmp_path: Path) -> None:
    store = Store(tmp_path / KEY)
    fill(store)
    harmed = fill(store, keys=[bytes([9 + number] * 16) for number in range(3)]) / file
    if harm == "gone":
        harmed.unlink()
    else:
        harmed.write_bytes(harmed.read_bytes()[:-5] if harm == "cut" else b"nonsense")
    assert set(reopened(store).places) == set(KEYS)


def test_abandoned_segments_are_swept_and_those_being_written_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path / KEY)
    old, young, whole = fill(store, complete=False), fill(store, complete=False), fill(store)
    long_ago = time.time() - 2 * activation_store.ABANDONED
    for path in (*old.iterdir(), old, *whole.iterdir(), whole):
        os.utime(path, (long_ago, long_ago))
    store.describe(ABOUT)
    assert not old.exists() and young.exists() and whole.exists()


def test_a_segment_for_which_there_is_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    store = Store(tmp_path / KEY)
    with pytest.raises(OSError, match="No space"):
        fill(store)
    assert [path.name for path in store.folder.iterdir()] == ["about.json"]


def test_what_is_recorded_is_listed_chosen_and_cleared(tmp_path: Path) -> None:
    keys = [KEY, "f" * 32, "0" * 32]
    for age, key in enumerate(keys):
        fill(Store(tmp_path / key))
        used = time.time() - 86_400 * 10 * age
        os.utime(tmp_path / key / "about.json", (used, used))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.json").write_text("{}")
    found = list_recorded(tmp_path)
    assert [one.key for one in found] == keys
    assert (found[0].rows, found[0].model, found[0].boundary) == (3, "some/model", "block.1") and found[0].bytes > 48
    assert [one.key for one in choose_recorded(tmp_path, [], older_than=5)] == keys[1:]
    assert [one.key for one in choose_recorded(tmp_path, ["ff", KEY[:3]], older_than=5)] == ["f" * 32]
    assert choose_recorded(tmp_path, []) == []
    for wrong in ("0", "", "mine"):  # several begin with 0
        with pytest.raises(EnvironmentProblem, match="hf-sft cache list"):
            choose_recorded(tmp_path, [wrong])
    assert clear_recorded(tmp_path, choose_recorded(tmp_path, [], every=True)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and list_recorded(tmp_path) == []


def test_what_was_mapped_is_read_on_after_it_was_cleared(tmp_path: Path) -> None:
    fill(Store(tmp_path / KEY))
    found = reopened(Store(tmp_path / KEY))
    clear_recorded(tmp_path, list_recorded(tmp_path))
    place = found.find(KEYS[2])
    assert place is not None and found.row(place, 0, ragged=True).tolist() == [[10, 11]]


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 MB"), (9_000, "under 1 MB"), (212_400_000, "212 MB"), (1.26e9, "1.3 GB")]
)
def test_sizes_are_said_in_words(size: float, words: str) -> None:
    assert amount(size) == words
