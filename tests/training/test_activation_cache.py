"""Laws of the activation cache: training that replays frozen layers is the training that computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cached_runs import HEAD, RULES, TOLERANCE, TOP, assert_same, is_whole, job_of, outcome, planned
from forked import in_two_processes
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, TEXT_FAMILIES
from tiny_runs import StopAfter, largest_difference, make_data, train, weights

from hf_sft.data.activation_store import Store
from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.training import activation_cache

FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES)
LEFT_OUT = {  # the first cannot be cut (two heads); in the second nine million weights train
    ("timm_deit", "head"), ("timm_vgg", "rules"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "tuning"),
    [
        pytest.param(family, tuning, id=f"{family}-{tuning['strategy']}")
        for family in FAMILIES
        for tuning in (HEAD, TOP, RULES)
        if (family, tuning["strategy"]) not in LEFT_OUT
    ],
)
def test_cached_and_live_training_are_the_same(
    family: str, tuning: dict[str, Any], models: Path, tmp_path: Path
) -> None:
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
