"""What of a finished run is published: model, card, recipe, record, pictures; no path, no secret, no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_sft.card import model_card, publishable
from hf_sft.errors import Finding, ModelError
from hf_sft.record import RunDirectory, RunRecord, as_json
from hf_sft.secrets import mask
from hf_sft.yaml12 import dump, parse

CARD, RECIPE, RECORD = "README.md", "recipe.yaml", "record.json"
# Of model/: weights without code, vocabularies, settings, pictures, and the code that a model of the Hub may bring.
ENDINGS = {".safetensors", ".json", ".txt", ".model", ".jinja", ".png", ".jpg", ".py"}
# Settings that may name a folder of this machine; words of vocabularies are left alone, whatever they look like.
SETTINGS = {
    "config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "adapter_config.json",
    "special_tokens_map.json",
}  # fmt: skip
PATH_KEYS = {"_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_file", "vocab_file", "merges_file"}
WORDS_OF_THE_DATA = {"labels", "per_class", "confusion", "examples"}  # of the record: never a path
# Pictures that show no row of the data: of the run, and <section>_<name> of `hf-sft inspect`. No other is published.
PICTURES = {
    "curves", "confusion", "course_curves", "course_gap", "errors_confusion", "errors_confusion_shares",
    "errors_numbers", "confidence_reliability", "confidence_coverage", "attribution_deletion", "weights_drift",
    "weights_histograms", "weights_filters", "activations_blocks", "activations_maps", "gradients_blocks",
    "gradients_lines", "cartography_map", "cartography_learning",
}  # fmt: skip
ROWS = "examples"  # folder of model/ with the pictures of rows that the card offers to try
# Not in the middle of an address or a word; \n is how JSON writes the end of a line.
BEFORE_A_PATH = r"(?:(?<![\w.~/-])|(?<=file://)|(?<=\\[nrt]))"

Content = Path | bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """files: name in the repository -> a file, or what stands in its place. left_out: files of model/ that stay."""

    files: Mapping[str, Content]
    left_out: tuple[str, ...]


def contents_of(record: RunRecord, repo_id: str) -> Contents:
    """What a push of this run puts into the repository.

    Raises ModelError where the run's model is not there.
    """
    directory = record.directory
    if not any(directory.model.glob("*.safetensors")):
        expected, found = "the model of a finished run", "no weights there"
        raise ModelError(Finding(place=str(directory.model), expected=expected, found=found, fix="run it again"))
    published = _with_repository(record, repo_id)
    pictures = {*(f"{name}.png" for name in PICTURES), *published.pictures}
    files: dict[str, Content] = {}
    left_out = []
    for path in sorted(path for path in directory.model.rglob("*") if path.is_file()):
        name = path.relative_to(directory.model).as_posix()
        folder, _, rest = name.partition("/")
        if name in (CARD, RECIPE, RECORD) or (folder == "report" and rest not in pictures):
            continue
        if folder == ROWS and not published.examples:
            continue
        if path.suffix not in ENDINGS or any(part.startswith(".") for part in Path(name).parts):
            left_out.append(name)
        else:
            files[name] = without_traces(path, directory)
    for picture in sorted(directory.report.glob("*.png")):
        if picture.name in pictures:
            files.setdefault(f"report/{picture.name}", picture)
    files[CARD] = _clean(model_card(published), directory).encode()
    files[RECIPE] = _clean(_recipe(directory, published), directory).encode()
    digests = {name: digest_of(content) for name, content in sorted(files.items())}
    files[RECORD] = _clean(_record(dataclasses.replace(published, published=digests)), directory).encode()
    return Contents(files=files, left_out=tuple(left_out))


def as_given(content: Content) -> str | bytes:
    """As huggingface_hub takes it."""
    return content if isinstance(content, bytes) else str(content)


def digest_of(content: Content) -> str:
    """SHA-256, as the Hub names large files."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_repository(record: RunRecord, repo_id: str) -> RunRecord:
    """The record as of a recipe that names this repository, without rows where hub.examples allows none."""
    hub = {**(record.recipe.get("hub") or {}), "repo_id": repo_id}
    found = dataclasses.replace(record, recipe={**record.recipe, "hub": hub})
    return found if hub.get("examples") else dataclasses.replace(found, pictures=[], examples=[])


def _recipe(directory: RunDirectory, record: RunRecord) -> str:
    """The resolved recipe. It is read from model/, where keys that are numbers are numbers still."""
    file = directory.model / RECIPE
    content, _, _ = parse(file.read_text(encoding="utf-8"), lambda line, column: str(file))
    return dump({**publishable(content), "hub": record.recipe["hub"]})


def _record(record: RunRecord) -> str:
    content = dataclasses.asdict(record)
    content.pop("output_dir")
    clean = {
        key: value if key in WORDS_OF_THE_DATA else publishable(value, () if key == "recipe" else ("record", key))
        for key, value in content.items()
    }
    return as_json(clean) + "\n"


def without_traces(path: Path, directory: RunDirectory) -> Content:
    """The file itself, or its text where that names a folder of this machine or holds a secret."""
    if path.name not in SETTINGS:
        return path
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    clean = _without_paths(content)
    kept = text if clean == content else json.dumps(clean, indent=2, ensure_ascii=False) + "\n"
    kept = _clean(kept, directory)
    return path if kept == text else kept.encode()


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: publishable(item) if key in PATH_KEYS and isinstance(item, str) else _without_paths(item)
            for key, item in value.items()
        }
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def _clean(text: str, directory: RunDirectory) -> str:
    """Without secrets, and without the folders that this run and its user live in, wherever they stand."""
    folders = {str(directory.path.absolute()), str(directory.path.resolve()), os.getcwd(), str(Path.home())}
    for folder in sorted((folder for folder in folders if folder.count(os.sep) > 1 or len(folder) > 4), key=len)[::-1]:
        text = re.sub(BEFORE_A_PATH + re.escape(f"{folder}{os.sep}"), "", text)
    return mask(text)
