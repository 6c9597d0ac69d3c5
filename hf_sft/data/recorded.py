"""What is recorded of frozen layers, on disk: where it lies, what there is, and deleting it. Light: nothing is read."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_sft.errors import EnvironmentProblem, Finding, nearest

ABOUT = "about.json"  # in the folder of each computation; its time is that of the last use
COMPLETE = "complete.json"  # in each segment, written last: a segment without it is not read
KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one computation left. boundary: the last frozen block; used: seconds since 1970."""

    key: str
    model: str
    boundary: str
    dtype: str
    rows: int
    bytes: int
    used: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def default_root() -> Path:
    """Where activations are kept unless a recipe says otherwise."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_sft" / "activations"


def list_recorded(root: Path) -> list[Recorded]:
    """Every computation below that folder, the one used last first."""
    found = [_describe(folder) for folder in root.glob("*/") if KEY.fullmatch(folder.name)]
    return sorted((one for one in found if one is not None), key=lambda one: -one.used)


def _describe(folder: Path) -> Recorded | None:
    """None for a folder that is not ours, or that another process has just deleted."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        marks = [json.loads(mark.read_text(encoding="utf-8")) for mark in folder.glob(f"*/{COMPLETE}")]
        return Recorded(
            key=folder.name,
            model=str(about["model"]),
            boundary=str(about["boundary"]),
            dtype=str(about["dtype"]),
            rows=sum(int(mark["rows"]) for mark in marks),
            bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
            used=(folder / ABOUT).stat().st_mtime,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def choose_recorded(
    root: Path, keys: Sequence[str], *, every: bool = False, older_than: float | None = None
) -> list[Recorded]:
    """Those that are named (by key or its beginning), or all; of these, those not used for so many days.

    Raises EnvironmentProblem for a key that is not there or begins several.
    """
    there, chosen, findings = list_recorded(root), dict[str, Recorded](), []
    for key in keys:
        named = [one for one in there if key and one.key.startswith(key)]
        if len(named) != 1:
            found = f"{key!r} begins {len(named)} of them" if named else f"no {key!r} in {root}"
            fix = nearest(key, [one.key[:12] for one in there]) or "nothing is recorded there"
            findings.append(Finding(place="KEY", expected="a key that hf-sft cache list shows", found=found, fix=fix))
        chosen |= {one.key: one for one in named}
    if findings:
        raise EnvironmentProblem(findings)
    taken = list(chosen.values()) if keys else there if every or older_than is not None else []
    limit = time.time() - 86_400 * (older_than or 0)
    return [one for one in taken if older_than is None or one.used < limit]


def clear_recorded(root: Path, chosen: Sequence[Recorded]) -> list[Recorded]:
    """Delete these; those that could not be. A run that reads one goes on: what is mapped stays until it is let go."""
    for one in chosen:
        shutil.rmtree(root / one.key, ignore_errors=True)
    return [one for one in chosen if (root / one.key).exists()]


def amount(size: float) -> str:
    """Bytes in words."""
    if size < 1e6:
        return "under 1 MB" if size else "0 MB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
