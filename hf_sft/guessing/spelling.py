"""Labels that are not what they seem: other spellings of one, slips of the keyboard, several in one cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from difflib import SequenceMatcher

ALIKE = 0.85  # of difflib's ratio: positive and positve have 0.93, joy and jay 0.67
RARE = 0.1  # a slip is at most so frequent, measured by what was meant
MARKS = ("|", ";", ",")
COMPARED = 200  # labels; with more of them a near name is likelier another label


def same_labels(counts: Mapping[str, int]) -> dict[str, str]:
    """Label -> the most frequent spelling of the same words, for those that differ from it in case or spaces alone."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        spellings[" ".join(name.split()).casefold()].append(name)
    merged: dict[str, str] = {}
    for names in spellings.values():
        best = max(names, key=lambda name: (counts[name], name)).strip()
        merged |= {name: best for name in names if name != best and len(names) > 1}
    return merged


def likely_slips(counts: Mapping[str, int]) -> dict[str, str]:
    """Rare label -> the frequent one it resembles. Names that differ in their digits are different names."""
    if len(counts) > COMPARED:
        return {}
    slips = {}
    for rare, number in counts.items():
        meant = [
            name
            for name, frequent in counts.items()
            if number <= max(1, RARE * frequent) and frequent > 2 * number and _alike(rare, name)
        ]
        if meant:
            slips[rare] = max(meant, key=lambda name: counts[name])
    return slips


def joined_by(counts: Mapping[str, int]) -> str | None:
    """The mark between labels, where cells seem to hold several (`joy, anger`): fewer parts than cells differ."""
    for mark in MARKS:
        parts = {part.strip() for name in counts for part in name.split(mark)}
        marked = sum(mark in name for name in counts)
        if marked >= len(counts) / 3 and len(parts) < len(counts):
            return mark
    return None


def _alike(one: str, other: str) -> bool:
    if min(len(one), len(other)) < 4 or [c for c in one if c.isdigit()] != [c for c in other if c.isdigit()]:
        return False
    prefixed = one.lower().endswith(other.lower()) or other.lower().endswith(one.lower())  # happy and unhappy
    return not prefixed and SequenceMatcher(None, one.lower(), other.lower()).ratio() >= ALIKE
