"""Laws of rows as the model reads them: targets beside inputs, fillers that weigh nothing, one decoding per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Image
from tiny import images
from torch.utils.data import DataLoader

from hf_sft.data.rows import Rows, row_lengths

IDS = [[1], [1, 2, 3], [4, 5], [6, 7, 8, 9], []]


def make(transform: Any = None, targets: Any = tuple(range(10, 15))) -> Rows:
    targets = None if targets is None else np.asarray(targets)
    return Rows(Dataset.from_dict({"input_ids": IDS, "kind": list("abcde")}), transform, targets)


def test_a_row_has_its_inputs_its_target_and_its_weight() -> None:
    rows = make()
    assert len(rows) == 5
    assert rows[1] == {"input_ids": [1, 2, 3], "kind": "b", "labels": 11, "weight": 1.0}
    assert rows.__getitems__([3, 0]) == [rows[3], rows[0]]


def test_rows_without_targets_have_no_labels() -> None:
    assert make(targets=None)[2] == {"input_ids": [4, 5], "kind": "c", "weight": 1.0}


@pytest.mark.parametrize("index", range(5))
def test_a_filler_repeats_its_row_and_weighs_nothing(index: int) -> None:
    rows = make()
    filler = rows[index + len(rows)]
    assert filler == {**rows[index], "weight": 0.0}
    assert rows[index]["weight"] == 1.0


def test_fillers_and_rows_may_share_a_batch() -> None:
    rows = make()
    batch = rows.__getitems__([4, 0, 5, 9, np.int64(2), np.int64(7)])
    assert [feature["kind"] for feature in batch] == ["e", "a", "a", "e", "c", "c"]
    assert [feature["labels"] for feature in batch] == [14, 10, 10, 14, 12, 12]
    assert [feature["weight"] for feature in batch] == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]


def test_targets_may_be_vectors() -> None:
    targets = np.eye(5, dtype=np.float32)
    rows = make(targets=targets)
    assert [feature["labels"].tolist() for feature in rows.__getitems__([3, 6])] == [
        targets[3].tolist(),
        targets[1].tolist(),
    ]


def test_a_transform_sees_each_batch_once_and_whole() -> None:
    seen = []

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        seen.append(batch["kind"])
        return {"upper": [kind.upper() for kind in batch["kind"]]}

    rows = make(transform)
    assert [feature["upper"] for feature in rows.__getitems__([2, 0, 7])] == ["C", "A", "C"]
    assert seen == [["c", "a", "c"]]
    assert rows[1] == {"upper": "B", "labels": 11, "weight": 1.0}


def test_a_transform_that_loses_rows_is_caught() -> None:
    with pytest.raises(ValueError):
        make(lambda batch: {"upper": ["A"]}).__getitems__([0, 1])


@pytest.mark.parametrize("batch_size", [1, 3, 24])
def test_an_image_is_decoded_once_per_sample_read(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, count = images(24), [0]
    decode = Image.decode_example

    def counted(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        return decode(*arguments, **options)

    monkeypatch.setattr(Image, "decode_example", counted)
    rows = Rows(
        source.select_columns(["image"]), lambda batch: {"size": [image.size for image in batch["image"]]}, None
    )
    for epoch in (1, 2):
        sizes = [feature["size"] for batch in DataLoader(rows, batch_size, collate_fn=list) for feature in batch]
        assert sizes == [(32, 32)] * 24 and count[0] == 24 * epoch


def test_lengths_are_those_of_the_lists() -> None:
    lengths = row_lengths(make().rows, "input_ids")
    assert lengths.dtype == np.int64 and lengths.tolist() == [len(ids) for ids in IDS]


def test_lengths_follow_chosen_rows_in_their_order() -> None:
    rows = make().rows.select([3, 0, 2])
    assert row_lengths(rows, "input_ids").tolist() == [4, 1, 2]


def test_rows_of_one_cost_have_length_one() -> None:
    lengths = row_lengths(make().rows, None)
    assert lengths.dtype == np.int64 and lengths.tolist() == [1] * 5


def test_lengths_of_images_decode_none(monkeypatch: pytest.MonkeyPatch) -> None:
    source = images(4)
    monkeypatch.setattr(Image, "decode_example", None)
    assert row_lengths(source, None).tolist() == [1] * 4
