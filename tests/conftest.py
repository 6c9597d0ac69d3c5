"""What all tests share: no network, one thread, real data only where it lies."""

from __future__ import annotations

import base64
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two workers with two threads each wait for each other
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


DRAWN_IN = ("test_curves.py", "test_escaping.py", "test_run.py")
ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def curves_are_drawn_where_they_are_looked_at(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Drawing them takes as long as all the rest of a tiny run."""
    if request.path.name not in DRAWN_IN:
        monkeypatch.setattr("hf_sft.curves.as_png", lambda record: ONE_PIXEL)


@pytest.fixture(autouse=True, scope="session")
def heads_are_solved_first_only_where_asked() -> Iterator[None]:
    """As if solving took too long: laws of training hold from the first step; test_warm_start.py lets auto decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_sft.training.warm_start.MOST_WORK", 0)
        yield


@pytest.fixture(autouse=True, scope="session")
def batch_norm_trains_where_nothing_is_said() -> Iterator[None]:
    """As if every run were long; test_batch_norm.py lets auto decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_sft.modeling.batch_norm.FEW_STEPS", 0)
        yield


@pytest.fixture(autouse=True)
def folders_are_owned_at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A run looks a second time, 0.3 s later, whether its folder is its own."""
    if request.path.name != "test_ownership.py":
        monkeypatch.setattr("hf_sft.ownership.SETTLE", 0.0)


@pytest.fixture(autouse=True)
def no_test_measures_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Runs are compared to the last bit, so none may choose its precision by the clock; test_precision.py does."""
    root = tmp_path_factory.getbasetemp() / "precision" / str(abs(hash(request.node.nodeid)))
    monkeypatch.setattr("hf_sft.training.precision.FEWEST_PARAMETERS", 10**12)
    monkeypatch.setattr("hf_sft.training.precision.measured_before", lambda: root)
