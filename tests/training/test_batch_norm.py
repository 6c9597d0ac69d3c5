"""tuning.batch_norm: pretrained statistics that stay while everything else learns."""

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import make_data, make_recipe, prepare, train, weights
from torch import nn

from hf_sft.errors import RecipeError
from hf_sft.modeling import batch_norm
from hf_sft.modeling.batch_norm import pretrained_norms
from hf_sft.run_directory import RunDirectory
from hf_sft.training.precision import note_precision

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


def test_norms_that_start_untrained_or_are_frozen_are_no_matter(models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe("resnet", models, tmp_path), make_data("resnet", train=16, validation=8))
    model = work.built.model
    norms = {name: module for name, module in model.named_modules() if hasattr(module, "running_mean")}
    first = next(iter(norms))
    assert pretrained_norms(model, frozenset(), []) == list(norms.values())
    assert pretrained_norms(model, {f"{first}.weight"}, []) == list(norms.values())[1:]
    assert pretrained_norms(model, frozenset(), [norms[first]]) == list(norms.values())[1:]
    head = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    bare = nn.ModuleDict({"backbone": nn.BatchNorm1d(2), "head": head})
    assert pretrained_norms(bare, {"head.0.weight", "head.0.bias"}, []) == [bare["backbone"]]


@pytest.mark.parametrize("few", [5, 1000])
def test_a_run_that_goes_on_or_is_extended_keeps_what_it_began_with(
    few: int, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of two steps are few; with four more they are more than 5."""
    monkeypatch.setattr(batch_norm, "FEW_STEPS", few)
    data = make_data("resnet", train=16, validation=8)
    first = make_recipe("resnet", models, tmp_path, run={"keep_checkpoints": True})
    train(prepare(first, data))
    longer = make_recipe(
        "resnet", models, tmp_path, run={"keep_checkpoints": True}, training={"num_train_epochs": 4}, resume="extend"
    )
    work = prepare(longer, data)
    assert work.recipe.tuning.batch_norm == "frozen" and work.norms


def test_a_run_that_overwrites_takes_nothing_from_the_one_before(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_norm, "FEW_STEPS", 1000)
    recipe = make_recipe("resnet", models, tmp_path)
    checkpoints = RunDirectory(Path(recipe.output_dir)).checkpoints
    checkpoints.mkdir(parents=True)
    batch_norm.note_batch_norm(checkpoints, "train")
    note_precision(checkpoints, "bf16")
    data = make_data("resnet", train=16, validation=8)
    for overwrite, norms, precision in ((False, "train", "bf16"), (True, "frozen", "fp32")):
        work = prepare(recipe, data, overwrite=overwrite)
        assert (work.recipe.tuning.batch_norm, work.environment.precision) == (norms, precision)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("resnet", {"model": {"weights": "random"}}),
        ("resnet", {"tuning": {"strategy": "head", "batch_norm": "frozen"}}),
        ("resnet", {"tuning": {"strategy": "lora", "batch_norm": "frozen"}}),
    ],
    ids=["no such norms", "random weights", "head", "lora"],
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
        ("segformer", {}, "train"),
    ],
    ids=[
        "few steps",
        "many steps",
        "as the recipe says",
        "head",
        "random weights",
        "no such norms",
        "norms of a new head alone",
    ],
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


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("resnet", {"tuning": {"strategy": "gradual"}}),
        ("resnet", {"tuning": {"ema": "auto", "wise_ft": {"alpha": "auto"}}}),
        ("timm_resnet", {"tuning": {"strategy": "top_layers", "layers": 1, "cache": "on"}}),
        ("rt_detr", {}),
    ],
    ids=["gradual", "averages", "replayed", "boxes"],
)
def test_what_auto_keeps_stays_in_every_kind_of_run(
    family: str, changes: dict[str, object], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_norm, "FEW_STEPS", 1000)
    work = prepare(make_recipe(family, models, tmp_path, **changes), make_data(family, train=16, validation=8))
    assert work.norms
    before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in work.norms]
    train(work)
    for norm, values in zip(work.norms, before, strict=True):
        assert all(value.equal(values[name]) for name, value in norm.named_buffers())
