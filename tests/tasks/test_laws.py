"""Laws of every task, over words with tags, masks and boxes: rows keep their ids, strategies train what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from datasets import Dataset
from PIL import Image as pil
from tiny_runs import make_data, make_recipe, prepare, train, weights

from hf_sft import fine_tune
from hf_sft.modeling.anatomy import find_blocks

FAMILIES = ("bert_tags", "segformer", "rt_detr")
BAD = 2  # the row of test that cannot be used


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def spoilt(family: str, rows: Dataset) -> Dataset:
    """The rows with one whose target cannot be used: too few tags, a mask of colours, a box outside its image."""
    changed: list[dict[str, Any]] = rows.to_list()
    if family == "bert_tags":
        changed[BAD]["ner_tags"] = []
        return Dataset.from_list(changed)
    if family == "segformer":
        masks = list(rows["mask"])
        masks[BAD] = pil.new("RGB", masks[BAD].size, "red")
        return Dataset.from_dict({"image": list(rows["image"]), "mask": masks}, features=rows.features)
    changed[BAD]["objects"] = {"bbox": [[60.0, 60.0, 30.0, 30.0]], "category": [0]}
    return Dataset.from_list(changed, features=rows.features)


def reference_of(family: str, row: dict[str, Any]) -> Any:
    """What the predictions file says of the truth of a row of the source."""
    if family == "bert_tags":
        return row["ner_tags"]
    if family == "segformer":
        ids, counts = np.unique(np.asarray(row["mask"]), return_counts=True)
        return [str(ids[place]) for place in np.argsort(-counts, kind="stable")]
    left, top, width, height = np.array(row["objects"]["bbox"]).T
    return np.stack([left, top, left + width, top + height], 1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_stand_beside_their_rows_where_bad_ones_are_skipped(
    family: str, models: Path, tmp_path: Path
) -> None:
    data = make_data(family, train=8, validation=4, test=7)
    data["test"] = spoilt(family, data["test"])
    training = {"num_train_epochs": 1, "per_device_eval_batch_size": 3}
    recipe = make_recipe(family, models, tmp_path / "run", training=training, dataset={"on_bad_row": "skip"})
    fine_tune(recipe, data=data)
    table = pyarrow.parquet.read_table(tmp_path / "run" / "predictions" / "test.parquet").to_pylist()
    assert [row["row_id"] for row in table] == [number for number in range(7) if number != BAD]
    column = "reference_boxes" if family == "rt_detr" else "reference"
    for row in table:
        assert row[column] == reference_of(family, data["test"][row["row_id"]])
    bad = (tmp_path / "run" / "report" / "bad_rows.csv").read_text().splitlines()
    assert len(bad) == 2 and bad[1].startswith("test,") and f",{BAD}," in bad[1]


@pytest.mark.parametrize("tuning", [{"strategy": "head"}, {"strategy": "top_layers", "layers": 1}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_strategies_train_what_they_say(family: str, tuning: dict[str, Any], models: Path, tmp_path: Path) -> None:
    training = {"max_steps": 4, "eval_strategy": "no"}
    recipe = make_recipe(family, models, tmp_path, tuning=tuning, training=training)
    work = prepare(recipe, make_data(family, train=8, validation=4))
    blocks = find_blocks(work.built.model)
    last = max((block.name for block in blocks if block.name.startswith("block.")), key=lambda name: int(name[6:]))
    wanted = {"head"} | ({last, "final"} if tuning["strategy"] == "top_layers" else set())
    before = weights(work)
    train(work)
    changed = {name for name, value in weights(work).items() if not np.array_equal(value, before[name])}
    parameters = {name: block.name for block in blocks for name in block.parameters}
    new = {parameters[name] for name in work.built.new}
    assert {parameters[name] for name in changed if name in parameters} == (wanted | new) & {b.name for b in blocks}
