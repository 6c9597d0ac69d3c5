"""COCO's json files (images, annotations, categories) as rows of images and objects."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from hf_sft.data.splits import USUAL_NAMES
from hf_sft.errors import DataError, Finding

READER = "coco"
HEAD = 1 << 16  # bytes in which one of a file's lists begins
KEYS = ("images", "annotations", "categories")
BEGINNING = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[\s*[{\]]')


def find_coco(path: Path) -> dict[str, list[Path]]:
    """Split -> COCO's files at a path: the file itself, those in `annotations`, or one in the folder of each split."""
    if path.is_file():
        return {"train": [path]} if is_coco(path) else {}
    found: dict[str, list[Path]] = {}
    for file in sorted(
        [*path.glob("*.json"), *path.glob("annotations/*.json"), *path.glob("*/_annotations.coco.json")]
    ):
        if is_coco(file):
            found.setdefault(_split_of(file), []).append(file)
    return found


def is_coco(path: Path) -> bool:
    """Whether a json file begins with what COCO's files hold."""
    if path.suffix != ".json":
        return False
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and BEGINNING.search(head) is not None


def _split_of(file: Path) -> str:
    """train, validation or test, where file or folder say so, else the file's own name."""
    words = re.findall(r"[a-z]+", (file.parent.name if file.name.startswith("_") else file.stem).casefold())
    usual = [role for role, names in USUAL_NAMES.items() if set(names) & set(words)]
    return usual[0] if usual else file.stem


def read_coco(files: Mapping[str, Sequence[Path]], images: Path | None = None) -> DatasetDict:
    """Split -> rows: image, image_id, objects {bbox: x, y, width, height in pixels; category}; crowds are left out.

    images: the folder of the images; else it is looked for beside the file.
    Raises DataError for files that are not of that form, or without images.
    """
    contents = {split: [(path, _load(path)) for path in paths] for split, paths in files.items()}
    every = [content for parts in contents.values() for _, content in parts]
    names = {int(entry["id"]): str(entry["name"]) for content in every for entry in content["categories"]}
    ids = {number: place for place, number in enumerate(sorted(names))}
    objects = {
        "bbox": List(List(Value("float64"))),
        "category": List(ClassLabel(names=[names[number] for number in sorted(names)])),
    }
    features = Features({"image": Image(), "image_id": Value("int64"), "objects": objects})
    return DatasetDict(
        {
            split: Dataset.from_list(
                [row for path, content in parts for row in _rows(path, content, ids, images)], features=features
            )
            for split, parts in contents.items()
        }
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    lacks = [key for key in KEYS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacks:
        raise _wrong(path, f"no list {lacks[0]!r}")
    for key, wanted in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id", "category_id", "bbox")),
        ("categories", ("id", "name")),
    ):
        for place, entry in enumerate(content[key]):
            absent = [name for name in wanted if not isinstance(entry, dict) or name not in entry]
            if absent:
                raise _wrong(path, f"{key}[{place}] without {absent[0]!r}")
    known = {entry["id"] for entry in content["categories"]}
    if strange := {entry["category_id"] for entry in content["annotations"]} - known:
        raise _wrong(path, f"annotations with category_id {min(strange)}, which no category has")
    return dict(content)


def _rows(path: Path, content: dict[str, Any], ids: Mapping[int, int], images: Path | None) -> list[dict[str, Any]]:
    boxes: dict[Any, list[Any]] = {entry["id"]: [] for entry in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd") and annotation["image_id"] in boxes:
            boxes[annotation["image_id"]].append((annotation["bbox"], ids[int(annotation["category_id"])]))
    folder = images or _folder(path, content["images"])
    return [
        {
            "image": str(folder / entry["file_name"]),
            "image_id": entry["id"] if isinstance(entry["id"], int) else place,
            "objects": {
                "bbox": [box for box, _ in boxes[entry["id"]]],
                "category": [label for _, label in boxes[entry["id"]]],
            },
        }
        for place, entry in enumerate(content["images"])
    ]


def _folder(path: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Where the first image lies: beside the file, in `images`, or in a folder of the split's name."""
    if not entries:
        return path.parent
    last = path.stem.rpartition("_")[2]
    above = (path.parent, path.parent.parent)
    places = [place / inside for place in above for inside in (".", "images", last, f"images/{last}", path.stem)]
    for place in places:
        if (place / str(entries[0]["file_name"])).is_file():
            return place.resolve()
    found = f"no {entries[0]['file_name']} beside {path} or in images/"
    fix = "set dataset.options: {images: <folder of the images>}"
    raise DataError(Finding(place="dataset.path", expected="the images of a COCO file", found=found, fix=fix))


def _wrong(path: Path, found: str) -> DataError:
    expected = (
        "COCO's form: images [{id, file_name}], annotations [{image_id, category_id, bbox}], categories [{id, name}]"
    )
    return DataError(Finding(place="dataset.path", expected=expected, found=f"{path}: {found}", fix="mend the file"))
