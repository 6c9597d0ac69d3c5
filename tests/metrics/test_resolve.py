"""Names of metrics become metrics that work, or are reported all at once before anything is spent."""

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import fbeta_score, precision_score, roc_auc_score

from hf_sft.errors import RecipeError
from hf_sft.metrics import DEFAULTS, METRICS
from hf_sft.metrics.metric import Metric, Outcome
from hf_sft.metrics.resolve import make_up_outcome, resolve_metrics
from hf_sft.recipe import METRIC_NAMES

PROBLEMS = ("single_label", "multi_label", "regression")
FOLDER = Path("recipes")

SCRIPT = '''
import datasets
import evaluate


class Example(evaluate.Metric):
    """Yields one thing."""

    def _info(self):
        column = datasets.{column}
        features = datasets.Features({{"predictions": column, "references": column}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        distance = sum(float(p != r) for p, r in zip(predictions, references)) / len(references)
        return {result}
'''


def names_of(metrics) -> list[str]:
    return [metric.name for metric in metrics]


def findings_of(names, problem="single_label", **options) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        resolve_metrics(names, problem, **{"folder": FOLDER} | options)
    assert {finding.place for finding in caught.value.findings} == {"metrics"}
    return [str(finding) for finding in caught.value.findings]


def test_table_holds_the_names_that_recipes_may_use():
    assert tuple(METRICS) == METRIC_NAMES
    assert [metric.name for metric in METRICS.values()] == list(METRICS)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_defaults_fit_their_problem(problem):
    assert all(problem in METRICS[name].problems for name in DEFAULTS[problem])


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("num_labels", [2, 5])
def test_better_predictions_make_a_better_metric(problem, num_labels):
    worse = make_up_outcome(problem, num_labels)
    scores = np.eye(num_labels)[worse.references] if problem == "single_label" else worse.references * 1.0
    best = replace(worse, predictions=worse.references, scores=scores)
    for metric in METRICS.values():
        if problem in metric.problems:
            gain = metric.compute(best) - metric.compute(worse)
            assert gain > 0 if metric.greater_is_better else gain < 0, metric.name


@pytest.mark.parametrize("problem", PROBLEMS)
def test_unit_interval_is_said_of_the_metrics_that_stay_in_it(problem):
    good = make_up_outcome(problem, 3)
    if problem == "single_label":
        wrong = (good.references + 1) % 3
        worst = replace(good, predictions=wrong, scores=np.eye(3)[wrong])
    elif problem == "multi_label":
        worst = replace(good, predictions=~good.references, scores=1.0 - good.references)
    else:
        worst = replace(good, predictions=-9 * good.references)
    for metric in METRICS.values():
        if problem in metric.problems:
            values = [metric.compute(good), metric.compute(worst)]
            assert metric.unit_interval == all(0 <= value <= 1 for value in values), metric.name


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_names_give_the_defaults_of_the_problem(problem):
    assert names_of(resolve_metrics([], problem, folder=FOLDER)) == list(DEFAULTS[problem])


def test_names_keep_their_order():
    names = ["log_loss", "accuracy", "auroc"]
    assert resolve_metrics(names, "single_label", folder=FOLDER) == [METRICS[name] for name in names]


@pytest.mark.parametrize(
    ("name", "problem", "fitting"),
    [("mse", "single_label", "matthews"), ("r2", "multi_label", "auroc"), ("accuracy", "regression", "pearson")],
)
def test_a_metric_of_another_problem_is_refused_with_those_that_fit(name, problem, fitting):
    (finding,) = findings_of([name], problem)
    assert problem in finding and fitting in finding and f"found    {name}" in finding


def test_all_wrong_metrics_are_reported_at_once():
    wrong = ["mse", "acuracy", "function:cost", "evaluate:f1", "r2"]
    findings = findings_of(["auroc", *wrong, "matthews"])
    assert [name in finding for name, finding in zip(wrong, findings, strict=True)] == [True] * 5
    assert "did you mean 'accuracy'?" in findings[1]


@pytest.mark.parametrize(
    ("names", "given"),
    [(["accuracy", "auroc", "accuracy"], ()), (["accuracy", "function:accuracy"], ["accuracy"]), ([], ["loss"])],
)
def test_two_metrics_of_one_name_are_refused_and_loss_is_one(names, given):
    (finding,) = findings_of(names, functions=dict.fromkeys(given, share_right))
    assert f"{(*given, 'accuracy')[0]} twice" in finding


def share_right(predictions, references):
    return np.mean(predictions == references)


def adopt(function, problem="single_label") -> Metric:
    (metric,) = resolve_metrics(["function:f"], problem, folder=FOLDER, functions={"f": function})
    return metric


def test_a_function_is_given_predictions_then_references():
    metric = adopt(lambda p, r: p[0] - r[0])
    outcome = Outcome(references=np.array([1]), predictions=np.array([0]), scores=np.eye(1, 2), num_labels=2)
    assert (metric.name, metric.compute(outcome)) == ("f", -1.0)


def test_functions_that_no_name_mentions_come_last():
    resolve = partial(resolve_metrics, folder=FOLDER, functions={"first": share_right, "second": share_right})
    assert names_of(resolve([], "single_label")) == [*DEFAULTS["single_label"], "first", "second"]
    assert names_of(resolve(["function:second", "auroc"], "single_label")) == ["second", "auroc", "first"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_function_is_given_scores_where_it_asks_for_them(problem):
    metric = adopt(lambda predictions, references, scores: scores.max(), problem)
    outcome = make_up_outcome(problem, 4)
    assert metric.compute(outcome) == outcome.scores.max()
    assert metric.problems == (problem,)


def test_scores_are_found_beside_unnamed_sides():
    metric = adopt(lambda p, r, scores: p[0] + 10 * scores[0, 1])
    outcome = Outcome(references=np.array([0]), predictions=np.array([1]), scores=np.array([[0.3, 0.7]]), num_labels=2)
    assert metric.compute(outcome) == pytest.approx(8)


@pytest.mark.parametrize(
    "function",
    [
        precision_score,
        partial(fbeta_score, beta=0.5),
        lambda references, predictions: precision_score(references, predictions),
        lambda *, references, predictions: precision_score(references, predictions),
    ],
    ids=["scikit-learn", "partial", "references first", "by name only"],
)
def test_parameters_with_known_names_are_told_apart_by_name(function):
    metric = adopt(function)
    references, predictions = np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0])  # precision 1, recall 1/3
    outcome = Outcome(references=references, predictions=predictions, scores=np.eye(2)[predictions], num_labels=2)
    expected = 1 / (1 + 0.25 * (3 - 1) / (1 + 0.25)) if isinstance(function, partial) else 1
    assert metric.compute(outcome) == pytest.approx(expected)


def clear_by_name(predictions, references, scores):
    return clear_in_order(predictions, references, scores=scores)


def clear_in_order(p, r, scores):
    for array in (p, r, scores):
        array[...] = 0
    return 1


@pytest.mark.parametrize("function", [clear_by_name, clear_in_order])
def test_a_function_cannot_change_the_rows(function):
    outcome, before = make_up_outcome("single_label", 3), make_up_outcome("single_label", 3)
    assert adopt(function).compute(outcome) == 1
    for field in ("predictions", "references", "scores"):
        assert (getattr(outcome, field) == getattr(before, field)).all()


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), 1, True, math.nan])
def test_a_function_may_return_any_number(value):
    found = adopt(lambda p, r: value, "regression").compute(make_up_outcome("regression", 1))
    assert type(found) is float and found == pytest.approx(float(value), nan_ok=True)


@pytest.mark.parametrize("value", [None, {"f": 0.5}, np.array([0.5]), "0.5"])
def test_a_function_that_returns_no_number_is_refused(value):
    (finding,) = findings_of(["function:f"], functions={"f": lambda p, r: value})
    assert "a function that returns one number" in finding and "Error" not in finding


@pytest.mark.parametrize("function", [roc_auc_score, lambda references, y: 0.0], ids=["y_score", "y"])
def test_a_function_that_names_one_side_only_is_refused(function):
    (finding,) = findings_of(["function:f"], functions={"f": function})
    assert "f(predictions, references, scores)" in finding


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda p, r: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda p: 0.0, "TypeError"),
        (lambda predictions, references, weights: 0.0, "TypeError"),
        ("accuracy", "TypeError"),
    ],
    ids=["raises", "one parameter", "unknown parameter", "no function"],
)
def test_a_function_that_fails_is_refused_before_training(function, reason):
    (finding,) = findings_of(["function:f"], functions={"f": function})
    assert "function:f" in finding and reason in finding


def test_a_function_that_was_not_given_is_refused_with_those_that_were():
    (finding,) = findings_of(["function:cots"], functions={"costs": share_right, "gain": share_right})
    assert "costs, gain" in finding and "did you mean 'costs'?" in finding
    assert "given: none" in findings_of(["function:costs"])[0]


def test_metrics_are_tried_on_as_many_labels_as_there_are():
    functions = {"f": lambda p, r, scores: scores[0, 3]}
    assert "IndexError" in findings_of(["function:f"], functions=functions)[0]
    resolve_metrics(["function:f"], "single_label", folder=FOLDER, functions=functions, num_labels=4)


def test_a_metric_may_be_given_where_less_is_better():
    cost = Metric(name="any", compute=lambda outcome: 3.0, problems=("regression",), greater_is_better=False)
    (metric,) = resolve_metrics(["function:cost"], "regression", folder=FOLDER, functions={"cost": cost})
    assert metric == replace(cost, name="cost")
    assert "fits regression" in findings_of(["function:cost"], functions={"cost": cost})[0]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("num_labels", [2, 3, 50])
def test_made_up_rows_hold_every_label_right_and_wrong(problem, num_labels):
    outcome = make_up_outcome(problem, num_labels)
    right = outcome.references == outcome.predictions
    assert right.any() and not right.all()
    if problem == "single_label":
        assert set(outcome.references) == set(outcome.predictions) == set(range(num_labels))
        assert outcome.scores.sum(axis=1) == pytest.approx(1)
        assert (outcome.scores.argmax(axis=1) == outcome.predictions).all()
    if problem == "multi_label":
        assert outcome.references.any(axis=0).all() and not outcome.references.all(axis=0).any()
        assert ((outcome.scores > 0.5) == outcome.predictions).all()


@pytest.fixture(scope="module")
def evaluate_offline(tmp_path_factory):
    """The evaluate library without network, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import evaluate.config

        cache = tmp_path_factory.mktemp("evaluate")
        patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)  # it does not read HF_HUB_OFFLINE
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", cache / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", cache / "metrics")
        patch.syspath_prepend(cache / "modules")
        forget_scripts()
        yield
        forget_scripts()


def forget_scripts() -> None:
    """evaluate copies scripts into one package, which Python looks for in one folder only."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


def write_metric(folder: Path, name: str, result: str, column: str = "Value('int64')") -> None:
    (folder / name).mkdir()
    (folder / name / f"{name}.py").write_text(SCRIPT.format(result=result, column=column))


load = partial(resolve_metrics, trust_remote_code=True)


def test_evaluate_is_refused_without_trust(tmp_path):
    write_metric(tmp_path, "distance", "1 / 0")
    for name in ("evaluate:./distance", "evaluate:distance", "evaluate:accuracy"):
        (finding,) = findings_of([name], folder=tmp_path)
        assert name in finding and "--trust-remote-code" in finding


@pytest.mark.parametrize("place", ["distance", "./distance", "distance/distance.py", "absolute", "~", "variable"])
def test_evaluate_loads_a_folder_or_file_beside_the_recipe(tmp_path, monkeypatch, evaluate_offline, place):
    write_metric(tmp_path, "distance", "{'distance': distance}")
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = {"absolute": str(tmp_path / "distance"), "~": "~/distance", "variable": "$HOME/distance"}
    folder = tmp_path / "elsewhere" if place in elsewhere else tmp_path
    (metric,) = load([f"evaluate:{elsewhere.get(place, place)}"], "single_label", folder=folder)
    outcome = make_up_outcome("single_label", 3)
    assert metric.name == "distance"
    assert metric.compute(outcome) == pytest.approx((outcome.references != outcome.predictions).mean())
    assert metric.compute(outcome.take(np.arange(3))) == 0  # a second time, with no rows left from the first


@pytest.mark.parametrize(
    ("problem", "column"),
    [("multi_label", "Sequence(datasets.Value('int32'))"), ("regression", "Value('float32')")],
)
def test_evaluate_takes_the_rows_of_every_problem(tmp_path, evaluate_offline, problem, column):
    name = f"distance_{problem}"
    write_metric(tmp_path, name, "{'value': distance}", column)
    (metric,) = load([f"evaluate:{name}"], problem, folder=tmp_path)
    assert (metric.problems, 0 < metric.compute(make_up_outcome(problem, 3)) < 1) == ((problem,), True)


def test_evaluate_loads_the_multilabel_configuration_for_several_labels(tmp_path, evaluate_offline):
    write_metric(tmp_path, "multi", "{'n': self.config_name == 'multilabel'}", "Sequence(datasets.Value('int32'))")
    (metric,) = load(["evaluate:multi"], "multi_label", folder=tmp_path)
    assert metric.compute(make_up_outcome("multi_label", 3)) == 1


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ("{'other': 0.1, '%s': 0.7, 'third': 0.2}", 0.7),
        ("{'other': 0.3}", 0.3),
        ("{'other': 0.4, 'table': [1, 2], 'note': 'x'}", 0.4),
    ],
    ids=["its name", "one entry", "one number"],
)
def test_value_is_the_entry_of_its_name_or_the_one_number(tmp_path, evaluate_offline, result, value):
    name = f"entry{int(10 * value)}"
    write_metric(tmp_path, name, result.replace("%s", name))
    (metric,) = load([f"evaluate:{name}"], "single_label", folder=tmp_path)
    assert metric.compute(make_up_outcome("single_label", 2)) == value


@pytest.mark.parametrize(
    ("name", "result", "reason"),
    [
        ("several", "{'left': 0.1, 'right': 0.2}", "results named left, right"),
        ("none", "{'table': [1, 2]}", "results named table"),
        ("raises", "1 / 0", "ZeroDivisionError"),
    ],
)
def test_evaluate_metrics_that_yield_no_number_are_refused(tmp_path, evaluate_offline, name, result, reason):
    write_metric(tmp_path, name, result)
    (finding,) = findings_of([f"evaluate:{name}"], folder=tmp_path, trust_remote_code=True)
    assert reason in finding


def test_evaluate_metrics_that_want_other_rows_are_refused(tmp_path, evaluate_offline):
    write_metric(tmp_path, "texts", "{'texts': distance}", "Value('string')")
    (finding,) = findings_of(["evaluate:texts"], folder=tmp_path, trust_remote_code=True)
    assert "evaluate:texts" in finding and "don't match the expected format" in finding


@pytest.mark.parametrize("name", ["./missing", "~/missing", "missing/missing.py", "no_such_metric_anywhere"])
def test_evaluate_metrics_that_cannot_be_loaded_are_refused(tmp_path, evaluate_offline, name):
    (finding,) = findings_of([f"evaluate:{name}"], folder=tmp_path, trust_remote_code=True)
    assert f"evaluate:{name}" in finding and "FileNotFoundError" in finding
    assert ("Hugging Face Hub" in finding) == (name == "no_such_metric_anywhere")


def test_a_script_that_does_not_import_is_refused(tmp_path, evaluate_offline):
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')")
    (finding,) = findings_of(["evaluate:broken.py"], folder=tmp_path, trust_remote_code=True)
    assert "RuntimeError: not today" in finding


def test_a_folder_without_a_script_does_not_hide_an_id(tmp_path, evaluate_offline):
    (tmp_path / "accuracy").mkdir()
    (finding,) = findings_of(["evaluate:accuracy"], folder=tmp_path, trust_remote_code=True)
    assert "Hugging Face Hub" in finding and str(tmp_path) not in finding


@pytest.mark.parametrize(("name", "greater"), [("mse", False), ("closeness", True)])
def test_evaluates_errors_are_better_when_less(tmp_path, evaluate_offline, name, greater):
    write_metric(tmp_path, name, "{'value': distance}", "Value('float32')")
    (metric,) = load([f"evaluate:{name}"], "regression", folder=tmp_path)
    assert metric.greater_is_better is greater


def test_evaluate_gives_the_same_value_each_time(tmp_path, evaluate_offline):
    write_metric(tmp_path, "sampled", "{'sampled': __import__('numpy').random.random()}")
    values = set()
    for seed in (1, 2):
        np.random.seed(seed)
        (metric,) = load(["evaluate:sampled"], "single_label", folder=tmp_path)
        values |= {metric.compute(make_up_outcome("single_label", 2)) for _ in range(2)}
    assert len(values) == 1
