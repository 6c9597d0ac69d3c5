"""Laws of the activation cache: training that replays frozen layers is the training that computes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, TEXT_FAMILIES
from tiny_runs import StopAfter, largest_difference, logged, make_data, make_recipe, prepare, train, weights
from torch import nn

from hf_sft.data.activation_store import Store
from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.job import Job
from hf_sft.training import activation_cache, cache_plan
from hf_sft.training.cache_plan import Plan, decide

FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES)
TOP = {"strategy": "top_layers", "layers": 1}
HEAD = {"strategy": "head"}
RULES = {"strategy": "rules", "rules": [{"pattern": "embeddings", "lr_scale": 0}, {"pattern": "*"}]}
DROPOUT: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2},
    "modernbert": {"mlp_dropout": 0.3, "classifier_dropout": 0.3},
    "vit": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2},
    "swin": {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.2},
    "convnext": {"drop_path_rate": 0.3},
    "timm_vit": {"model_args": {"img_size": 32, "drop_path_rate": 0.3, "proj_drop_rate": 0.2}},
}
TOLERANCE = 2e-4  # of weights and losses; rows are recorded in other batches than they are trained in


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of rows that were recorded, batch by batch."""
    counts: list[int] = []
    record = activation_cache.record

    def counting(model: Any, cut: Any, inputs: Any) -> Any:
        counts.append(next(iter(inputs.values())).shape[0])
        return record(model, cut, inputs)

    monkeypatch.setattr(activation_cache, "record", counting)
    yield counts


def job_of(
    family: str, models: Path, folder: Path, tuning: dict[str, Any], *, problem: str = "single_label", **changes: Any
) -> Job:
    """A job over 28 rows in batches of 8, the last ragged; its cache lies beside the run."""
    training = {"logging_steps": 1, "num_train_epochs": 3, "save_strategy": "no", **changes.pop("training", {})}
    changes["model"] = {"config": DROPOUT.get(family, {}), **changes.pop("model", {})}
    tuning = {"cache": "on", "cache_dir": str(folder.parent / "cache"), **tuning}
    if tuning["cache"] == "off":
        tuning.pop("cache_dir")
    data = changes.pop("data", None) or make_data(family, problem, train=28, validation=10)
    return prepare(make_recipe(family, models, folder, tuning=tuning, training=training, **changes), data)


def outcome(work: Job) -> tuple[dict[str, np.ndarray], np.ndarray, list[dict[str, float]]]:
    """Final weights, the loss curve, and every evaluation."""
    found = train(work)
    assert any("rows cached" in note for note in found.notes) == (work.recipe.tuning.cache != "off")
    keys = ("epoch", "step", "eval_loss", "eval_accuracy", "eval_mse")
    entries = [{key: entry[key] for key in keys if key in entry} for entry in found.log if "eval_loss" in entry]
    return weights(work), logged(found, "loss", "grad_norm"), entries


def assert_same(one: Any, other: Any) -> None:
    assert largest_difference(one[0], other[0]) < TOLERANCE
    np.testing.assert_allclose(one[1], other[1], rtol=1e-3, atol=TOLERANCE)
    assert len(one[2]) == len(other[2])
    for left, right in zip(one[2], other[2], strict=True):
        assert left == pytest.approx(right, abs=1e-4)


def is_whole(model: nn.Module) -> bool:
    return not any(
        "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks for module in model.modules()
    )


@pytest.mark.parametrize("tuning", [HEAD, TOP, RULES], ids=["head", "top_layers", "rules"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_and_live_training_are_the_same(
    family: str, tuning: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    if family == "timm_deit" and tuning is HEAD:
        pytest.skip("two heads: test_a_model_that_cannot_be_cut_trains_live_and_says_why")
    live = outcome(job_of(family, models, tmp_path / "live", {**tuning, "cache": "off"}))
    work = job_of(family, models, tmp_path / "cached", tuning)
    assert_same(outcome(work), live)
    assert is_whole(work.built.model)


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
@pytest.mark.parametrize("family", ["bert", "resnet"])
def test_every_problem_is_trained_the_same(family: str, problem: str, models: Path, tmp_path: Path) -> None:
    live, cached = (
        outcome(job_of(family, models, tmp_path / cache, {**TOP, "cache": cache}, problem=problem))
        for cache in ("off", "on")
    )
    assert_same(cached, live)


def test_pairs_and_data_loading_processes_change_nothing(models: Path, tmp_path: Path) -> None:
    dataset = {"columns": {"text": "text", "text_pair": "other"}}
    data = {
        role: rows.add_column("other", list(reversed(rows["text"])))
        for role, rows in make_data("bert", train=28, validation=10).items()
    }
    live, cached = (
        outcome(job_of("bert", models, tmp_path / cache, {**TOP, "cache": cache}, data=data, dataset=dataset, run=run))
        for cache, run in (("off", {}), ("on", {"workers": 1}))
    )
    assert_same(cached, live)


def test_a_model_that_cannot_be_cut_trains_live_and_says_why(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = train(job_of("timm_deit", models, tmp_path / "auto", {**HEAD, "cache": "auto"}))
    assert "frozen layers are computed anew each epoch: the model cannot be cut" in capsys.readouterr().out
    assert auto.notes == ()
    with pytest.raises(RecipeError, match=r"tuning\.cache"):
        train(job_of("timm_deit", models, tmp_path / "on", HEAD))


class Fails(StopAfter):
    """Ctrl-C in the middle of training."""


@pytest.mark.parametrize("family", ["bert", "resnet"])
def test_the_model_is_whole_again_also_where_training_raises(family: str, models: Path, tmp_path: Path) -> None:
    work = job_of(family, models, tmp_path / "run", TOP)
    with pytest.raises(KeyboardInterrupt):
        train(work, [Fails(2)])
    assert is_whole(work.built.model)
    rows = work.inputs["validation"]
    predicted = work.evaluator.predict(work.built.model, rows.rows, rows.lengths, work.labels)
    assert np.isfinite(predicted["scores"]).all()


@pytest.mark.parametrize("begun", ["on", "off"])
def test_a_run_goes_on_cached_as_if_never_interrupted(begun: str, models: Path, tmp_path: Path) -> None:
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    whole = outcome(job_of("bert", models, tmp_path / "whole", {**TOP, "cache": "off"}, training=steps))
    with pytest.raises(KeyboardInterrupt):
        train(job_of("bert", models, tmp_path / "parts", {**TOP, "cache": begun}, training=steps), [StopAfter(5)])
    checkpoint = next((tmp_path / "parts" / "checkpoints").glob("checkpoint-*"))
    saved = {name for file in checkpoint.glob("*.safetensors") for name in _tensors(file)}
    rest = job_of("bert", models, tmp_path / "parts", TOP, training=steps)
    assert saved >= {name for name, _ in rest.built.model.named_parameters()}
    train(rest)
    assert largest_difference(weights(rest), whole[0]) < TOLERANCE


def _tensors(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        return list(opened.keys())


def _rank(models: Path, folder: Path, batch: int) -> tuple[dict[str, Any], int, int]:
    """Final weights, rows this process recorded, rows that are stored."""
    seen: list[int] = []
    record = activation_cache.record

    def counting(model: Any, cut: Any, inputs: Any) -> Any:
        seen.append(next(iter(inputs.values())).shape[0])
        return record(model, cut, inputs)

    activation_cache.record = counting
    try:
        dropless = {"config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
        training = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 4}
        work = job_of("bert", models, folder, TOP, model=dropless, training=training)
        train(work)
    finally:
        activation_cache.record = record
    (computation,) = (folder.parent / "cache").iterdir()
    store = Store(computation)
    store.read(store.complete_segments())
    return weights(work), sum(seen), sum(len(segment.keys) for segment in store.segments)


def test_two_processes_equal_one_and_record_every_row_once(models: Path, tmp_path: Path) -> None:
    one, rows, stored = _rank(models, tmp_path / "one" / "run", 16)
    ranks = in_two_processes(_rank, models, tmp_path / "two" / "run", 8)
    assert rows == stored == sum(seen for _, seen, _ in ranks) == 38
    assert all(kept == 38 and seen < 38 for _, seen, kept in ranks)
    for other, _, _ in ranks:
        assert largest_difference(one, other) < TOLERANCE


def changed_text(rows: Dataset) -> Dataset:
    texts = list(rows["text"])
    return rows.remove_columns("text").add_column("text", ["film film film", *texts[1:]])


def brighter(rows: Dataset) -> Dataset:
    def first(row: dict[str, Any], index: int) -> dict[str, Any]:
        return {"image": row["image"].point(lambda value: min(255, value + 9)) if index == 0 else row["image"]}

    return rows.map(first, with_indices=True)


def planned(work: Job) -> Plan:
    plan = decide(work)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"processor": {"max_length": 9}}),
        ("bert", {"tuning": {**TOP, "cache_dtype": "float16"}}),
        ("bert", {"tuning": HEAD}),
        ("bert", {"model": {"config": {"layer_norm_eps": 1e-6}}}),
        ("bert", {"run": {"precision": "bf16"}}),
        ("resnet", {"processor": {"size": 40}}),
        ("resnet", {"processor": {"image_mean": [0.1, 0.2, 0.3]}}),
        ("timm_resnet", {"processor": {"image_mean": [0.1, 0.2, 0.3]}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_another_setting_computes_is_recorded_apart(
    family: str, changes: dict[str, Any], models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    train(job_of(family, models, tmp_path / "first", TOP))
    settings = {"tuning": TOP, **changes}
    assert planned(job_of(family, models, tmp_path / "other", **settings)).missing == 38
    assert planned(job_of(family, models, tmp_path / "again", TOP)).missing == 0
    assert sum(recorded) == 38


def test_what_other_frozen_weights_compute_is_recorded_apart(models: Path, tmp_path: Path) -> None:
    train(job_of("bert", models, tmp_path / "first", TOP))
    work = job_of("bert", models, tmp_path / "other", TOP)
    with torch.no_grad():
        work.built.model.bert.encoder.layer[0].output.dense.weight[0, 0] += 1e-3
    assert planned(work).missing == 38


def test_what_another_tokenizer_makes_of_a_text_is_recorded_apart(models: Path, tmp_path: Path) -> None:
    train(job_of("bert", models, tmp_path / "first", TOP))
    work = job_of("bert", models, tmp_path / "other", TOP)
    work.built.processor.add_tokens(["splendid"])
    assert planned(work).missing == 38


@pytest.mark.parametrize(("family", "change"), [("bert", changed_text), ("resnet", brighter)])
def test_a_row_that_changed_is_recorded_anew_and_it_alone(
    family: str, change: Any, models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    train(job_of(family, models, tmp_path / "first", TOP))
    data = make_data(family, train=28, validation=10)
    train(job_of(family, models, tmp_path / "other", TOP, data={**data, "train": change(data["train"])}))
    assert sum(recorded) == 39


def test_other_rates_seeds_labels_and_samples_record_nothing_anew(
    models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    data = make_data("bert", train=28, validation=10)
    train(job_of("bert", models, tmp_path / "first", TOP, data=data))
    assert sum(recorded) == 38
    swapped = {"train": data["train"].select(range(9, 28)), "validation": data["train"].select(range(9))}
    for number, changes in enumerate(
        (
            {"training": {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 4}},
            {"seed": 7},
            {"dataset": {"max_samples": {"train": 11}}},
            {"data": swapped},
            {"problem": "multi_label"},
            {"problem": "regression"},
        )
    ):
        train(job_of("bert", models, tmp_path / str(number), TOP, **{"data": None, **changes}))
    assert sum(recorded) == 38


def test_other_labels_of_a_timm_model_record_nothing_anew(models: Path, tmp_path: Path, recorded: list[int]) -> None:
    train(job_of("timm_resnet", models, tmp_path / "first", TOP))
    train(job_of("timm_resnet", models, tmp_path / "other", TOP, problem="multi_label"))
    assert sum(recorded) == 38


@pytest.mark.parametrize(
    ("family", "entry"), [("bert", {"word_dropout": {"p": 0.4}}), ("resnet", {"color_jitter": {"brightness": 0.5}})]
)
def test_views_are_recorded_so_often_and_validation_is_not_augmented(
    family: str, entry: dict[str, Any], models: Path, tmp_path: Path, recorded: list[int]
) -> None:
    tuning, changes = {**TOP, "cache_views": 2}, {"augment": [entry]}
    first = outcome(job_of(family, models, tmp_path / "first", tuning, **changes))
    assert sum(recorded) == 2 * 28 + 10
    assert_same(outcome(job_of(family, models, tmp_path / "again", tuning, **changes)), first)
    assert sum(recorded) == 2 * 28 + 10
    for number, other in enumerate(({"augment": [entry, entry]}, {**changes, "seed": 1})):
        assert planned(job_of(family, models, tmp_path / str(number), tuning, **other)).missing >= 2 * 28 - 10
    plan = planned(job_of(family, models, tmp_path / "plain", {**TOP}))
    assert plan.missing >= 28 - 10 and len(plan.keys["validation"].keys) == 1


def test_a_view_is_drawn_by_seed_epoch_and_row(models: Path, tmp_path: Path) -> None:
    work = job_of("bert", models, tmp_path / "run", {**TOP, "cache_views": 3}, augment=[{"word_dropout": {"p": 0.4}}])
    with activation_cache.replaying(work, planned(work)) as replayed:
        rows: Any = replayed.inputs["train"].rows
        views = [[rows._view(position, epoch) for position in range(28)] for epoch in range(4)]
        assert {view for epoch in views for view in epoch} == {0, 1, 2} and len({tuple(epoch) for epoch in views}) == 4
        for epoch, drawn in enumerate(views):
            feature = rows[5 + 2 * epoch * 28]
            own = work.inputs["train"].rows[5 + 2 * drawn[5] * 28]
            assert feature["input_ids"] == own["input_ids"] and len(feature["recorded_0"]) == len(own["input_ids"])


def test_augmentation_without_views_computes_frozen_layers_anew(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augment = ["horizontal_flip"]
    assert decide(job_of("resnet", models, tmp_path / "auto", {**TOP, "cache": "auto"}, augment=augment)) is None
    assert "tuning.cache_views: 4" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="cache_views"):
        decide(job_of("resnet", models, tmp_path / "on", TOP, augment=augment))


@pytest.mark.parametrize("family", ["bert", "resnet"])
def test_half_precision_takes_half_the_room_and_is_read_as_float32(family: str, models: Path, tmp_path: Path) -> None:
    whole, half = (
        planned(job_of(family, models, tmp_path / dtype, {**TOP, "cache_dtype": dtype}))
        for dtype in ("float32", "float16")
    )
    assert whole.bytes == whole.writes == 2 * half.bytes
    work = job_of(family, models, tmp_path / "run", {**TOP, "cache_dtype": "float16"})
    with activation_cache.replaying(work, half) as replayed:
        batch = replayed.collate(replayed.inputs["train"].features(3))
        assert batch["recorded_0"].dtype == torch.float32 and bool(batch["recorded_0"].isfinite().all())
    found = outcome(job_of(family, models, tmp_path / "other", {**TOP, "cache_dtype": "float16"}))
    live = outcome(job_of(family, models, tmp_path / "live", {**TOP, "cache": "off"}))
    assert np.abs(found[1] - live[1]).max() < 0.05


def test_what_float16_cannot_hold_is_an_error(models: Path, tmp_path: Path) -> None:
    work = job_of("bert", models, tmp_path / "run", {**TOP, "cache_dtype": "float16"})
    with torch.no_grad():
        work.built.model.bert.encoder.layer[0].output.LayerNorm.bias.fill_(1e5)
    with pytest.raises(EnvironmentProblem, match="cache_dtype: float32"):
        train(work)
    assert not list((tmp_path / "cache").glob("*/*/"))


@pytest.mark.parametrize("cache", ["auto", "on"])
def test_a_disk_without_room_is_known_before_anything_is_written(
    cache: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = job_of("bert", models, tmp_path / "run", {**HEAD, "cache": cache})
    monkeypatch.setattr(cache_plan.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 900})())
    if cache == "on":
        with pytest.raises(EnvironmentProblem, match=r"under 1 MB free[^$]*hf-sft cache list"):
            decide(work)
    else:
        assert decide(work) is None and "under 1 MB free" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_to_is_known_before(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache_plan.os, "access", lambda folder, mode: False)
    with pytest.raises(EnvironmentProblem, match="cannot be written to"):
        decide(job_of("bert", models, tmp_path / "on", HEAD))
    assert decide(job_of("bert", models, tmp_path / "auto", {**HEAD, "cache": "auto"})) is None
    assert "cannot be written to" in capsys.readouterr().out
    (tmp_path / "cache").write_text("a file in its place")
    monkeypatch.undo()
    with pytest.raises(EnvironmentProblem, match="cache_dir"):
        train(job_of("bert", models, tmp_path / "late", HEAD))


def test_a_disk_that_fills_up_while_recording_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(EnvironmentProblem, match="cache_dir"):
        train(job_of("bert", models, tmp_path / "run", TOP))


def test_recording_is_kept_a_segment_at_a_time(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: list[int]
) -> None:
    work = job_of("bert", models, tmp_path / "run", TOP)
    plan = planned(work)
    monkeypatch.setattr(activation_cache, "SEGMENT", plan.writes // 6)
    complete = Store.complete

    def interrupted(store: Store, folder: Path) -> None:
        if len(store.complete_segments()) == 3:
            raise KeyboardInterrupt
        complete(store, folder)

    monkeypatch.setattr(Store, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(work)
    monkeypatch.setattr(Store, "complete", complete)
    kept = 38 - planned(job_of("bert", models, tmp_path / "again", TOP)).missing
    assert 10 < kept < 30
    recorded.clear()
    train(job_of("bert", models, tmp_path / "again", TOP))
    assert sum(recorded) == 38 - kept


@pytest.mark.parametrize("tuning", [{"strategy": "full"}, {"strategy": "layer_decay", "layer_decay": 0.8}])
def test_nothing_is_tried_where_nothing_is_frozen(
    tuning: dict[str, Any], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("find_cut", "key_rows", "describe_computation", "probe_features"):
        monkeypatch.setattr(cache_plan, name, None)
    assert decide(job_of("bert", models, tmp_path / "run", {**tuning, "cache": "auto"})) is None
    with pytest.raises(RecipeError, match="every weight trains"):
        decide(job_of("bert", models, tmp_path / "on", tuning))


def test_rows_are_not_read_where_nothing_can_be_saved(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = {"num_train_epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(cache_plan, "key_rows", None)
        assert decide(job_of("bert", models, tmp_path / "run", {**HEAD, "cache": "auto"}, training=once)) is None
    assert "would not pay in 1 epoch" in capsys.readouterr().out
    train(job_of("bert", models, tmp_path / "other", HEAD))
    plan = planned(job_of("bert", models, tmp_path / "run", {**HEAD, "cache": "auto"}, training=once))
    assert plan.missing == plan.writes == 0 and "all there already" in str(plan)


@pytest.mark.parametrize(
    ("training", "environment", "words"),
    [
        ({"torch_compile": True}, {}, "torch_compile"),
        ({"activation_checkpointing": True}, {}, "computes layers twice"),
        ({}, {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, "several machines"),
    ],
)
def test_what_does_not_go_with_it_is_said(
    training: dict[str, Any],
    environment: dict[str, str],
    words: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = job_of("bert", models, tmp_path / "run", {**HEAD, "cache": "auto"}, training=training)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert decide(work) is None and words in capsys.readouterr().out


def test_the_decision_is_one_line(models: Path, tmp_path: Path) -> None:
    plan = planned(job_of("bert", models, tmp_path / "run", TOP, training={"num_train_epochs": 10}))
    assert str(plan).startswith("frozen up to block.0: 38 rows cached (under 1 MB), about 1.")
    assert str(plan).endswith(" times less work over 10 epochs")
