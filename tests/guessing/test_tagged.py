"""Words with tags and texts with spans are recognised, and a recipe for them runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_sft.commands.init import write_recipe
from hf_sft.errors import DataError
from hf_sft.guessing.tagged import find_tagged
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import load_data

WORDS = [["Ada", "left"], ["Rome", "is", "old"]] * 10
TAGS = [["B-PER", "O"], ["B-LOC", "O", "O"]] * 10


def test_the_tags_are_the_list_as_long_as_the_words_that_keeps_to_iob2() -> None:
    """Parts of speech, lists of another length and chunks beside them are told apart; chunks could be meant."""
    rows: dict[str, Any] = {
        "pos_tags": [["NNP", "VB"], ["NNP", "VB", "JJ"]] * 10,
        "chunk_tags": [["B-NP", "B-VP"], ["B-NP", "B-VP", "B-ADJP"]] * 10,
        "authors": [["O"], ["B-X"]] * 10,
        "tokens": WORDS,
        "ner_tags": TAGS,
    }
    found = find_tagged(Dataset.from_dict(rows))
    assert found is not None and found.columns == {"tokens": "tokens", "label": "ner_tags"}
    assert found.others == ["chunk_tags"]


def test_ids_need_names() -> None:
    ids = [[1, 0], [2, 0, 0]] * 10
    named = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-PER", "B-LOC"]))})
    assert find_tagged(Dataset.from_dict({"tokens": WORDS, "tags": ids})) is None
    found = find_tagged(Dataset.from_dict({"tokens": WORDS, "tags": ids}, features=named))
    assert found is not None and found.columns["label"] == "tags"


def test_texts_and_lists_alone_are_no_tags() -> None:
    assert find_tagged(Dataset.from_dict({"text": ["a b"] * 4, "label": [["x"], ["y", "z"]] * 2})) is None
    assert find_tagged(Dataset.from_dict({"tokens": WORDS})) is None


@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_a_recipe_for_them_reads_them(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"tokens": words, "ner_tags": tags} for words, tags in zip(WORDS, TAGS, strict=True)]
    if kind == "spans":
        rows = [
            {"text": " ".join(words), "entities": [{"start": 0, "end": len(words[0]), "label": tags[0][2:]}]}
            for words, tags in zip(WORDS, TAGS, strict=True)
        ]
    file.write_text("\n".join(map(json.dumps, rows)))
    write_recipe(str(file), output=tmp_path / "r.yaml")
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.task == "token-classification" and recipe.metrics[0] == "entity_f1"
    found = load_data(recipe, TASKS[recipe.task])
    assert found.labels.names == ("O", "B-LOC", "B-PER")


def test_a_task_that_the_data_cannot_serve_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"a {row}", "label": row % 2}) for row in range(10)))
    with pytest.raises(DataError, match="lists of words with a list of tags in IOB2"):
        write_recipe(str(file), output=tmp_path / "r.yaml", task="token-classification")
