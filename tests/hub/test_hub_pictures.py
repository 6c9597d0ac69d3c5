"""The law of published pictures: each one that an analysis draws either shows no row and is sent, or shows rows."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from hf_sft.analysis import ANALYSES
from hf_sft.hub.contents import PICTURES

SHOW_ROWS = {"attribution_maps", "errors_worst"}  # what stays at home
NAMED_BY_A_VARIABLE = {"drawing": set[str](), "confusion": {"confusion_shares"}}  # names of figures that no call tells


def drawn_by(module: str, seen: set[str] | None = None) -> set[str]:
    """Names of the figures that a module of hf_sft.analysis makes, and those that it imports."""
    seen = set() if seen is None else seen
    if module in seen:
        return set()
    seen.add(module)
    found = set(NAMED_BY_A_VARIABLE.get(module, ()))
    file = Path(str(sys.modules[f"hf_sft.analysis.{module}"].__file__))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hf_sft.analysis."):
            found |= drawn_by(str(node.module).rpartition(".")[2], seen)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "figure",
            "Figure",
        ):
            given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "name")]
            names = {str(one.value) for one in given if isinstance(one, ast.Constant)}
            assert names or module in NAMED_BY_A_VARIABLE, f"{file.name}:{node.lineno}: name the figure in the call"
            found |= names
    return found


def test_every_picture_of_an_analysis_is_sent_or_shows_rows() -> None:
    of = {name: drawn_by(analysis.show.__module__.rpartition(".")[2]) for name, analysis in ANALYSES.items()}
    drawn = {f"{name}_{figure}" for name, figures in of.items() for figure in figures}
    assert {"errors_confusion", "errors_confusion_shares", "weights_drift", "attribution_maps"} <= drawn
    assert drawn - PICTURES == SHOW_ROWS
    assert not SHOW_ROWS & PICTURES and PICTURES - drawn == {"curves", "confusion"}, "those of the run itself"
