"""Laws of tables: they fit, they keep every letter, and they are aligned."""

from __future__ import annotations

import random

import pytest

from hf_sft.tables import Table, as_html, as_text, narrowest

WORDS = ("training.num_train_epochs", "0.8500", "package:a/b_c", "-", "a, b, c", "x" * 40, "")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", [40, 80, 100])
def test_tables_fit_and_keep_every_letter(seed: int, width: int) -> None:
    draw = random.Random(seed)
    number = draw.randint(1, 4)
    rows = [[" " * draw.randint(0, 3) + draw.choice(WORDS) for _ in range(number)] for _ in range(6)]
    text = as_text(Table(rows=rows), width)
    least = sum(narrowest(column) + 2 for column in zip(*rows, strict=True)) - 2
    assert max(map(len, text.splitlines())) <= max(width, least)
    assert sorted("".join(text.split())) == sorted("".join("".join(map("".join, rows)).split()))


def test_wrapped_cells_stay_in_their_column() -> None:
    text = as_text(Table(heads=("key", "value"), rows=[("  a.long_key", "1"), ("b", "2")]), 14)
    assert text.splitlines() == ["key      value", "  a.         1", "  long_", "  key", "b            2"]


def test_firm_columns_are_not_wrapped() -> None:
    lines = as_text(Table(rows=[("one_two_three", "four five six")], firm=1), 20).splitlines()
    assert lines[0].startswith("one_two_three")
    assert len(lines) > 1


def test_headings_span_the_table() -> None:
    lines = as_text(Table(rows=[("a heading that is long", ""), ("a", "1")]), 80).splitlines()
    assert lines == ["a heading that is long", "a  1"]


def test_html_is_escaped_and_indented() -> None:
    page = as_html(Table(title="<t>", heads=("<h>",), rows=[("  <c>",)]))
    assert "&lt;t&gt;" in page and "&lt;h&gt;" in page and "&nbsp;&nbsp;&lt;c&gt;" in page
