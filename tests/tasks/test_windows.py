"""Windows over long rows: every word is read once, at its first token, where it stands best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tiny import WORDS, save_text_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from hf_sft.data.words import join_words, split_text
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.windows import collate_windows, one_window_each, tokenize_words

TASK = TASKS["token-classification"]
PIECES = ["un", "##believ", "##able", "tok", "##en", "##s", "a", "b", "##c", ".", ",", "é"]


def word_pieces() -> Any:
    """BERT's kind: pieces of words, lower case, accents and control characters dropped."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=10, **names)


def byte_pairs(kind: Any) -> Any:
    """GPT-2's kind: the space before a word is part of its first token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    merges = [("Ġ", letter) for letter in "abuz.Ãâ"] + [("Ġ", "t"), ("Ġt", "o"), ("o", "k"), ("Ġto", "k"), ("e", "n")]
    vocabulary |= {"".join(pair): len(vocabulary) + index for index, pair in enumerate(merges)}
    tokenizer = kind(vocab=vocabulary, merges=merges, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    tokenizer.model_max_length = 10
    return tokenizer


TOKENIZERS = {
    "wordpiece": word_pieces,
    "roberta": lambda: byte_pairs(RobertaTokenizer),
    "gpt2": lambda: byte_pairs(GPT2Tokenizer),
}
LONG = ["a", "unbelievable", "tokens", "b", "", "tokens", "\u200b", "a", "unbelievable", "b", "a", "zzz", "a", "é"] * 3


def ready(name: str, folder: Path) -> Any:
    """The tokenizer as the task loads it."""
    TOKENIZERS[name]().save_pretrained(folder)
    recipe = Recipe.from_dict(
        {"task": TASK.name, "model": {"name": "n"}, "dataset": {"path": "m"}, "processor": {"max_length": 10}}
    )
    config = type("Config", (), {"model_type": "bert", "max_position_embeddings": 64, "pad_token_id": 0})()
    return TASK.load_processor(str(folder), recipe, config, False)


@pytest.mark.parametrize("stride", [0, 3, 5])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_word_is_read_at_its_first_token_and_keeps_its_place(name: str, stride: int, tmp_path: Path) -> None:
    """As the tokenizer itself maps given words to tokens, one long row at once; what it drops has no place."""
    tokenizer = ready(name, tmp_path)
    whole = tokenizer(LONG, is_split_into_words=True, truncation=False, verbose=False)
    ids = whole.word_ids()
    first = {word: whole["input_ids"][ids.index(word)] for word in set(ids) if word is not None}
    row = tokenize_words(tokenizer, [join_words(LONG)], stride=stride)
    places = row["places"][0]
    assert len(places) == len(LONG) and len(row["windows"][0]) > 3
    assert {word for word, place in enumerate(places) if place < 0} == set(range(len(LONG))) - set(first)
    assert name != "wordpiece" or {LONG[word] for word, place in enumerate(places) if place < 0} == {"", "\u200b"}
    for word, token in first.items():
        assert row["input_ids"][0][places[word]] == token
    kept = [place for place in places if place >= 0]
    assert len(set(kept)) == len(kept), "no token stands for two words"
    assert max(row["windows"][0]) <= 10


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_is_read_where_it_stands_furthest_from_a_cut(name: str, tmp_path: Path) -> None:
    tokenizer = ready(name, tmp_path)
    words = ["a"] * 30
    special = tokenizer.num_special_tokens_to_add()
    row = tokenize_words(tokenizer, [join_words(words)], stride=4)
    size, step = 10 - special, 10 - special - 4
    starts, lengths = np.cumsum([0, *row["windows"][0]]), row["windows"][0]
    assert (sum(lengths) - len(lengths) * special) == 30 + 4 * (len(lengths) - 1)
    before = special // 2
    for word, place in enumerate(row["places"][0]):
        window = int(np.searchsorted(starts, place, side="right")) - 1
        inside = place - starts[window] - before
        assert window * step + inside == word
        others = [
            min(word - k * step if k else 99, k * step + size - 1 - word if k + 1 < len(lengths) else 99)
            for k in range(len(lengths))
            if k * step <= word < k * step + size
        ]
        here = min(inside if window else 99, size - 1 - inside if window + 1 < len(lengths) else 99)
        assert here == max(others)


def test_the_first_word_has_its_space_also_after_saving(tmp_path: Path) -> None:
    for name in ("roberta", "gpt2"):
        tokenizer = ready(name, tmp_path / name)
        tokenizer.save_pretrained(tmp_path / f"{name}_saved")
        for again in (tokenizer, type(tokenizer).from_pretrained(tmp_path / f"{name}_saved")):
            ids = again("tok tok", add_special_tokens=False)["input_ids"]
            assert len(ids) == 2 and ids[0] == ids[1], name


def test_training_windows_hold_every_word_once(tmp_path: Path) -> None:
    tokenizer = ready("wordpiece", tmp_path)
    rows = [join_words(LONG), join_words(["a", "b"]), join_words(["\u200b"]), split_text("tokens, unbelievable.")]
    mapped = Dataset.from_dict(tokenize_words(tokenizer, rows, stride=3))
    targets = np.empty(4, dtype=object)
    for row, words in enumerate(rows):
        targets[row] = np.arange(len(words.starts)) + 100 * row
    parts, answers, positions = one_window_each(mapped, targets)
    assert len(parts) == len(answers) == len(positions) and set(positions) == {0, 1, 3}
    seen = np.sort(np.concatenate(list(answers)))
    placed = [np.flatnonzero(np.array(mapped[row]["places"]) >= 0) + 100 * row for row in range(4)]
    assert seen.tolist() == np.concatenate(placed).tolist()
    for part, answer, position in zip(parts, answers, positions, strict=True):
        whole = mapped[int(position)]
        assert len(part["windows"]) == 1 and len(part["input_ids"]) == part["windows"][0] <= 10
        for place, word in zip(part["places"], answer, strict=True):
            assert part["input_ids"][place] == whole["input_ids"][whole["places"][word % 100]]


def test_a_batch_leads_each_word_to_its_token(tmp_path: Path) -> None:
    tokenizer = ready("wordpiece", tmp_path)
    rows = [join_words(["b"]), join_words(LONG), join_words(["\u200b", "a"])]
    columns = tokenize_words(tokenizer, rows, stride=2)
    features = [
        {name: values[row] for name, values in columns.items()}
        | {"weight": 1.0, "labels": np.arange(len(rows[row].starts))}
        for row in range(3)
    ]
    batch = collate_windows(tokenizer, features)
    assert batch["counts"].tolist() == [1, len(LONG), 2] and batch["weight"].tolist() == [1, 1, 1]
    flat, expected = (
        batch["input_ids"].reshape(-1),
        [
            columns["input_ids"][row][place] if place >= 0 else None
            for row in range(3)
            for place in columns["places"][row]
        ],
    )
    found = [int(flat[place]) if place >= 0 else None for place in batch["places"]]
    assert found == expected
    assert [label < 0 for label in batch["labels"].tolist()] == [token is None for token in expected]
    assert batch["attention_mask"].sum() == sum(map(len, columns["input_ids"]))


def test_windows_that_never_get_on_are_refused(tmp_path: Path) -> None:
    from hf_sft.errors import RecipeError
    from hf_sft.modeling.build import open_model

    save_text_model("bert", tmp_path)
    content = {"task": TASK.name, "model": {"name": str(tmp_path)}, "dataset": {"path": "m"}}
    recipe = Recipe.from_dict({**content, "processor": {"max_length": 12, "stride": 10}})
    with pytest.raises(RecipeError, match=r"(?s)processor\.stride.*less than the 10 tokens"):
        open_model(recipe, TASK)
    assert WORDS
