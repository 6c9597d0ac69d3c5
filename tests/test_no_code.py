"""A recipe is data: nothing that it can name is run as code, unless whoever starts the run says so."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from tiny import texts
from tiny_runs import save_model

from hf_sft import fine_tune
from hf_sft.commands.check import check
from hf_sft.errors import HfSftError, RecipeError
from hf_sft.recipe import Recipe


class _Writes:
    """What is run where this is unpickled: a file is written."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def script(mark: Path) -> str:
    """Python that writes the file when it is imported, and is a metric, a model's code and a loading script too."""
    return f"""import os
os.mkdir({str(mark)!r})
import datasets
import evaluate
from transformers import BertConfig as Config, BertModel as Model, PreTrainedTokenizerFast
class Tokenizer(PreTrainedTokenizerFast):
    pass
class Metric(evaluate.Metric):
    def _info(self):
        kinds = datasets.Features({{"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=kinds)
    def _compute(self, predictions, references):
        return {{"mine": 0.5}}
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code was run"


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    save_model("bert", tmp_path)
    texts(24).to_csv(tmp_path / "rows.csv")
    return {
        "task": "text-classification",
        "model": {"name": str(tmp_path / "bert")},
        "dataset": {"path": str(tmp_path / "rows.csv")},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
        "output_dir": str(tmp_path / "run"),
    }


def with_metric(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "mine.py").write_text(script(mark))
    recipe["metrics"] = [f"evaluate:{folder / 'mine'}"]


def with_code_of_a_model(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "bert" / "code.py").write_text(script(mark))
    file = folder / "bert" / "config.json"
    classes = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    content = json.loads(file.read_text()) | {"model_type": "mine", "architectures": ["Mine"], "auto_map": classes}
    file.write_text(json.dumps(content))


def with_code_of_a_tokenizer(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "bert" / "code.py").write_text(script(mark))
    file = folder / "bert" / "tokenizer_config.json"
    classes = {"AutoTokenizer": [None, "code.Tokenizer"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "Mine", "auto_map": classes}))


def with_a_pickle_of_weights(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "bert" / "model.safetensors").unlink()
    (folder / "bert" / "pytorch_model.bin").write_bytes(pickle.dumps(_Writes(mark)))


def with_a_checkpoint_that_is_a_pickle(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "weights.pth").write_bytes(pickle.dumps(_Writes(mark)))
    recipe["task"] = "image-classification"
    recipe["model"] = {"name": "timm/test_resnet", "weights": str(folder / "weights.pth")}
    recipe["dataset"] = {"path": "bundled:digits"}


def with_a_loading_script(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "rows").mkdir()
    (folder / "rows" / "rows.py").write_text(script(mark))
    recipe["dataset"] = {"path": str(folder / "rows")}


def with_a_script_as_data(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "rows.py").write_text(script(mark))
    recipe["dataset"] = {"path": str(folder / "rows.py"), "options": {"trust_remote_code": True}}


def with_pickled_rows(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "rows").mkdir()
    (folder / "rows" / "train.pkl").write_bytes(pickle.dumps(_Writes(mark)))
    recipe["dataset"] = {"path": str(folder / "rows")}


def with_a_reader_of_pickles(recipe: dict[str, Any], folder: Path, mark: Path) -> None:
    (folder / "train.pkl").write_bytes(pickle.dumps(_Writes(mark)))
    recipe["dataset"] = {"path": "pandas", "data_files": str(folder / "train.pkl")}


CODE = (
    with_metric,
    with_code_of_a_model,
    with_code_of_a_tokenizer,
    with_a_pickle_of_weights,
    with_a_checkpoint_that_is_a_pickle,
    with_a_loading_script,
    with_a_script_as_data,
    with_pickled_rows,
    with_a_reader_of_pickles,
)


@pytest.mark.parametrize("bring", CODE, ids=lambda bring: bring.__name__)
def test_code_that_a_recipe_names_is_not_run(bring: Any, base: dict[str, Any], tmp_path: Path, mark: Path) -> None:
    bring(base, tmp_path, mark)
    report = check(base)
    assert not mark.exists()
    if bring is with_code_of_a_tokenizer:  # transformers takes the class that the model's type has
        assert report.ok
        return
    assert not report.ok
    with pytest.raises(HfSftError):
        fine_tune(base)
    assert not mark.exists()


@pytest.mark.parametrize("bring", [with_metric, with_code_of_a_tokenizer], ids=lambda bring: bring.__name__)
def test_the_flag_allows_it(bring: Any, base: dict[str, Any], tmp_path: Path, mark: Path) -> None:
    bring(base, tmp_path, mark)
    report = check(base, trust_remote_code=True)
    assert mark.exists(), str(report)


@pytest.mark.parametrize("bring", [with_a_pickle_of_weights, with_a_checkpoint_that_is_a_pickle])
def test_no_flag_allows_pickles(bring: Any, base: dict[str, Any], tmp_path: Path, mark: Path) -> None:
    bring(base, tmp_path, mark)
    assert not check(base, trust_remote_code=True).ok
    assert not mark.exists()
    mark.mkdir()
    with pytest.raises(FileExistsError):
        pickle.loads(pickle.dumps(_Writes(mark)))  # what would have been run


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir ['{mark}']",
        "!!python/object/new:os.mkdir ['{mark}']",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{mark}']",
        "!mine {{a: 1}}",
    ],
)
def test_yaml_makes_no_objects(text: str, tmp_path: Path, mark: Path) -> None:
    recipe = (
        f"task: text-classification\nmodel: {{name: m}}\ndataset: {{path: p}}\ntraining: {text.format(mark=mark)}\n"
    )
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(RecipeError):
        Recipe.load(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError):
        Recipe.load("bundled:bert_sentiment", [f"training={text.format(mark=mark)}"])
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("auto_map", {"AutoModel": "code.Model"}), ("attn_implementation", "me/kernel"), ("_attn_implementation", "me/k")],
)
def test_no_override_of_a_configuration_names_code(base: dict[str, Any], key: str, value: Any) -> None:
    base["model"]["config"] = {key: value}
    report = check(base)
    assert [finding.place for finding in report.errors] == [f"model.config.{key}"]


@pytest.mark.parametrize("key", ["trust_remote_code", "code", "hooks", "callbacks", "plugins"])
def test_no_key_of_a_recipe_allows_code(key: str) -> None:
    for place in (key, f"model.{key}", f"dataset.{key}", f"training.{key}", f"run.{key}"):
        with pytest.raises(RecipeError):
            Recipe.load("bundled:bert_sentiment", [f"{place}=true"])
