"""What all tests share: no network, one thread, real data only where it lies."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("ACCELERATE_USE_CPU", "true")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """A run in this process sees one core: for tiny tensors more threads only wait for each other (10 times slower)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def imports_are_not_garbage() -> Iterator[None]:
    """The Trainer collects garbage after training, which takes 0.3 s to look through all that was ever imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def real_data() -> Path:
    """The folder of small real data sets; the test is skipped without it."""
    folder = os.environ.get("HF_SFT_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HF_SFT_REAL_DATA names no folder")
    return Path(folder)


@pytest.fixture(autouse=True, scope="session")
def activations_lie_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What frozen layers give is recorded in a folder of the tests, not in the user's cache."""
    root = tmp_path_factory.mktemp("activations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_sft.data.recorded.default_root", lambda: root)
        yield
