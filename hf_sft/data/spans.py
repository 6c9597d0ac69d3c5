"""Spans of characters in a text, as tags of its words; and signs that spans were written by another rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, List, Value

from hf_sft.data.bad_rows import Fault
from hf_sft.data.labels import OUTSIDE, LabelColumn
from hf_sft.data.tag_columns import PLACE, wrong_column
from hf_sft.data.words import Words, split_text
from hf_sft.errors import DataError, Finding, first_few

SPAN_KEYS = ("start", "end", "label")
PREFIXES = ("B-", "I-")
MISREAD = 3  # spans; fewer that would fit by another rule are taken for bad ones
LEAST_SHARE = 0.1  # of all spans that must speak for another rule
Span = tuple[int, int, Any]  # start, end, label


def read_spans(rows: Dataset, name: str, text: str) -> LabelColumn:
    """The tags that the spans of every row make of its words. name, text: the columns of both.

    Raises DataError for a column of another kind, for ends that count their last character, and for labels that are
    tags: those rows are not bad, they are misread, and some of them would fit.
    """
    feature = rows.features[name]
    inner = feature.feature if isinstance(feature, List) else feature
    keys = inner if isinstance(inner, dict) else {}
    nested = isinstance(feature, dict)  # {"start": [...], "end": [...], "label": [...]}
    if not set(SPAN_KEYS) <= set(keys) and not _is_plain(feature):
        expected = "a list of spans per row: {start, end, label}, in characters"
        fix = "with a list of words set dataset.columns: {tokens: ...}"
        if keys or isinstance(inner, List):
            fix = f"give every span the keys start, end, label{': it has ' + ', '.join(keys) if keys else ''}"
        raise wrong_column(rows, name, expected, fix)
    kind = keys.get("label")
    kind = kind.feature if isinstance(kind, List) else kind
    names = kind.names if isinstance(kind, ClassLabel) else None
    values, faults = [], []
    read: list[tuple[Words, list[Span]]] = []
    columns = [name, *([text] if text in rows.column_names else [])]
    batch = rows.select_columns(columns)[:]
    for position, cell in enumerate(batch[name]):
        spans = _unnested(cell) if nested and cell is not None else cell
        content = batch[text][position] if text in batch else None
        made: Any = None
        if isinstance(content, str) and spans is not None:
            words = split_text(content)
            made = tag_words(words, spans, names)
            read.append((words, [found for span in spans if (found := read_span(span, names))]))
        if isinstance(made, str):
            problem, _, detail = made.partition(": ")
            expected = "spans on the borders of words, inside the text and apart"
            fault = Fault(position=position, role="label", column=name, kind=problem, detail=detail, expected=expected)
            faults.append(fault)
            made = None
        elif made is None and spans is not None and not isinstance(content, str):
            made = []  # a text that is not there is another function's complaint
        values.append(made)
    findings = [*_find_inclusive(read), *_find_prefixes(read)]
    if findings:
        raise DataError(findings)
    return LabelColumn(values=values, faults=tuple(faults))


def _is_plain(feature: Any) -> bool:
    """A column in which nothing but empty lists stands, or one that json could give no type."""
    return not isinstance(feature, (Value, ClassLabel, dict)) and (
        not isinstance(feature, List) or getattr(feature.feature, "dtype", "") == "null"
    )


def _unnested(cell: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(SPAN_KEYS, parts, strict=True)) for parts in zip(*(cell[key] for key in SPAN_KEYS), strict=True)]


def read_span(span: Any, names: Sequence[str] | None = None) -> Span | None:
    """A span with whole numbers (10.0 is one) and its label by name; None for what is no span."""
    start, end, label = (span.get(key) if isinstance(span, Mapping) else None for key in SPAN_KEYS)
    start, end = (int(place) if isinstance(place, float) and place.is_integer() else place for place in (start, end))
    if not isinstance(start, int) or not isinstance(end, int) or label is None:
        return None
    return start, end, names[label] if names is not None and isinstance(label, int) else str(label)


def tag_words(words: Words, spans: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str] | str:
    """A tag per word; or, where a span cannot be one, what is wrong with it, in words that follow a column's name.

    Space at a span's borders is no part of it. names: of labels that are integers.
    """
    tags, text = [OUTSIDE] * len(words.starts), words.text
    for span in spans:
        read = read_span(span, names)
        if read is None:
            return f"holds what is no span: {str(span)[:60]}"
        start, end, kind = read
        shown = _show(text, start, end)
        if not 0 <= start < end <= len(text):
            return f"holds spans outside the text: {shown}, in a text of {len(text)} characters"
        first = int(np.searchsorted(words.ends, start, side="right"))
        last = int(np.searchsorted(words.starts, end, side="left"))
        if first >= last:
            return f"holds spans without a word: {shown}"
        if words.starts[first] < start or words.ends[last - 1] > end:
            return f"holds spans that cut a word: {shown}"
        if any(tag != OUTSIDE for tag in tags[first:last]):
            return f"holds spans that overlap: {shown}"
        tags[first:last] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first - 1)
    return tags


def _show(text: str, start: int, end: int) -> str:
    return f"{start} to {end}, {text[start:end][:40]!r}" if 0 <= start < end else f"{start} to {end}"


def _find_inclusive(rows: Sequence[tuple[Words, Sequence[Span]]]) -> list[Finding]:
    """A finding where most spans that end inside a word would end with it if the end were one more.

    Spans that begin inside a word say nothing. Those that end with a word as they stand, and would not with one more,
    speak against it: a few spans that lost a letter are bad rows.
    """
    total = plain = odd = 0
    fitting: list[str] = []
    for words, spans in rows:
        starts, ends = set(words.starts.tolist()), set(words.ends.tolist())
        for start, end, _ in spans:
            total += 1
            if start not in starts:
                continue
            as_written, with_last = start < end and end in ends, start <= end and end + 1 in ends
            plain += as_written and not with_last
            if with_last and not as_written:
                fitting.append(f"{_show(words.text, start, end)} of {words.text[start : end + 1][:40]!r}")
            elif not as_written and end < len(words.text) and _cuts(words, end):
                odd += 1
    number = len(fitting)
    if number < MISREAD or number <= max(odd, plain) or number < LEAST_SHARE * total:
        return []
    found = f"{number:,} of {total:,} spans lack their last character, as {fitting[0]}"
    expected = "ends as Python's slices have them: the number of the first character after the span"
    fix = "these ends look inclusive, and hf_sft's are exclusive: add 1 to every end"
    return [Finding(place=PLACE, expected=expected, found=found, fix=fix)]


def _cuts(words: Words, end: int) -> bool:
    """Whether a place lies inside a word."""
    word = int(np.searchsorted(words.ends, end, side="right"))
    return word < len(words.starts) and bool(words.starts[word] < end)


def _find_prefixes(rows: Sequence[tuple[Words, Sequence[Span]]]) -> list[Finding]:
    """A finding where the labels of all spans are tags of words (B-LOC), and not types (LOC)."""
    labels = dict.fromkeys(label for _, spans in rows for *_, label in spans if label != OUTSIDE)
    if not labels or not all(label[:2] in PREFIXES and len(label) > 2 for label in labels):
        return []
    types = dict.fromkeys(label[2:] for label in labels)
    fix = f"write {first_few(list(types), 8)}: B- and I- are made here"
    if any(label.startswith("I-") for label in labels):
        fix += ", and one span of all words of an entity"
    expected = "types of entities as the labels of spans"
    return [Finding(place=PLACE, expected=expected, found=first_few([repr(label) for label in labels], 8), fix=fix)]
