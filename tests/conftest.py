"""What all tests share: no network, one seed, real data only where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def real_data() -> Path:
    """The folder of small real data sets; the test is skipped without it."""
    folder = os.environ.get("HF_SFT_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HF_SFT_REAL_DATA names no folder")
    return Path(folder)
