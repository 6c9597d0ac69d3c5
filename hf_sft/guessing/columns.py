"""What the columns of a data set are for, guessed from their names and what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from datasets import Dataset

from hf_sft.errors import DataError, Finding
from hf_sft.guessing.boxed import Boxed, doubt_lone_boxes, find_boxed
from hf_sft.guessing.masked import find_masked
from hf_sft.guessing.profile import Column, describe_columns, look_at
from hf_sft.guessing.tagged import Tagged, find_tagged
from hf_sft.recipe import TaskName

# The earlier a name, the likelier it is the one. A name counts whole, by its last word, or by its first.
LABELS = (
    "label", "labels", "gold_label", "label_text", "label_name", "stance", "target", "targets", "class", "classes",
    "category", "categories", "intent", "intents", "sentiment", "polarity", "emotion", "emotions", "topic", "topics",
    "rating", "ratings", "stars", "overall", "score", "scores", "similarity", "y", "is_duplicate", "duplicate",
    "toxicity", "toxic", "spam", "hate", "hateful", "genre", "genres", "species", "breed", "diagnosis", "quality",
    "outcome", "result", "decision", "verdict", "tag", "tags", "type", "kind", "grade", "answer", "output",
    "winner", "priority", "severity", "department", "queue", "section", "product", "issue", "specialty", "occupation",
    "party", "language", "lang",
)  # fmt: skip
TEXTS = (
    "text", "sentence", "review_body", "review_text", "body", "content", "contents", "review", "comment", "tweet",
    "message", "utterance", "document", "article", "description", "abstract", "post", "passage", "question", "query",
    "input", "inputs", "prompt", "ticket", "email", "transcript", "transcription", "utt",
    "paragraph", "phrase", "statement", "claim", "string",
)  # fmt: skip
TITLES = ("title", "subject", "headline", "heading", "summary", "header")
PAIRS = (
    ("premise", "hypothesis"), ("question", "sentence"), ("question", "passage"), ("question", "context"),
    ("query", "passage"), ("query", "document"), ("query", "title"), ("query", "text"), ("query", "product"),
    ("question", "answer"), ("claim", "evidence"), ("headline", "body"), ("source", "target"), ("text", "hypothesis"),
    ("anchor", "positive"), ("text", "text_pair"), ("context", "response"), ("sentence", "sentence_pair"),
)  # fmt: skip
GROUPS = {
    "user", "author", "speaker", "session", "thread", "conversation", "dialogue", "dialog", "document", "doc", "group",
    "family", "customer", "patient", "product", "book", "movie", "video", "annotator", "reviewer", "worker",
}  # fmt: skip
LABEL_WORDS = 6  # a label is a word or a short phrase
FLAGS = 3  # columns of two values, so many of which may be one label with several values
MANY_WORDS = 4  # what a text has at the least, where its name does not say that it is one


@dataclass(frozen=True, kw_only=True)
class Guess:
    """columns: role -> column or columns; why: role (and "task") -> reason; doubts: what else it could be, and where
    that is changed; empty: column of a role -> rows without a value; lost: column of paths -> those without a file, of
    the rows looked at; group: a column that names what rows belong to; settings: what else `dataset:` has to say.
    """

    task: TaskName
    columns: Mapping[str, str | list[str]]
    why: Mapping[str, str]
    doubts: tuple[str, ...] = ()
    empty: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def guess_columns(rows: Dataset, folder: Path, *, data: str, task: TaskName | None = None) -> Guess:
    """The task, the column of each role, and what could not be told apart.

    folder: where paths of images start from; data: what to call the data. Raises DataError when there is no label
    column, or nothing to classify.
    """
    columns = look_at(rows, folder)
    if task in (None, "token-classification"):
        if tagged := find_tagged(rows):
            return _guess_tagged(tagged, columns)
        if task is not None:
            raise _no_tags(columns, data)
    if task in (None, "image-segmentation"):
        if masked := find_masked(rows):
            used = {str(name) for name in masked.columns.values()}
            empty = {name: columns[name].nulls for name in sorted(used) if columns[name].nulls}
            reasons = {"task": "there are images and masks", **masked.why}
            return Guess(task="image-segmentation", columns=masked.columns, why=reasons, empty=empty)
        if task is not None:
            expected = "a column of images and one of their masks, called so, or folders images/ and masks/"
            raise DataError(Finding(place=data, expected=expected, found=describe_columns(columns)))
    if task in (None, "object-detection"):
        if boxed := find_boxed(rows, columns, folder, data):
            return _guess_boxed(boxed, columns)
        if task is not None:
            expected = "images and their boxes: {bbox: [[...], ...], category: [...]} in a column, or COCO's json files"
            raise DataError(Finding(place=data, expected=expected, found=describe_columns(columns)))
    images = [column for column in columns.values() if column.kind in ("image", "path")]
    task = task or ("image-classification" if images else "text-classification")
    label, others = _find_label(columns)
    if task == "image-classification":
        found = _find_image(images, folder)
    else:
        found = _find_texts([c for c in columns.values() if c.kind == "text" and c is not label and not c.is_id])
    if found is None:
        expected = "a column of texts" if task == "text-classification" else "a column of images, or of their paths"
        raise _nothing_to_read(columns, expected, data, folder)
    if label is None:
        raise _no_label(columns, data, folder)
    named = _named_twin(label, columns, rows)
    why = _describe_label(named or label) + (f"; the names of {label.name!r}" if named else "")
    label, doubts = named or label, [*found.doubts, *(doubt_lone_boxes(rows) if images else ())]
    used = {name for value in found.columns.values() for name in ([value] if isinstance(value, str) else value)}
    if others := [column for column in others if column is not label and column.name not in used]:
        doubts.append(_doubt("label", others))
    flags = [c for c in columns.values() if c.kind in ("truth", "whole") and c.distinct == 2 and not c.is_aside]
    if label in flags and len(flags) >= FLAGS:
        names = ", ".join(repr(column.name) for column in flags[:5])
        doubts.append(f"label: {names} hold two values each; if a row may have several, give it one column of lists")
    why_task = {"image-classification": "there are images", "text-classification": "texts, no images"}[task]
    return Guess(
        task=task,
        columns={**found.columns, "label": label.name},
        why={"task": "--task says so" if images and task == "text-classification" else why_task}
        | {**found.why, "label": why},
        doubts=tuple(doubts),
        empty={name: columns[name].nulls for name in (*sorted(used), label.name) if columns[name].nulls},
        lost={name: columns[name].lost for name in sorted(used) if columns[name].lost},
        group=_find_group(columns, {*used, label.name}),
    )


def _guess_tagged(found: Tagged, columns: Mapping[str, Column]) -> Guess:
    used = {str(name) for name in found.columns.values()}
    others = [columns[name] for name in found.others]
    return Guess(
        task="token-classification",
        columns=found.columns,
        why={"task": "words have tags" if "tokens" in found.columns else "texts have spans", **found.why},
        doubts=(_doubt("label", others),) if others else (),
        empty={name: columns[name].nulls for name in sorted(used) if columns[name].nulls},
        group=_find_group(columns, used),
    )


def _guess_boxed(found: Boxed, columns: Mapping[str, Column]) -> Guess:
    used = {str(name) for name in found.columns.values()}
    others = [columns[name] for name in found.others]
    return Guess(
        task="object-detection",
        columns=found.columns,
        why={"task": "images have boxes", **found.why},
        doubts=(*found.doubts, *([_doubt("objects", others)] if others else ())),
        empty={name: columns[name].nulls for name in sorted(used) if columns[name].nulls},
        lost={name: columns[name].lost for name in sorted(used) if columns[name].lost},
        group=_find_group(columns, used),
        settings={"bbox_format": found.kind},
    )


def _no_tags(columns: Mapping[str, Column], data: str) -> DataError:
    expected = "lists of words with a list of tags in IOB2 (O, B-PER, I-PER, ...) each, or texts with spans"
    fix = "tags that are numbers need names: features of ClassLabel, or dataset.labels in a recipe"
    return DataError(Finding(place=data, expected=expected, found=describe_columns(columns), fix=fix))


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What is to be classified: role -> column or columns, role -> why, and what else it could be."""

    columns: dict[str, str | list[str]]
    why: dict[str, str]
    doubts: Sequence[str] = ()


def _find_image(images: Sequence[Column], folder: Path) -> _Inputs | None:
    if not images:
        return None
    names = ("image", "img", "picture", "photo")
    first = min(images, key=lambda c: names.index(c.plain_name) if c.plain_name in names else len(names))
    others = [column for column in images if column is not first]
    why = "images" if first.kind == "image" else f"paths of images, which start from {folder.name or folder}"
    return _Inputs(
        columns={"image": first.name}, why={"image": why}, doubts=[_doubt("image", others)] if others else []
    )


def _doubt(role: str, others: Sequence[Column]) -> str:
    return f"{role}: could also be {', '.join(repr(column.name) for column in others[:5])} (dataset.columns.{role})"


def _find_label(columns: Mapping[str, Column]) -> tuple[Column | None, list[Column]]:
    """The likeliest label column, and what else could be one."""
    ranked = [(rank, column) for column in columns.values() if (rank := _rank_as_label(column)) is not None]
    ranked.sort(key=lambda pair: (pair[0], pair[1].distinct))
    if not ranked:
        return None, []
    (best, label), *rest = ranked
    limit = 300 if best < 300 else 1000  # beside a column called so, one that only looks so is no rival
    return label, [column for rank, column in rest if rank < limit]


def _rank_as_label(column: Column) -> int | None:
    """0 to 99 by the whole name, 100 by its last word, 200 by its first, 300 by content, 1000 an aside; None: no."""
    if column.kind in ("image", "path", "lost path", "other") or column.is_id:
        return None
    if column.distinct < 2 or column.nulls > column.rows // 2:
        return None
    if column.kind == "text" and column.words > LABEL_WORDS:
        return None
    if column.kind in ("text", "whole") and column.distinct > max(2, column.rows // 2):
        return None
    if column.plain_name in LABELS:
        return LABELS.index(column.plain_name)
    first, last = column.tokens[0], column.last_word
    if column.is_aside:
        return 1000 + column.distinct
    if column.kind == "class":
        return 99
    if last in LABELS:
        return 100 + LABELS.index(last)
    if column.kind == "truth" or first in ("is", "has"):
        return 190
    if first in LABELS:
        return 200 + LABELS.index(first)
    few = max(2, min(200, column.rows // 5))
    if column.kind in ("text", "whole") and column.distinct <= few:
        return 300 + column.distinct
    return 600 if column.kind in ("list", "fraction") and last not in ("tokens", "words", "bbox", "embedding") else None


def _named_twin(label: Column, columns: Mapping[str, Column], rows: Dataset) -> Column | None:
    """For bare integers, the text column that names them one for one."""
    if label.kind != "whole":
        return None
    for column in columns.values():
        if column.kind == "text" and column.distinct == label.distinct and not column.nulls:
            pairs = rows.select_columns([label.name, column.name]).with_format("arrow")[:]
            if pairs.group_by([label.name, column.name]).aggregate([]).num_rows == label.distinct:
                return column
    return None


def _describe_label(column: Column) -> str:
    if column.kind == "fraction":
        return f"numbers with a fraction in {column.rows:,} rows"
    what = {"list": "different labels in the lists of", "class": "named classes in"}
    return f"{column.distinct:,} {what.get(column.kind, 'distinct values in')} {column.rows:,} rows"


def _find_texts(columns: Sequence[Column]) -> _Inputs | None:
    """The text, a title that stands beside it, or a pair."""
    if pair := _find_pair(columns):
        one, other = pair
        why = {"text": f"{one.name} and {other.name} go together as a pair", "text_pair": "the second of the pair"}
        return _Inputs(columns={"text": one.name, "text_pair": other.name}, why=why)
    texts = [column for column in columns if column.plain_name in (*TEXTS, *TITLES) or _reads_as_text(column)]
    if not texts:  # single words perhaps: whatever differs most from row to row
        texts = sorted((c for c in columns if c.distinct > c.rows // 2), key=lambda c: -c.distinct)[:1]
    if not texts:
        return None
    titles = [column for column in texts if column.tokens[-1] in TITLES]
    bodies = [column for column in texts if column not in titles]
    main = min(bodies or titles, key=lambda column: (_rank_as_text(column), -column.words))
    title = next((column for column in titles if column is not main), None)
    doubts = []
    if rivals := [column for column in texts if column not in (main, title) and column.words >= MANY_WORDS]:
        doubts.append(_doubt("text", rivals) + f"; a list joins them: [{main.name}, {rivals[0].name}]")
    if title is not None and title.nulls:
        doubts.append(f"text: {title.name!r} is empty in {title.nulls:,} rows, so it is not joined to {main.name!r}")
    elif title is not None:
        why = {"text": "a title and a text, joined line by line"}
        return _Inputs(columns={"text": [title.name, main.name]}, why=why, doubts=doubts)
    return _Inputs(columns={"text": main.name}, why={"text": f"about {main.words:.0f} words a row"}, doubts=doubts)


def _reads_as_text(column: Column) -> bool:
    return column.words >= MANY_WORDS - 1 and column.distinct > max(2, column.rows // 10)


def _rank_as_text(column: Column) -> int:
    """By the whole name, from 100 by a word of it, 200 for what merely reads as a text, 300 for what does not."""
    if column.plain_name in TEXTS:
        return TEXTS.index(column.plain_name)
    named = [TEXTS.index(token) for token in column.tokens if token in TEXTS]
    if named and _reads_as_text(column):
        return 100 + min(named)
    return 200 if _reads_as_text(column) else 300


def _find_pair(columns: Sequence[Column]) -> tuple[Column, Column] | None:
    """Two columns called premise and hypothesis, sentence1 and sentence2, text_a and text_b."""
    texts = [column for column in columns if column.distinct > 2 or column.words >= MANY_WORDS]
    by_name = {column.plain_name: column for column in texts}
    for one, other in PAIRS:
        if one in by_name and other in by_name:
            return by_name[one], by_name[other]
    for first, second in combinations(texts, 2):
        *stem, end = _parts(first.name)
        *other_stem, other_end = _parts(second.name)
        if stem and stem == other_stem and (end, other_end) in (("1", "2"), ("a", "b"), ("left", "right"), ("x", "y")):
            return first, second
    return None


def _parts(name: str) -> list[str]:
    """sentence1, sentence_1, textA, text_a -> stem and mark."""
    match = re.fullmatch(r"(.+?)[_\s.-]*(\d+|(?<=[_\s.a-z-])[abABxy]|(?<=[_\s.-])(?:left|right))", name)
    return [match[1].lower(), match[2].lower()] if match else [name]


def _find_group(columns: Mapping[str, Column], used: set[str]) -> str | None:
    """A column that says what several rows belong to."""
    for column in columns.values():
        fits = column.kind in ("text", "whole") and not column.nulls and column.name not in used
        if fits and GROUPS & set(column.tokens) and 5 <= column.distinct <= 0.9 * column.rows:
            return column.name
    return None


def _no_label(columns: Mapping[str, Column], data: str, folder: Path) -> DataError:
    expected = "a column of labels: named label, class, category, ..., or with few distinct values"
    fix = "pass data with one label per row, in a column named label"
    if any(column.kind == "image" for column in columns.values()):
        fix = "pass a folder with a subfolder per class (train/cat/1.jpg), or a csv with columns image and label"
        tables = (
            sorted(file.name for file in folder.iterdir() if file.suffix in (".csv", ".tsv")) if folder.is_dir() else []
        )
        if tables:
            fix = f"if {tables[0]} holds paths and labels, pass that file: {folder / tables[0]}"
    return DataError(Finding(place=data, expected=expected, found=describe_columns(columns), fix=fix))


def _nothing_to_read(columns: Mapping[str, Column], expected: str, data: str, folder: Path) -> DataError:
    fix = "pass data with a column of texts (named text) or of images"
    if lost := next((column for column in columns.values() if column.kind == "lost path"), None):
        fix = f"write the paths in {lost.name!r} relative to {folder}"
    elif any(column.kind in ("image", "path") for column in columns.values()):
        fix = "pass --task image-classification"
    elif any(column.kind == "list" for column in columns.values()):
        fix = "lists of words need a list of tags in IOB2 each (O, B-PER, I-PER, ...), with names for tags as numbers"
    return DataError(Finding(place=data, expected=expected, found=describe_columns(columns), fix=fix))
