"""What a set of files is before any recipe names it: header, separator, splits, labels that are not what they seem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loading import write

from hf_sft.data import load
from hf_sft.errors import DataError
from hf_sft.guessing.first_look import choose_splits, look
from hf_sft.guessing.sniff import sniff_csv
from hf_sft.guessing.spelling import joined_by, likely_slips, same_labels


def test_a_header_is_told_from_data(tmp_path: Path) -> None:
    def sniffed(*lines: str) -> dict[str, Any]:
        (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
        return sniff_csv(tmp_path / "x.csv")

    assert sniffed("text,label", "good,1", "bad,0", "good,1") == {}
    assert sniffed("0,1", "good,1", "bad,0", "good,1") == {}
    assert sniffed("fine,1", "good,1", "bad,0") == {"names": ["column_1", "column_2"]}
    assert sniffed("4,101,fine", "4,102,good", "0,103,bad") == {"names": ["column_1", "column_2", "column_3"]}
    assert sniffed("text;label", "good, I say;1", "bad;0", "so, so;1") == {"sep": ";"}


SPLITS: dict[str, tuple[dict[str, int], dict[str, str | None], dict[str, str]]] = {
    "usual": ({"train": 9, "test": 3}, {}, {"train": "train", "test": "test"}),
    "one": ({"all": 9}, {"train": "all"}, {"train": "all"}),
    "only a test": ({"test": 9}, {"test": None, "train": "test"}, {"train": "test"}),
    "matched": (
        {"train": 9, "validation_matched": 3, "validation_mismatched": 3},
        {"validation": "validation_matched"},
        {"train": "train", "validation": "validation_matched"},
    ),
    "largest": ({"de": 3, "fr": 9, "test": 2}, {"train": "fr"}, {"train": "fr", "test": "test"}),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits_are_found_by_name_then_by_size(case: str) -> None:
    sizes, settings, roles = SPLITS[case]
    found, named, doubts = choose_splits({name: range(size) for name, size in sizes.items()})
    assert (found, named) == (settings, roles) and bool(doubts) == (case not in ("usual", "one"))


def test_spellings() -> None:
    assert same_labels({"Yes": 5, "yes": 9, "no": 3, " no": 1}) == {"Yes": "yes", " no": "no"}
    assert same_labels({"a": 1, "b": 1}) == {}
    assert likely_slips({"negative": 50, "negatve": 1, "regular": 50, "irregular": 1, "level 1": 50, "level 2": 1}) == {
        "negatve": "negative"
    }


def test_several_labels_in_one_cell_are_seen() -> None:
    assert joined_by({"joy": 3, "joy, anger": 2, "anger": 1, "fear, joy": 1, "fear": 1}) == ","
    assert joined_by({"a|b": 3, "b|c": 2, "a": 1, "c": 4}) == "|"
    assert joined_by({"yes, please": 3, "no, thanks": 2}) is None
    assert joined_by({"arts, crafts": 3, "games": 2, "news": 4}) is None
    assert joined_by({"New York, NY": 3, "Boston": 2, "Rome": 4, "Oslo": 1, "NY": 2, "New York": 1}) is None


def test_a_column_of_splits_is_pointed_at(tmp_path: Path) -> None:
    rows = [
        {"text": f"some words on {row}", "label": row % 2, "split": ("train", "test")[row % 3 == 0]}
        for row in range(30)
    ]
    found = look(str(write(rows, tmp_path / "d.csv")), tmp_path)
    assert any("'split'" in doubt for doubt in found.doubts) and dict(found.splits) == {"train": "train"}
    rows = [{**row, "split": f"part {number % 3}"} for number, row in enumerate(rows)]
    assert not look(str(write(rows, tmp_path / "e.csv")), tmp_path).doubts


def test_a_hub_set_of_several_configurations_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        lines = (
            "Config name is missing.",
            "Please pick one among the available configs: ['cola', 'mrpc']",
            "Example ...",
        )
        raise ValueError("\n".join(lines))

    monkeypatch.setattr(load, "_read", refuse)
    with pytest.raises(DataError, match=r"pass --name and one of \['cola', 'mrpc'\]") as caught:
        look("nyu-mll/glue", tmp_path)
    assert caught.value.findings[0].place == "nyu-mll/glue"
