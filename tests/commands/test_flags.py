"""Laws of errors on a command line without a recipe: what they say to do can be typed."""

from __future__ import annotations

import pytest

from hf_sft.commands.flags import said_with_flags, with_flags
from hf_sft.errors import DataError, Finding


@pytest.mark.parametrize(
    ("fix", "said"),
    [
        ('set dataset.options: {sep: ";"}', "--option sep=';'"),
        ("mend it, or set dataset.options for its reader", "mend it, or set --option NAME=VALUE for its reader"),
        ("mend those rows, or set dataset.on_bad_row: skip", "mend those rows, or --on-bad-row skip"),
        ("set dataset.columns: {text: body}", "--columns text=body"),
        ("relative paths start from the recipe's folder", "relative paths start from the working directory"),
        ("did you mean 'label'?", "did you mean 'label'?"),
    ],
)
def test_what_to_do_is_said_with_flags(fix: str, said: str) -> None:
    assert with_flags(Finding(place="here", fix=fix), data=True).fix == said


def test_what_concerns_the_recipe_of_a_run_stays_as_it_is() -> None:
    finding = Finding(place="dataset.path", fix="check the path; relative paths start from the recipe's folder")
    assert with_flags(finding, data=False) == finding
    assert with_flags(finding, data=True).place == "--data"
    assert with_flags(Finding(place="x", fix="set dataset.on_bad_row: skip"), data=False).fix == "--on-bad-row skip"


def test_an_error_keeps_its_kind_and_every_finding() -> None:
    findings = [Finding(place=f"dataset.columns.{role}", found=role) for role in ("text", "label")]
    with pytest.raises(DataError) as caught, said_with_flags(data=True):
        raise DataError(findings)
    assert [finding.place for finding in caught.value.findings] == ["--columns text", "--columns label"]
    with pytest.raises(DataError, match="words alone"), said_with_flags(data=True):
        raise DataError("words alone")
