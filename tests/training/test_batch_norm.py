"""tuning.batch_norm: pretrained statistics that stay while everything else learns."""

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import make_data, make_recipe, prepare, train, weights

from hf_sft.errors import RecipeError
from hf_sft.modeling import batch_norm
from hf_sft.modeling.batch_norm import norms_kept_still

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("family", ["resnet", "timm_resnet"])
@pytest.mark.parametrize(
    "tuning", [{}, {"strategy": "top_layers", "layers": 1}, {"strategy": "layer_decay", "layer_decay": 0.9}], ids=str
)
def test_statistics_stay_to_the_last_bit_while_scales_learn(
    family: str, tuning: dict[str, object], models: Path, tmp_path: Path
) -> None:
    data = make_data(family, train=16, validation=8)
    work = prepare(make_recipe(family, models, tmp_path, tuning={**tuning, "batch_norm": "frozen"}), data)
    before = weights(work)
    train(work)
    after = weights(work)
    statistics = [name for name in before if name.endswith(STATISTICS)]
    assert len(statistics) > 3 and all(np.array_equal(before[name], after[name]) for name in statistics)
    scales = {name.rpartition(".")[0] + ".weight" for name in statistics}
    assert any(not np.array_equal(before[name], after[name]) for name in scales)


def test_norms_that_start_untrained_gather_their_own(models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe("resnet", models, tmp_path), make_data("resnet", train=16, validation=8))
    model = work.built.model
    norms = {name: module for name, module in model.named_modules() if hasattr(module, "running_mean")}
    first = next(iter(norms))
    assert norms_kept_still(model, frozenset(), "frozen") == list(norms.values())
    assert norms_kept_still(model, {f"{first}.weight"}, "frozen") == list(norms.values())[1:]
    assert norms_kept_still(model, frozenset(), "train") == []


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("resnet", {"model": {"weights": "random"}}),
        ("resnet", {"tuning": {"strategy": "head", "batch_norm": "frozen"}}),
    ],
    ids=["no such norms", "random weights", "head"],
)
def test_it_is_refused_where_it_would_do_nothing(
    family: str, changes: dict[str, object], models: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe = make_recipe(family, models, tmp_path, **{"tuning": {"batch_norm": "frozen"}, **changes})
        prepare(recipe, make_data(family, train=16, validation=8))
    assert caught.value.findings[0].place.endswith("tuning.batch_norm") and caught.value.findings[0].fix


@pytest.mark.parametrize(
    ("family", "changes", "chosen"),
    [
        ("resnet", {}, "frozen"),
        ("resnet", {"training": {"max_steps": 1000}}, "train"),
        ("resnet", {"tuning": {"batch_norm": "train"}}, "train"),
        ("resnet", {"tuning": {"strategy": "head"}}, "train"),
        ("resnet", {"model": {"weights": "random"}}, "train"),
        ("bert", {}, "train"),
    ],
    ids=["few steps", "many steps", "as the recipe says", "head", "random weights", "no such norms"],
)
def test_auto_keeps_them_in_a_short_run_of_a_pretrained_model(
    family: str,
    changes: dict[str, object],
    chosen: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batch_norm, "FEW_STEPS", 1000)
    recipe = make_recipe(family, models, tmp_path, **changes)
    assert prepare(recipe, make_data(family, train=16, validation=8)).recipe.tuning.batch_norm == chosen
    assert ("tuning.batch_norm: train moves them" in capsys.readouterr().out) == (chosen == "frozen")
