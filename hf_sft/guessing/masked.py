"""Images with masks, found among the columns of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datasets import Dataset, Image

from hf_sft.data.labels import LabelColumn
from hf_sft.data.masks import USUAL_IGNORED

MASKS = ("mask", "segmentation", "annotation", "label", "seg", "target", "gt")  # the earlier, the likelier
IMAGES = ("image", "pixel_values", "img", "photo", "picture")


@dataclass(frozen=True, kw_only=True)
class Masked:
    """columns: role -> column; why: role -> reason."""

    columns: dict[str, str | list[str]]
    why: dict[str, str]


def find_masked(rows: Dataset) -> Masked | None:
    """The columns of images and of their masks; None unless two columns hold images and a name says which is which."""
    images = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    named = sorted((rank, name) for name in images if (rank := _rank(name, MASKS)) is not None)
    others = sorted((_rank(name, IMAGES) or 0, name) for name in images if _rank(name, MASKS) is None)
    if not named or not others:
        return None
    why = {"image": "images", "mask": "images whose name says that they are masks"}
    return Masked(columns={"image": others[0][1], "mask": named[0][1]}, why=why)


def ignored_id(columns: Mapping[str, LabelColumn]) -> int | None:
    """The usual id of pixels without a class, where it stands in the masks and none of those just below it does."""
    ids = {number for column in columns.values() for counts in column.values if counts for number in counts}
    return USUAL_IGNORED if USUAL_IGNORED in ids and USUAL_IGNORED - 1 not in ids else None


def _rank(name: str, usual: tuple[str, ...]) -> int | None:
    return next((number for number, word in enumerate(usual) if word in name.lower()), None)
