"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_sft.training import activation_cache


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are kept once made."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of rows that were recorded, batch by batch."""
    counts: list[int] = []
    record = activation_cache.record

    def counting(model: Any, cut: Any, inputs: Any) -> Any:
        counts.append(next(iter(inputs.values())).shape[0])
        return record(model, cut, inputs)

    monkeypatch.setattr(activation_cache, "record", counting)
    yield counts
