"""Laws of the lines that load the model of a run."""

from __future__ import annotations

import pytest
from record_fixture import make_record

from hf_sft.card_metadata import languages
from hf_sft.record import RunRecord
from hf_sft.task_words import WORDS
from hf_sft.usage import loading_lines

TEXTS = {"text-classification", "token-classification"}


def record_of(task: str) -> RunRecord:
    recipe = {"task": task, "model": {"name": "me/base"}, "tuning": {"strategy": "lora", "lora": {"merge": False}}}
    return make_record(recipe=recipe, origins={"dataset": {"language": ["en"]}})


@pytest.mark.parametrize("task", WORDS)
def test_a_model_beside_its_adapters_is_given_the_processor_of_what_it_reads(task: str) -> None:
    lines = loading_lines(record_of(task), "'run/model'")
    assert ("tokenizer=folder" in lines[-1]) == (task in TEXTS)
    assert ("image_processor=processor" in lines[-1]) == (task not in TEXTS)
    assert any("AutoImageProcessor.from_pretrained" in line for line in lines) == (task not in TEXTS)
    assert ("AutoImageProcessor, " in lines[0]) == (task not in TEXTS)


@pytest.mark.parametrize("task", WORDS)
def test_only_models_of_texts_have_a_language(task: str) -> None:
    assert languages(record_of(task)) == (["en"] if task in TEXTS else [])
