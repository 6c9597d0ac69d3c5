"""The front matter of a model card: what the Hub reads of it, results included."""

from __future__ import annotations

import re
from pathlib import PureWindowsPath

from hf_sft import summary
from hf_sft.markdown import without_folders
from hf_sft.record import RunRecord
from hf_sft.task_words import WORDS
from hf_sft.usage import holds_adapters_alone

READERS = frozenset({"arrow", "audiofolder", "csv", "imagefolder", "json", "pandas", "parquet", "text", "webdataset"})
FILE = re.compile(r"\.(arrow|bin|csv|gz|jsonl?|parquet|pth?|safetensors|tsv|txt|xz|zip|zst)$", re.IGNORECASE)
MOST_DRAWN = 40  # labels that can be told apart in a picture of which is taken for which
# What the Hub calls our metrics (https://huggingface.co/metrics), where the name is another.
HUB_METRICS = {
    "macro_f1": "f1", "micro_f1": "f1", "weighted_f1": "f1",
    "macro_precision": "precision", "micro_precision": "precision", "weighted_precision": "precision",
    "macro_recall": "recall", "micro_recall": "recall", "weighted_recall": "recall",
    "matthews": "matthews_correlation", "auroc": "roc_auc",
    "entity_f1": "f1", "entity_precision": "precision", "entity_recall": "recall", "token_accuracy": "accuracy",
    "pearson": "pearsonr", "spearman": "spearmanr", "r2": "r_squared",
}  # fmt: skip


def front_matter(record: RunRecord) -> str:
    """YAML: what the model is, what it was made from, and its results on the headline split as a model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    task, split, origins = record.recipe["task"], headline_split(record), record.origins
    published, base = hub_data_set(record), base_model(record)
    found = [
        EvalResult(
            task_type=task,
            dataset_type=without_folders(record.recipe["dataset"]["path"]),
            dataset_name=data_set_name(record).rpartition("/")[2].removeprefix("bundled:"),
            dataset_config=record.recipe["dataset"].get("name") if published else None,
            dataset_split=split,
            dataset_revision=(origins.get("dataset") or {}).get("commit") if published else None,
            metric_type=HUB_METRICS.get(result.metric, result.metric),
            metric_name=result.metric,
            metric_value=result.value,
        )
        for result in (summary.results(record, split) if split else ())
        if result.value is not None
    ]
    metrics = [HUB_METRICS.get(name, name) for name in summary.asked_metrics(record)]
    data = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if holds_adapters_alone(record) else "finetune") if base else None,
        datasets=[published] if published else None,
        eval_results=found or None,
        language=languages(record) or None,
        library_name="peft" if holds_adapters_alone(record) else "transformers",
        **license_of(record),  # type: ignore[arg-type]
        metrics=list(dict.fromkeys(metrics)) or None,
        model_name=summary.run_name(record) if found else None,
        pipeline_tag=task,
        tags=["hf_sft", task],
        **_widget(record),  # type: ignore[arg-type]
    )
    return data.to_yaml()


def license_of(record: RunRecord) -> dict[str, str]:
    """What the recipe says, else that of the pretrained model; empty where neither is known."""
    chosen = (record.recipe.get("hub") or {}).get("license")
    if chosen:
        return {"license": chosen}
    if record.recipe["model"].get("weights") == "random":
        return {}
    known = record.origins.get("model") or {}
    return {key: known[key] for key in ("license", "license_name", "license_link") if known.get(key)}


def languages(record: RunRecord) -> list[str]:
    """Of a model of texts: those of the data set, else the only one of the pretrained model."""
    if WORDS[record.recipe["task"]].of_images:
        return []
    of_data, of_model = ((record.origins.get(part) or {}).get("language") or [] for part in ("dataset", "model"))
    return list(of_data or (of_model if len(of_model) == 1 else []))


def _widget(record: RunRecord) -> dict[str, list[dict[str, str]]]:
    """Rows of validation, to be tried on the model's page."""
    shown = [{**example, "example_title": f"Example {place}"} for place, example in enumerate(record.examples, start=1)]
    return {"widget": shown} if shown else {}


def base_model(record: RunRecord) -> str | None:
    """The Hub id of the weights that training began with; None where they came from elsewhere or from nowhere."""
    model = record.recipe["model"]
    if model.get("weights") == "random":
        return None
    name = model.get("base_model") or (None if model.get("weights") else model["name"])
    return name if is_hub_id(name) else None


def hub_data_set(record: RunRecord) -> str | None:
    """The Hub id of the data set; None where the rows came from files or from memory."""
    path = record.recipe["dataset"]["path"]
    source = str((record.data.get("train") or {}).get("source") or path)
    elsewhere = without_folders(source) != source or ("memory" in source and path not in source)
    return path if path not in READERS and is_hub_id(path) and not elsewhere else None


def data_set_name(record: RunRecord) -> str:
    """The data set as people call it: its path, or its files where the path only names a reader; no absolute path."""
    source = record.recipe["dataset"]
    files = source.get("data_files")
    if source["path"] not in READERS or not files:
        return without_folders(source["path"])
    parts = list(files.values()) if isinstance(files, dict) else [files]
    flat = [name for part in parts for name in (part if isinstance(part, (list, tuple)) else [part])]
    return ", ".join(PureWindowsPath(str(name)).name for name in flat[:3]) + (", ..." if len(flat) > 3 else "")


def repository(record: RunRecord) -> str | None:
    """Where the model lies on the Hub, or will."""
    return (record.recipe.get("hub") or {}).get("repo_id")


def shows_confusion(record: RunRecord, split: str | None) -> bool:
    """Whether there is a picture of which labels are taken for which."""
    return 2 <= len(record.confusion.get(split or "", ())) <= MOST_DRAWN


def headline_split(record: RunRecord) -> str | None:
    """The split whose numbers stand for the model: test, else validation, else none."""
    found = summary.splits(record)
    return next((split for split in ("test", "validation") if split in found), None)


def is_hub_id(name: str | None) -> bool:
    """Whether a name is written as a Hub id is: no path, no file, no `package:`. Nothing is looked up."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not name or FILE.search(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
