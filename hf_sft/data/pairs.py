"""A folder of images and a folder of masks, paired by the names of their files."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Image

from hf_sft.errors import DataError, Finding, first_few

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "annotations", "labels")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
WHOLE = "train"  # the split of a folder that has none


def load_pairs(folder: Path) -> DatasetDict | None:
    """The splits of a folder that holds images/ and masks/, or <split>/images and <split>/masks, or images/<split> and

    masks/<split>: columns image and mask, sorted by name. An image without a mask has none (null), which makes it a bad
    row. None where the folder is none of these. Raises DataError for masks that belong to no image.
    """
    pairs = _find(folder)
    if not pairs:
        return None
    features = Features({"image": Image(), "mask": Image()})
    found = {split: Dataset.from_dict(_pair(*both), features=features) for split, both in pairs.items()}
    return DatasetDict(found)


def _find(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of masks."""
    own = _both(folder)
    if own is None:
        inside = ((child.name, _both(child)) for child in sorted(folder.iterdir()) if child.is_dir())
        return {name: both for name, both in inside if both is not None}
    images, masks = own
    splits = [child.name for child in sorted(images.iterdir()) if child.is_dir() and (masks / child.name).is_dir()]
    return {name: (images / name, masks / name) for name in splits} or {WHOLE: own}


def _both(folder: Path) -> tuple[Path, Path] | None:
    images, masks = (
        next((folder / name for name in names if (folder / name).is_dir()), None) for names in (IMAGES, MASKS)
    )
    return None if images is None or masks is None else (images, masks)


def _pair(images: Path, masks: Path) -> dict[str, list[str | None]]:
    """Paths of images and of the masks that bear their names, with or without an ending of their own (_mask, _gt)."""
    photos, ids = _files(images), _files(masks)
    if not photos:
        found = f"none that ends in {', '.join(ENDINGS)}"
        raise DataError(Finding(place="dataset.path", expected=f"images in {images}", found=found))
    if not ids:
        found, fix = f"none that ends in {', '.join(ENDINGS)}", "put the masks there, as PNG files"
        if any(masks.rglob("*.txt")):
            found += ", but text files"
            fix = "are they boxes (YOLO)? object-detection reads COCO's json files, which most tools export"
        raise DataError(Finding(place="dataset.path", expected=f"masks in {masks}", found=found, fix=fix))
    suffix = _common_suffix(list(photos), list(ids))
    named = {name.removesuffix(suffix): path for name, path in ids.items()}
    alone = sorted(set(named) - set(photos))
    if alone:
        found = f"{len(alone)} masks without: {first_few(alone)}"
        fix = "give image and mask one name, as images/a.jpg and masks/a.png"
        raise DataError(
            Finding(place="dataset.path", expected=f"an image for every mask in {masks}", found=found, fix=fix)
        )
    return {
        "image": [str(path) for path in photos.values()],
        "mask": [str(named[name]) if name in named else None for name in photos],
    }


def _files(folder: Path) -> dict[str, Path]:
    """Name without its ending, from the folder on -> file. Raises DataError for two files of one name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS and not path.name.startswith("."):
            found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    twice = [paths for paths in found.values() if len(paths) > 1]
    if twice:
        names = " and ".join(path.name for path in twice[0])
        raise DataError(Finding(place="dataset.path", expected=f"one file of a name in {folder}", found=names))
    return {name: paths[0] for name, paths in found.items()}


def _common_suffix(photos: list[str], ids: list[str]) -> str:
    """What all masks have behind the names of images; empty where they have the same names."""
    if not ids or set(ids) & set(photos):
        return ""
    ends = {name[len(photo) :] for name in ids[:1] for photo in photos if name.startswith(photo)}
    return next((end for end in sorted(ends, key=len) if all(name.endswith(end) for name in ids)), "")
