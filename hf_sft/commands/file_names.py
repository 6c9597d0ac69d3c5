"""What the files of single rows are called: after the row's own file where it has one, else by its number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

FILE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?|gif)$", re.IGNORECASE)


class FileNames:
    """Names without an ending, each given once. Of two rows of one name the later has its number behind it."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def of(self, row: Mapping[str, Any], number: int) -> str:
        """The name of the row at that place."""
        name = next((stem for value in row.values() if (stem := _stem(value))), f"{number:06d}")
        if name.casefold() in self.given:
            name = f"{name}_{number:06d}"
        self.given.add(name.casefold())
        return name


def _stem(value: Any) -> str:
    """The file's name without its ending, where a cell names an image."""
    path = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(path, str) or not FILE.search(path):
        return ""
    return re.sub(r"[^\w.-]", "_", PureWindowsPath(path).stem)
