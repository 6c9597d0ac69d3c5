"""COCO's json files (images, annotations, categories) as rows of images and objects."""

from __future__ import annotations

import json
import re
from collections import Counter
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
    """Split -> COCO's files at a path: the file itself, those in `annotations`, or one in the folder of each split.

    Of files of one split beside each other those called instances_... alone: captions and keypoints say other things.
    """
    if path.is_file():
        return {"train": [path]} if is_coco(path) else {}
    found: dict[str, list[Path]] = {}
    for pattern in ("*.json", "*/_annotations.coco.json", "annotations/*.json"):
        files = [file for file in sorted(path.glob(pattern)) if is_coco(file)]
        instances = {_split_of(file) for file in files if file.name.startswith("instances_")}
        for file in files:
            if file.name.startswith("instances_") or _split_of(file) not in instances:
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

    Categories of one name are one label.
    images: the folder of the images; else it is looked for beside the file.
    Raises DataError for files that are not of that form, or without images.
    """
    contents = {split: [(path, _load(path)) for path in paths] for split, paths in files.items()}
    named = _name_categories([part for parts in contents.values() for part in parts])
    names = list(dict.fromkeys(named[number] for number in sorted(named)))
    ids = {number: names.index(name) for number, name in named.items()}
    objects = {"bbox": List(List(Value("float64"))), "category": List(ClassLabel(names=names))}
    features = Features({"image": Image(), "image_id": Value("int64"), "objects": objects})
    return DatasetDict(
        {
            split: Dataset.from_list(
                [row for path, content in parts for row in _rows(path, content, ids, images)], features=features
            )
            for split, parts in contents.items()
        }
    )


def _name_categories(contents: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[int, str]:
    """Id -> name in all files. Raises DataError for an id that means two things."""
    names: dict[int, str] = {}
    first: dict[int, Path] = {}
    for path, content in contents:
        for entry in content["categories"]:
            number, name = int(entry["id"]), str(entry["name"])
            if names.setdefault(number, name) != name:
                found = f"category {number} is {names[number]!r} in {first[number]} and {name!r} in {path}"
                fix = "give each category one id in all files"
                raise DataError(Finding(place="dataset.path", expected="one name for an id", found=found, fix=fix))
            first.setdefault(number, path)
    return names


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
    _check_ids(path, content)
    return dict(content)


def _check_ids(path: Path, content: Mapping[str, Any]) -> None:
    """Raises DataError for ids that are none, that two images share, or that nothing has."""
    for key, name in (("categories", "id"), ("annotations", "category_id")):
        for place, entry in enumerate(content[key]):
            if not re.fullmatch(r"-?\d+", str(entry[name])):
                raise _wrong(path, f"{key}[{place}] with {name} {entry[name]!r}, which is no whole number")
    for key, name in (("images", "id"), ("annotations", "image_id")):
        for place, entry in enumerate(content[key]):
            if not isinstance(entry[name], (int, str)):
                raise _wrong(path, f"{key}[{place}] with {name} {entry[name]!r}, which is no number and no text")
    known = {int(entry["id"]) for entry in content["categories"]}
    if strange := {int(entry["category_id"]) for entry in content["annotations"]} - known:
        raise _wrong(path, f"annotations with category_id {min(strange)}, which no category has")
    images = Counter(entry["id"] for entry in content["images"])
    if twice := [number for number, count in images.items() if count > 1]:
        raise _wrong(path, f"several images with id {twice[0]!r} ({len(twice):,} such ids)")
    if lost := [entry["image_id"] for entry in content["annotations"] if entry["image_id"] not in images]:
        raise _wrong(path, f"{len(lost):,} annotations whose image_id no image has, as {lost[0]!r}")


def _rows(path: Path, content: dict[str, Any], ids: Mapping[int, int], images: Path | None) -> list[dict[str, Any]]:
    boxes: dict[Any, list[Any]] = {entry["id"]: [] for entry in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
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
