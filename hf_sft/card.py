"""The model card: README.md of a finished model, with results that the Hub reads and a body that people read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from hf_sft import summary
from hf_sft.card_metadata import (
    base_model,
    data_set_name,
    front_matter,
    headline_split,
    repository,
    shows_confusion,
)
from hf_sft.curves import best_epoch, greater_is_better, metric_names
from hf_sft.markdown import bullets, code, cut_folders, escape, fence, table, without_folders
from hf_sft.record import RunRecord
from hf_sft.summary import number
from hf_sft.task_words import WORDS as TASK_WORDS
from hf_sft.usage import holds_adapters_alone, loading_lines
from hf_sft.yaml12 import dump

SMALLEST_SLICE = 10  # rows, below which a slice says nothing
# What is never a path in a recipe, whatever it looks like.
WORDS = (("dataset", "labels"), ("dataset", "label_map"), ("dataset", "columns"), ("dataset", "group_column"))


def model_card(record: RunRecord) -> str:
    """README.md of model/: YAML front matter with a model-index, then Markdown. No absolute path appears in it."""
    from huggingface_hub import ModelCard

    sections = (
        _opening, _usage, _labels, _results, _pictures, _per_class, _confusion, _training, _recipe, _training_data,
        _limitations, _environment, _citation,
    )  # fmt: skip
    body = "\n\n".join(section for draw in sections if (section := draw(record)))
    card = str(ModelCard(f"---\n{front_matter(record)}\n---\n\n{body}\n"))
    _, header, text = re.split("^---\n", card, maxsplit=2, flags=re.MULTILINE)
    if header.replace("\n", "").isprintable():
        return card
    return f"---\n{dump(yaml.safe_load(header))}---\n{text}"  # huggingface_hub leaves what cannot be seen as it is


def _opening(record: RunRecord) -> str:
    labels, recipe = record.labels, record.recipe
    thing = TASK_WORDS[recipe["task"]].thing
    if "text_pair" in recipe["dataset"].get("columns", {}):
        thing = "a pair of texts"
    num_labels = len(labels.get("names") or [])
    effect = {
        "regression": f"gives {thing} a number",
        "multi_label": f"gives {thing} any of {num_labels} labels",
        "tags": f"finds entities in {thing}, by one of {num_labels} tags for each word",
        "boxes": f"finds objects in {thing}, each with a box and one of {num_labels} labels",
        "pixels": f"gives each pixel of {thing} one of {num_labels} classes",
    }.get(labels["problem"], f"gives {thing} one of {num_labels} labels")
    model = code(base_model(record) or without_folders(recipe["model"]["name"]))
    origin = "trained from scratch as" if recipe["model"].get("weights") == "random" else "fine-tuned from"
    name, data = escape(summary.run_name(record)), code(data_set_name(record))
    return f"# {name}\n\nThis model {effect}. It was {origin} {model} on {data} with `hf_sft`."


def _pictures(record: RunRecord) -> str:
    shown = "\n\n".join(picture_of(name, "rows with truth and prediction") for name in record.pictures)
    return (
        shown
        and f"## Examples\n\nOf the validation split, the worst first: the row, its truth, the prediction.\n\n{shown}"
    )


def _results(record: RunRecord) -> str:
    rows = [
        (split, *summary.compared(record, result))
        for split in summary.splits(record)
        for result in summary.results(record, split)
    ]
    baseline, *probe = f"{summary.baseline_name(record)} baseline", *summary.baseline_heads(record)[1:]
    found = table(("split", "metric", "value", "95 % interval", baseline, *probe), rows, right=3 + len(probe))
    items = {"pixels": "pixels", "tags": "words"}.get(record.labels["problem"], "rows")
    told = " Linear probe: the pretrained model with nothing but its last layer fitted." if probe else ""
    return found and (
        f"## Results\n\n{found}\n\nIntervals: bootstrap over the rows of the split. {baseline.capitalize()}: the same "
        f"answer for every row.{told} `loss` is the mean over {items}, without label smoothing."
    )


def _usage(record: RunRecord) -> str:
    task, problem = record.recipe["task"], record.labels["problem"]
    pair, words = "text_pair" in record.recipe["dataset"].get("columns", {}), TASK_WORDS[task]
    row = '{"text": "first", "text_pair": "second"}' if pair else words.example
    place = repository(record)
    lines = loading_lines(record, json.dumps(place or "path/to/model"))
    told = "`path/to/model` is the folder of this card, or its repository on the Hub."
    if place:
        told = "Where the repository is private, `hf auth login` comes first."
    if holds_adapters_alone(record):
        told += (
            " It holds low-rank adapters and the head; `base_model_name_or_path` in `adapter_config.json` says where "
            "the model lies that they stand on."
        )
    if record.labels.get("thresholds"):
        lines += [
            f"config = {words.verb}.model.config",
            f"scores = {words.verb}({row}, top_k=config.num_labels)",
            "thresholds = config.hf_sft_thresholds  # one per label, in the order of their ids",
            'print([s["label"] for s in scores if s["score"] >= thresholds[config.label2id[s["label"]]]])',
        ]
        told += (
            " Each score is the sigmoid of a logit; a label is given where its score reaches the label's threshold in "
            "`config.hf_sft_thresholds`. The thresholds were chosen on the validation split; 0.5 gives other results "
            "than the table above."
        )
    else:
        lines.append(f"print({words.verb}({row}))" + ("  # the score is the number" if problem == "regression" else ""))
    return "## How to use\n\n" + fence("\n".join(lines), "python") + f"\n\n{told}"


def _labels(record: RunRecord) -> str:
    names, thresholds = record.labels.get("names") or [], record.labels.get("thresholds")
    if not names or record.labels["problem"] == "regression":
        return ""
    if thresholds:
        rows = [(place, name, number(cut)) for place, (name, cut) in enumerate(zip(names, thresholds, strict=True))]
        return f"## Labels\n\n{table(('id', 'label', 'threshold'), rows, right=1)}"
    return f"## Labels\n\n{table(('id', 'label'), list(enumerate(names)))}"


def _per_class(record: RunRecord) -> str:
    split = headline_split(record)
    classes = record.per_class.get(split or "", {})
    parts = summary.class_metrics(classes)
    rows = [
        (label, *(number(values.get(name)) for name in parts), f"{values.get('support') or 0:,.0f}")
        for label, values in classes.items()
    ]
    label = "type" if record.labels["problem"] == "tags" else "label"
    heads = ["F1" if name == "f1" else name for name in parts]
    found = table((label, *heads, summary.counted(record.labels["problem"])), rows, right=len(heads) + 1)
    return found and f"## Results per {'type of entity' if label == 'type' else 'label'} ({split})\n\n{found}"


def _confusion(record: RunRecord) -> str:
    split = headline_split(record)
    if not shows_confusion(record, split):
        return ""
    names, counts = record.labels["names"], record.confusion[str(split)]
    pairs = [
        (count, true, predicted)
        for true, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if true != predicted and count
    ]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:3]
    said = bullets(
        f"{names[true]} taken for {names[predicted]}: {count:,} of {sum(counts[true]):,} rows"
        for count, true, predicted in worst
    )
    picture = picture_of("confusion.png", f"true and predicted labels on {split}")
    return "\n\n".join(filter(None, [f"## Confusion ({split})", picture, said]))


def picture_of(name: str, words: str) -> str:
    """A picture that lies beside the card, in report/."""
    return f"![{words}](report/{name})"


def _training_data(record: RunRecord) -> str:
    source = record.recipe["dataset"]
    said = code(data_set_name(record)) + (f", configuration {code(source['name'])}" if source.get("name") else "")
    rows = []
    for split, part in record.data.items():
        if isinstance(part, Mapping):
            num_rows = "-" if part.get("rows") is None else f"{part['rows']:,}"
            rows.append((split, num_rows, part.get("fingerprint"), without_folders(str(part.get("source") or "-"))))
    used = table(("split", "rows", "fingerprint", "source"), rows)
    notes = bullets(map(cut_folders, record.data.get("notes") or []))
    return "\n\n".join(filter(None, [f"## Training data\n\n{said}", used, notes]))


def _training(record: RunRecord) -> str:
    total, trainable = record.parameters["total"], record.parameters["trainable"]
    strategy = (record.recipe.get("tuning") or {}).get("strategy", "full")
    share = 100 * trainable / max(total, 1)
    facts = [
        f"{trainable:,} of {total:,} parameters trained ({share:.3g} %); strategy: {strategy}",
        f"head: {record.parameters.get('head') or 'as loaded'}",
    ]
    if seconds := summary.finite(record.timings.get("train")):
        speed = summary.finite(record.timings.get("train_rows_per_second"))
        facts.append(f"time: {seconds:,.0f} s of training" + (f", {speed:,.1f} rows per second" if speed else ""))
    names, best = metric_names(record), best_epoch(record)
    columns = ("train_loss", "validation_loss", *names)
    rows = [
        (
            f"{entry['epoch']:g}{' (best)' if entry is best else ''}",
            *(number(summary.finite(entry.get(key))) for key in columns),
        )
        for entry in record.history.get("epochs", [])
    ]
    epochs = table(("epoch", "training loss", "validation loss", *names), rows, right=len(columns))
    picture = picture_of("curves.png", "loss, metrics and learning rate while training") if epochs else ""
    return "\n\n".join(filter(None, ["## Training", bullets(map(cut_folders, facts)), epochs, picture]))


def _recipe(record: RunRecord) -> str:
    text = dump(publishable(record.recipe))
    again = repository(record)
    told = f"`hf-sft run hub:{again}` repeats it.\n\n" if again else ""
    return f"## Recipe\n\n{told}" + fence(text.rstrip("\n"), "yaml")


def _environment(record: RunRecord) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    machine = ", ".join(f"{name} {value}" for name, value in record.environment.items())
    return f"## Environment\n\n{bullets(map(cut_folders, [versions, machine]))}"


def _limitations(record: RunRecord) -> str:
    split = headline_split(record)
    limits = _limits(record, split) if split else ["no split was evaluated"]
    said = [*limits, *_slices(record), *_looked_into(record), *map(cut_folders, record.notes)]
    return f"## Limitations\n\n{bullets(said)}" if said else ""


def _limits(record: RunRecord, split: str) -> Iterable[str]:
    """What the numbers themselves say against the model."""
    first, rows = summary.results(record, split)[0], (record.data.get(split) or {}).get("rows")
    if first.interval:
        low, high = first.interval
        measured = f"on {rows:,} rows of {split}" if rows else f"on {split}"
        yield f"{first.metric} was measured {measured}: 95 % interval from {number(low)} to {number(high)}"
        baseline = first.baseline
        if baseline is not None and not (low > baseline if greater_is_better(first.metric) else high < baseline):
            name = f"{summary.baseline_name(record)} baseline"
            yield f"the interval of {first.metric} reaches the {name} ({number(baseline)})"
        probe = first.probe if summary.shows_probe(record) else None
        if probe is not None and not (low > probe if greater_is_better(first.metric) else high < probe):
            yield f"the interval of {first.metric} reaches that of a linear probe ({number(probe)})"
    if split == "validation":
        yield "no test split was evaluated: the validation rows also chose the checkpoint, which flatters the results"
    classes = record.per_class.get(split, {})
    seen = {label: values for label, values in classes.items() if values.get("support")}
    weakest = sorted(seen, key=lambda label: seen[label].get("f1") or 0.0)[: min(3, len(seen) // 2)]
    counted = summary.counted(record.labels["problem"])
    if weakest:
        shown = [
            f"{label} ({number(seen[label].get('f1'))}, {seen[label]['support']:,.0f} {counted})" for label in weakest
        ]
        yield f"weakest labels by F1 on {split}: " + ", ".join(shown)
    if unseen := len(classes) - len(seen):
        yield f"{unseen} of {len(classes)} labels have no row in {split}: nothing is known about them"


def _slices(record: RunRecord) -> Iterable[str]:
    """Where `hf-sft evaluate --by` found it worst, one sentence for each column."""
    for entry in record.evaluations:
        asked = [name for name in summary.asked_metrics(record) if name in (entry.get("metrics") or {})]
        name = next(iter([*asked, *(entry.get("metrics") or {})]), None)
        values = {
            value: (summary.finite(part["metrics"].get(name)), part)
            for value, part in (entry.get("slices") or {}).items()
            if part.get("rows", 0) >= SMALLEST_SLICE
        }
        known = {value: (found, part) for value, (found, part) in values.items() if found is not None}
        if name is None or len(known) < 2:
            continue
        sign = 1 if greater_is_better(name) else -1
        worst = min(known, key=lambda value: sign * known[value][0])
        found, part = known[worst]
        low, high = map(summary.finite, part.get("intervals", {}).get(name) or (None, None))
        interval = "" if low is None or high is None else f", 95 % interval from {number(low)} to {number(high)}"
        everywhere = number(summary.finite(entry["metrics"][name]))
        yield (
            f"{name} is worst where {entry.get('by')} is {worst}: {number(found)} on {part['rows']:,} rows{interval}; "
            f"{everywhere} on all rows of {without_folders(str(entry.get('split')))}"
        )


def _looked_into(record: RunRecord) -> Iterable[str]:
    """What `hf-sft inspect` found against it."""
    found = record.inspection.get("errors") or {}
    if found.get("worst_slice"):
        right, elsewhere = (number(summary.finite(found[f"worst_slice_right{end}"])) for end in ("", "_elsewhere"))
        yield (
            f"worse by more than chance on the rows of {found['split']} where "
            f"{without_folders(str(found['worst_slice']))}: {right} of {found['worst_slice_rows']:,} rows are right, "
            f"{elsewhere} of the others"
        )


def _citation(record: RunRecord) -> str:
    origin = record.origins.get("model") or {}
    base, entry = base_model(record), origin.get("citation")
    if record.recipe["model"].get("weights") == "random" or not (base or entry):
        return ""
    commit = f" at commit {code(origin['commit'])}" if origin.get("commit") else ""
    name = code(base or without_folders(record.recipe["model"]["name"]))
    told = f"The pretrained model is {name}{commit}."
    return "## Citation\n\n" + told + (f" Its authors ask to cite:\n\n{fence(entry, 'bibtex')}" if entry else "")


def publishable(value: Any, place: tuple[str, ...] = ()) -> Any:
    """The recipe as plain data with every absolute path cut to its last part."""
    if place in WORDS:
        return value
    if isinstance(value, Mapping):
        items = [(key, publishable(item, (*place, str(key)))) for key, item in value.items()]
        return dict(zip(_cut_keys([key for key, _ in items]), (item for _, item in items), strict=True))
    if isinstance(value, (list, tuple)):
        return [publishable(item, (*place, "[]")) for item in value]
    return without_folders(value) if isinstance(value, str) else value


def _cut_keys(keys: Iterable[Any]) -> list[Any]:
    """Keys without folders, each still its own."""
    found: list[Any] = []
    for key in keys:
        cut, number = without_folders(key) if isinstance(key, str) else key, 2
        name = cut
        while name in found:
            name, number = f"{cut} ({number})", number + 1
        found.append(name)
    return found
