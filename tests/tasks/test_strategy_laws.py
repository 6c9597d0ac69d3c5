"""Laws of strategies over words with tags, masks and boxes: what is frozen stays, what is saved gave the answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from tiny_runs import make_data, make_recipe, prepare, weights

from hf_sft import fine_tune
from hf_sft.job import Job
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.modeling.lora import adapter_parameters
from hf_sft.record import RunRecord

FAMILIES = {"bert_tags": "entity_f1", "segformer": "mean_iou", "rt_detr": "map"}  # family -> a metric: others take time
STEPS = 3
STRATEGIES: dict[str, tuple[dict[str, Any], str]] = {  # name -> the recipe's tuning, a block that stays as it was
    "first_layers": ({"strategy": "first_layers", "layers": 1}, "the last layer"),
    "gradual": ({"strategy": "gradual", "gradual": {"every": STEPS - 1, "unit": "steps"}}, "block.0"),
    "layer_decay": ({"strategy": "layer_decay", "layer_decay": 0.5}, ""),
    "lora merged": ({"strategy": "lora", "lora": {"rank": 2}}, "embeddings"),
    "lora alone": ({"strategy": "lora", "lora": {"rank": 2, "merge": False}}, "embeddings"),
    "full, averaged": ({"strategy": "full", "ema": 0.5, "wise_ft": {"alpha": 0.7}}, ""),
    "rules": ({"strategy": "rules", "rules": [{"pattern": "block.0", "lr_scale": 0}, {"pattern": "*"}]}, "block.0"),
}
ADAPTED = re.compile(r"\.base_layer\b")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_stay_and_the_saved_model_gives_the_predictions(
    family: str, strategy: str, models: Path, tmp_path: Path
) -> None:
    tuning, still = STRATEGIES[strategy]
    if "lora" in tuning:
        pytest.importorskip("peft")
    training = {"max_steps": STEPS, "per_device_train_batch_size": 3, "eval_strategy": "no", "save_strategy": "no"}
    settings: dict[str, Any] = {"tuning": tuning, "training": training, "metrics": [FAMILIES[family]]}
    recipe = make_recipe(family, models, tmp_path / "run", dataset={"splits": {"validation": None}}, **settings)
    data = make_data(family, train=6, test=3)
    work = prepare(recipe, data)
    before = {ADAPTED.sub("", name): value for name, value in weights(work).items()}
    record = fine_tune(recipe, data=data)
    assert len(record.history["steps"]) == STEPS and record.directory.model.is_dir()
    model = reloaded(work, record.directory.model, alone=strategy == "lora alone")
    after = {name: value.numpy() for name, value in model.state_dict().items()}
    assert set(after) == {name for name in before if ".lora_" not in name}
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    learns = learning(work)
    assert changed & learns and not (changed & named_parameters(model)) - learns
    blocks = {block.name: set(block.parameters) for block in find_blocks(model)}
    assert changed & blocks["head"]
    layers = [name for name in blocks if name.startswith("block.")]
    if still:
        assert not changed & blocks[layers[-1] if still == "the last layer" else still]
    else:
        assert all(changed & names for names in blocks.values())
    answers_alike(work, model, record.directory.predictions("test"))
    card_serves(record, data["test"][0], run=strategy in ("lora alone", "rules"))


def card_serves(record: RunRecord, row: dict[str, Any], *, run: bool) -> None:
    """The card holds the metrics and the lines that load the model, which (run) answer for a row."""
    card = (record.directory.model / "README.md").read_text(encoding="utf-8")
    data: Any = ModelCard(card).data
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == record.metrics["test"] and len(results) > 1
    assert f"pipeline_tag: {record.recipe['task']}" in card and "path/to/model" in card
    for name, value in results.items():
        assert f"| test | {name} | {value:.4f} |" in card
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    *lines, asked = snippet.replace("path/to/model", str(record.directory.model)).rstrip().split("\n")
    assert asked.startswith("print(")
    if run:
        names: dict[str, Any] = {}
        exec("\n".join(lines), names)
        ask = names[asked.removeprefix("print(").partition("(")[0]]
        answers = ask(row["image"] if "image" in row else " ".join(row["tokens"]))
        assert {answer.get("label", answer.get("entity_group")) for answer in answers} <= set(record.labels["names"])


def named_parameters(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def learning(work: Job) -> set[str]:
    """Names in the saved model of what the rules let move in so many steps."""
    names = {name for name, rule in work.rules.items() if rule.lr_scale > 0 and rule.after < STEPS}
    carrying = {name.partition(".lora_")[0] + ".weight" for name in adapter_parameters(work.built.model)}
    return {name for name in names if ".lora_" not in name} | carrying


def reloaded(work: Job, folder: Path, *, alone: bool) -> Any:
    """What transformers makes of a saved folder, without us."""
    auto = getattr(transformers, work.task.auto_model)
    if not alone:
        model, report = auto.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
        return model
    config = transformers.AutoConfig.from_pretrained(folder, subfolder="config")
    adapted = auto.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
    assert not (folder / "model.safetensors").exists() and adapted.peft_config
    from hf_sft.modeling.adapter_files import load_adapted

    merged = load_adapted(auto, str(folder), config)
    batch = {
        name: value for name, value in work.collate(work.inputs["test"].features(2)).items() if "label" not in name
    }
    with torch.inference_mode():
        one, other = (model.eval()(**batch).logits for model in (adapted, merged))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    return merged


def answers_alike(work: Job, model: Any, file: Path) -> None:
    """The model's answers to the test rows, written as a run writes them, are those of its predictions file."""
    inputs = work.inputs["test"]
    rows = work.evaluator.predict(model, inputs.rows, inputs.lengths, work.labels)
    assert inputs.targets is not None
    rows["references"] = inputs.targets
    written = work.task.write(rows, work.labels, work.recipe, inputs.source)
    table = pyarrow.parquet.read_table(file)
    assert set(table.column_names) == {"row_id", *written}
    for name, values in written.items():
        for one, other in zip(table[name].to_pylist(), values, strict=True):
            assert_close(one, other)


def assert_close(one: Any, other: Any) -> None:
    """Numbers to 1e-4; all else exactly, whatever holds it."""
    other = other.tolist() if isinstance(other, np.ndarray | np.generic) else other
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_close(left, right)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    else:
        assert one == other
