"""From the names in a recipe to metrics: ours, those of the `evaluate` library, and functions given by the caller.

A metric that is not ours is tried on made-up rows before it is returned, so that one that does not fit is found before
training.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_sft.errors import Finding, RecipeError, nearest
from hf_sft.hub_access import hub_is_reachable
from hf_sft.metrics import DEFAULTS, METRICS
from hf_sft.metrics.detection import box_outcome
from hf_sft.metrics.entities import tag_outcome
from hf_sft.metrics.metric import Metric, Outcome
from hf_sft.metrics.segmentation import pixel_outcome
from hf_sft.recipe import ProblemName

EVALUATE, FUNCTION = "evaluate:", "function:"
LOWER_IS_BETTER = ("brier_score", "mae", "mape", "mase", "mse", "smape")  # modules of evaluate: they do not say it
PARAMETERS = {  # names that tell what a caller's function wants, ours and scikit-learn's -> field of the Outcome
    "predictions": "predictions",
    "references": "references",
    "scores": "scores",
    "y_pred": "predictions",
    "y_true": "references",
}


def resolve_metrics(
    names: Sequence[str],
    problem: ProblemName,
    *,
    folder: Path,
    functions: Mapping[str, Callable[..., Any] | Metric] = {},
    trust_remote_code: bool = False,
    num_labels: int = 2,
) -> list[Metric]:
    """The metrics in the order of `names`, or the defaults of the problem; then the `functions` that no name mentions.

    names: of METRICS; `evaluate:<id, or a local folder or file, relative to folder>`; `function:<key of functions>`.
    functions: each `f(predictions, references)` or `f(predictions, references, scores)` -> number, over copies of the
    arrays of an Outcome; or, where less is better, a Metric.
    num_labels: L of the made-up rows on which metrics that are not ours are tried.

    Raises RecipeError with every metric that does not exist, does not fit the problem, fails, or may not run.
    """
    wanted = list(names) or list(DEFAULTS[problem])
    wanted += [FUNCTION + name for name in functions if FUNCTION + name not in wanted]
    outcome = make_up_outcome(problem, num_labels)
    metrics: list[Metric] = []
    findings: list[Finding] = []
    for name in wanted:
        try:
            if name.startswith(EVALUATE):
                metric = _load_from_evaluate(name, problem, folder, trust_remote_code)
            elif name.startswith(FUNCTION):
                metric = _adopt_function(name, problem, functions)
            else:
                metric = _look_up(name, problem)
            _try_out(metric, name, problem, outcome)
            metrics.append(metric)
        except RecipeError as error:
            findings += error.findings
    findings += _clashes([metric.name for metric in metrics])
    if findings:
        raise RecipeError(findings)
    return metrics


def make_up_outcome(problem: ProblemName, num_labels: int) -> Outcome:
    """At least 8 rows in which every label is true and predicted, rightly in some rows and wrongly in others."""
    rows = np.arange(max(8, 3 * num_labels))
    if problem == "regression":
        truth = rows / len(rows)
        guess = truth + np.where(rows % 3 == 0, 0.3, 0.0)
        return Outcome(references=truth, predictions=guess, scores=guess, num_labels=1)
    labels = np.arange(num_labels)
    if problem == "tags":
        return _make_up_tags(num_labels)
    if problem == "pixels":
        return _make_up_pixels(num_labels)
    if problem == "boxes":
        return _make_up_boxes(num_labels)
    references = rows % num_labels
    predictions = np.where(rows // num_labels == 1, (references + 1) % num_labels, references)
    predicted = predictions[:, None] == labels
    if problem == "multi_label":
        scores = np.where(predicted, 0.9, 0.1)
        return Outcome(
            references=references[:, None] == labels, predictions=predicted, scores=scores, num_labels=num_labels
        )
    scores = (1.0 + predicted) / (num_labels + 1)
    return Outcome(references=references, predictions=predictions, scores=scores, num_labels=num_labels)


def _make_up_tags(num_labels: int) -> Outcome:
    """Rows of some words, with one type for every two tags beside O."""
    names = ["O", *(f"{mark}-{number}" for number in range((num_labels + 1) // 2) for mark in "BI")]
    references = [np.array([0, first, first + 1, 0]) for first in range(1, len(names), 2) for _ in range(4)]
    predictions = [np.array([0, 0, 0, 0]) if row % 4 == 1 else tags for row, tags in enumerate(references)]
    scores = np.empty(len(references), dtype=object)
    for row, tags in enumerate(predictions):
        scores[row] = (1.0 + np.eye(len(names))[tags]) / (len(names) + 1)
    return tag_outcome(references, predictions, scores, names)


def _make_up_pixels(num_labels: int) -> Outcome:
    """Images that hold every class, with some pixels right and some of the next class."""
    true = np.full((8, num_labels), 100)
    right = np.broadcast_to(np.arange(20, 100, 10)[:, None], true.shape)
    predicted = right + np.roll(true - right, 1, axis=1)
    return pixel_outcome(np.stack([right, predicted, true], axis=-1), np.full((8, num_labels), 1 / num_labels))


def _make_up_boxes(num_labels: int) -> Outcome:
    """Rows with a box of each label, of which every fourth has been given to another place."""
    sides = np.tile([10.0, 10.0, 30.0, 30.0], (num_labels, 1))
    references, predictions, scores = (np.empty(8, dtype=object) for _ in range(3))
    for row in range(8):
        references[row] = np.column_stack([sides + row, np.arange(num_labels)])
        predictions[row] = references[row] + (np.array([25.0, 0, 25.0, 0, 0]) if row % 4 == 1 else 0.0)
        scores[row] = (1.0 + np.arange(num_labels)) / (num_labels + 1)
    return box_outcome(references, predictions, scores, num_labels)


def _look_up(name: str, problem: ProblemName) -> Metric:
    fitting = [metric.name for metric in METRICS.values() if problem in metric.problems]
    if name in fitting:
        return METRICS[name]
    fix = "" if name in METRICS else nearest(name, fitting)
    raise _wrong(name, f"a metric that fits {problem}: " + ", ".join(fitting), fix)


def _adopt_function(name: str, problem: ProblemName, functions: Mapping[str, Callable[..., Any] | Metric]) -> Metric:
    key = name.removeprefix(FUNCTION)
    if key not in functions:
        given = ", ".join(functions) or "none"
        raise _wrong(name, f"a function given to fine_tune(metrics={{...}}); given: {given}", nearest(key, functions))
    function = functions[key]
    if not isinstance(function, Metric):
        return Metric(
            name=key,
            compute=_configure_function(function, name),
            problems=(problem,),
            unit_interval=False,
            reads_scores=True,
        )
    if problem not in function.problems:
        raise _wrong(name, f"a metric that fits {problem}", found=f"{name} fits {', '.join(function.problems)}")
    return replace(function, name=key)


def _configure_function(function: Callable[..., Any], name: str) -> Callable[[Outcome], float]:
    """Parameters told apart by name where that is known (scikit-learn has the references first), else by order."""
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # not a function, or one written in C that does not say
        parameters = []
    by_name = {parameter: PARAMETERS[parameter] for parameter in parameters if parameter in PARAMETERS}
    sides = set(by_name.values()) - {"scores"}
    if len(sides) == 1:  # f(y_true, y_score): what is the other?
        expected = "f(predictions, references) or f(predictions, references, scores)"
        raise _wrong(name, expected, "name the parameters so", found=f"f({', '.join(parameters)})")
    return partial(_call_function, function, name, () if sides else ("predictions", "references"), by_name)


def _call_function(
    function: Callable[..., Any], name: str, in_order: Sequence[str], by_name: Mapping[str, str], outcome: Outcome
) -> float:
    arrays = {"predictions": outcome.predictions, "references": outcome.references, "scores": outcome.scores}
    value = function(
        *(arrays[field].copy() for field in in_order),
        **{parameter: arrays[field].copy() for parameter, field in by_name.items()},
    )
    if not _is_number(value):
        raise _wrong(name, "a function that returns one number", found=f"it returned {_shorten(value)}")
    return float(value)


def _load_from_evaluate(name: str, problem: ProblemName, folder: Path, trust_remote_code: bool) -> Metric:
    if not trust_remote_code:
        expected = "leave to run code: a metric of the evaluate library is a script"
        raise _wrong(name, expected, "read the script, then add --trust-remote-code to the command")
    import evaluate

    target = _locate(name.removeprefix(EVALUATE), folder)
    try:
        if not Path(target).is_absolute() and not hub_is_reachable():
            evaluate.config.HF_EVALUATE_OFFLINE = True  # else it tries again and again before it looks into its cache

        # evaluate's own classification metrics take rows of several labels under this configuration only;
        # without a seed it reads NumPy's global state, without keep_in_memory ranks meet in one file
        config = "multilabel" if problem == "multi_label" else None
        module = evaluate.load(target, config_name=config, keep_in_memory=True, seed=0)
    except Exception as error:  # importing a script can raise anything
        expected = "the id of a metric of the evaluate library, or a folder x that holds x.py"
        fix = "look for it on https://huggingface.co/evaluate-metric; a local path starts from the recipe's folder"
        if evaluate.config.HF_EVALUATE_OFFLINE:
            fix = "the Hub cannot be reached and holds it; name a folder here that holds the metric's script"
        raise _wrong(name, expected, fix, found=f"{name}: {_shorten(error)}") from error
    entry = Path(target).name.removesuffix(".py")
    return Metric(
        name=entry,
        compute=partial(_compute_with_evaluate, module, name, entry),
        problems=(problem,),
        greater_is_better=entry not in LOWER_IS_BETTER,
        unit_interval=False,
        reads_scores=True,
    )


def _locate(target: str, folder: Path) -> str:
    """An absolute path where `target` is plainly a path or its script lies beside the recipe, else `target`, an id."""
    path = folder / Path(os.path.expandvars(target)).expanduser()
    plainly_path = target.startswith((".", "~", "/", "$")) or target.endswith(".py")
    return os.path.abspath(path) if plainly_path or (path / f"{path.name}.py").is_file() else target


def _compute_with_evaluate(module: Any, name: str, entry: str, outcome: Outcome) -> float:
    """The entry of the results that bears the metric's name, else the one number among them."""
    results = module.compute(predictions=outcome.predictions.tolist(), references=outcome.references.tolist())
    numbers = {key: value for key, value in results.items() if _is_number(value)}
    if entry not in numbers and len(numbers) != 1:
        raise _wrong(name, f"one number, or one named {entry!r}", found=f"results named {', '.join(results)}")
    return float(numbers[entry] if entry in numbers else next(iter(numbers.values())))


def _is_number(value: Any) -> bool:
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in "biuf"


def _try_out(metric: Metric, name: str, problem: ProblemName, outcome: Outcome) -> None:
    try:
        metric.compute(outcome)
    except RecipeError:
        raise
    except Exception as error:  # someone else's code
        expected = f"a metric for {problem}, here of {len(outcome.references)} rows and {outcome.num_labels} labels"
        raise _wrong(name, expected, found=f"{name}: {_shorten(error)}") from error


def _clashes(names: Sequence[str]) -> list[Finding]:
    """Names key the record's metrics, where `loss` is always one."""
    twice = [name for name, count in Counter([*names, "loss"]).items() if count > 1]
    expected = "names that differ, from each other and from loss"
    return [Finding(place="metrics", expected=expected, found=f"{name} twice", fix="rename one") for name in twice]


def _shorten(thing: Any) -> str:
    text = f"{type(thing).__name__}: {thing}" if isinstance(thing, Exception) else repr(thing)
    return textwrap.shorten(text, 300)


def _wrong(name: str, expected: str, fix: str = "", *, found: str = "") -> RecipeError:
    return RecipeError(Finding(place="metrics", expected=expected, found=found or name, fix=fix))
