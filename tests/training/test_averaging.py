"""The moving average is that of a plain loop; it is what is evaluated and kept, and survives an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from safetensors.numpy import load_file
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe, prepare, train, weights
from transformers import TrainerCallback

from hf_sft import fine_tune
from hf_sft.errors import RecipeError
from hf_sft.training.averaging import FILE, decay_of
from hf_sft.training.fit import Trained
from hf_sft.training.history import epoch_entries
from hf_sft.training.trainer import refuse_sharded

Weights = dict[str, np.ndarray]
EACH_TWO_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}


class Watched:
    """An evaluator that notes the weights it is given."""

    def __init__(self, evaluator: Any):
        self.evaluator, self.seen = evaluator, list[Weights]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.evaluator, name)

    def predict(self, model: Any, *arguments: Any, **options: Any) -> Any:
        self.seen.append({name: value.detach().numpy().copy() for name, value in model.state_dict().items()})
        return self.evaluator.predict(model, *arguments, **options)


class Raw(TrainerCallback):
    """The weights that training goes on with, before the first step and after each."""

    def __init__(self) -> None:
        self.seen: list[Weights] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append({name: value.detach().numpy().copy() for name, value in model.state_dict().items()})

    on_train_begin = on_step_end


def run(
    family: str, models: Path, folder: Path, *callbacks: Any, double: bool = False, **changes: Any
) -> tuple[Trained, Weights, list[Weights]]:
    """44 rows in batches of 8 make 6 steps an epoch -> (how it went, final weights, evaluated weights)."""
    changes["tuning"] = {"ema": 0.5, **changes.get("tuning", {})}
    work = prepare(
        make_recipe(family, models, folder, **changes), make_data(family, train=44, validation=16), double=double
    )
    watched: Any = Watched(work.evaluator)
    found = train(replace(work, evaluator=watched), callbacks)
    return found, weights(work), watched.seen


def plain_average(raw: list[Weights], decay: float) -> list[Weights]:
    """After each step; raw begins with the first weights."""
    averages = [raw[0]]
    for step, now in enumerate(raw[1:], start=1):
        share = 1 - min(decay, (1 + step) / (10 + step))
        averages.append({name: averages[-1][name] * (1 - share) + now[name] * share for name in now})
    return averages[1:]


@pytest.mark.parametrize("family", ["bert", "resnet", "timm_resnet"])
@pytest.mark.parametrize("ema, decay", [(0.3, 0.3), (0.9, 0.9), ("auto", 1 - 10 / 12)])
def test_what_is_evaluated_is_the_average_of_a_plain_loop(family, ema, decay, models, tmp_path):
    """With BatchNorm's statistics; a count of batches is no weight."""
    raw = Raw()
    training = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no"}
    _, kept, seen = run(family, models, tmp_path, raw, double=True, training=training, tuning={"ema": ema})
    expected = plain_average(raw.seen, decay)
    assert len(seen) == len(expected) == 12
    for one, other, now in zip(seen, expected, raw.seen[1:], strict=True):
        whole = {name for name, value in now.items() if not np.issubdtype(value.dtype, np.floating)}
        assert largest_difference(*({name: w[name] for name in w if name not in whole} for w in (one, other))) < 1e-12
        assert all(np.array_equal(one[name], now[name]) for name in whole)
    assert largest_difference(kept, seen[-1]) == 0.0, "nothing was saved: the last average is kept"
    assert largest_difference(kept, raw.seen[-1]) > 1e-4


@pytest.mark.parametrize(
    "steps, decay", [(1, 0.0), (10, 0.0), (20, 0.5), (1000, 0.99), (100_000, 0.9999), (10**8, 0.9999)]
)
def test_auto_makes_the_average_a_tenth_of_the_run_long(steps, decay):
    assert decay_of("auto", steps) == pytest.approx(decay)
    assert decay_of(0.7, steps) == 0.7


@pytest.mark.parametrize("family", ["bert", "vit", "resnet"])
def test_averaging_leaves_what_is_learned_alone(family, models, tmp_path):
    """Dropout on: the raw weights are those of a run without."""
    raw, plain = Raw(), Raw()
    run(family, models, tmp_path / "average", raw)
    work = prepare(make_recipe(family, models, tmp_path / "plain"), make_data(family, train=44, validation=16))
    train(work, [plain])
    for one, other in zip(raw.seen, plain.seen, strict=True):
        assert largest_difference(one, other) == 0.0


@pytest.mark.parametrize("family", ["bert", "swin", "resnet"])
def test_the_weights_kept_are_the_averages_of_the_best_evaluation(family, models, tmp_path):
    """The rate is far too high, so that the last evaluation is not the best."""
    training = {**EACH_TWO_STEPS, "save_steps": 4, "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    found, kept, seen = run(family, models, tmp_path, training=training)
    at_step = dict(zip(range(2, 14, 2), seen, strict=True))
    assert found.best_step in at_step
    assert largest_difference(kept, at_step[found.best_step]) == 0.0
    assert all(largest_difference(kept, at_step[step]) > 0 for step in at_step if step != found.best_step)
    checkpoint = tmp_path / "checkpoints" / f"checkpoint-{found.best_step}"
    averaged = load_file(checkpoint / FILE)
    assert largest_difference(averaged, {name: kept[name] for name in averaged}) == 0.0
    assert largest_difference(averaged, {name: load_file(checkpoint / "model.safetensors")[name] for name in averaged})


@pytest.mark.parametrize("event, step", [("on_step_end", 5), ("on_save", 6), ("on_step_end", 9), ("on_train_end", 12)])
@pytest.mark.parametrize("family, ema", [("bert", "auto"), ("resnet", 0.7)])
def test_resumed_run_equals_uninterrupted_run(family, ema, event, step, models, tmp_path):
    settings: dict[str, Any] = {"training": EACH_TWO_STEPS, "tuning": {"ema": ema}}
    whole, kept, seen = run(family, models, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(family, models, tmp_path / "parts", StopAfter(step, event), **settings)
    resumed, kept_too, seen_too = run(family, models, tmp_path / "parts", **settings)
    assert largest_difference(kept, kept_too) == 0.0
    assert epoch_entries(resumed.log, evaluated=True) == epoch_entries(whole.log, evaluated=True)
    assert resumed.best_step == whole.best_step
    for one, other in zip(reversed(seen), reversed(seen_too), strict=False):
        assert largest_difference(one, other) == 0.0


def test_a_checkpoint_whose_averages_were_not_written_is_left_out(models, tmp_path, monkeypatch):
    whole, kept, _ = run("bert", models, tmp_path / "whole", training=EACH_TWO_STEPS)
    from hf_sft.training import averaging

    save = averaging.save_tensors

    def die(tensors: Any, path: Path) -> None:
        if path.parent.name == "checkpoint-6":
            raise KeyboardInterrupt
        save(tensors, path)

    monkeypatch.setattr(averaging, "save_tensors", die)
    with pytest.raises(KeyboardInterrupt):
        run("bert", models, tmp_path / "parts", training=EACH_TWO_STEPS)
    monkeypatch.undo()
    resumed, kept_too, _ = run("bert", models, tmp_path / "parts", training=EACH_TWO_STEPS)
    assert largest_difference(kept, kept_too) == 0.0 and resumed.best_step == whole.best_step


def test_frozen_parts_are_not_averaged_and_stay_bit_identical(models, tmp_path):
    work = prepare(
        make_recipe("resnet", models, tmp_path, tuning={"strategy": "head", "ema": 0.9}),
        make_data("resnet", train=16, validation=8),
    )
    before = weights(work)
    train(work)
    changed = {name for name, value in weights(work).items() if not np.array_equal(value, before[name])}
    assert changed and all(name.startswith("classifier.") for name in changed)
    (file, *_) = sorted(tmp_path.rglob(FILE))
    assert {name for name in load_file(file) if "running" not in name} == changed


def averages(models: Path, folder: Path, family: str, training: dict[str, Any]) -> tuple[Weights, list[Weights], Any]:
    changes: dict[str, Any] = {"model": {"config": NO_DROPOUT if family == "bert" else {}}, "training": training}
    found, kept, seen = run(family, models, folder, double=True, **changes)
    return kept, seen, epoch_entries(found.log, evaluated=True)


def test_two_processes_give_the_averages_of_one(models, tmp_path):
    one = averages(models, tmp_path / "one", "bert", {"per_device_train_batch_size": 8})
    for other in in_two_processes(averages, models, tmp_path / "two", "bert", {"per_device_train_batch_size": 4}):
        assert largest_difference(one[0], other[0]) < 1e-10
        assert all(largest_difference(*pair) < 1e-10 for pair in zip(one[1], other[1], strict=True))


def test_both_processes_evaluate_and_keep_the_same_statistics(models, tmp_path):
    """BatchNorm that trains sees the rows of one process: those of the main process count."""
    training = {**EACH_TWO_STEPS, "per_device_train_batch_size": 4}
    first, second = in_two_processes(averages, models, tmp_path, "resnet", training)
    floats = [name for name, value in first[0].items() if np.issubdtype(value.dtype, np.floating)]
    for one, other in zip([first[0], *first[1]], [second[0], *second[1]], strict=True):
        assert largest_difference({n: one[n] for n in floats}, {n: other[n] for n in floats}) == 0.0


def test_model_holds_the_average_and_the_record_says_so(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, tuning={"ema": 0.6}, run={"keep_checkpoints": True})
    record = fine_tune(recipe, data=make_data("bert", train=44, validation=16))
    best = max(
        record.history["epochs"], key=lambda entry: (entry[record.recipe["metrics"][0]], -entry["validation_loss"])
    )
    averaged = load_file(tmp_path / "checkpoints" / f"checkpoint-{best['step']}" / FILE)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert largest_difference(averaged, {name: saved[name] for name in averaged}) == 0.0
    assert record.metrics["validation"]["loss"] == pytest.approx(best["validation_loss"], abs=1e-7)
    assert any("moving average" in note and "decay 0.6" in note for note in record.notes)


def test_weights_in_shards_are_refused(models, tmp_path):
    recipe = make_recipe(
        "bert", models, tmp_path, tuning={"ema": "auto", "wise_ft": {"alpha": 0.5}, "strategy": "gradual"}
    )
    with pytest.raises(RecipeError) as caught:
        refuse_sharded(recipe)
    assert [finding.place for finding in caught.value.findings] == ["tuning.ema", "tuning.wise_ft", "tuning.strategy"]
    refuse_sharded(make_recipe("bert", models, tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_averages_stay_on_the_device(models, tmp_path):
    from hf_sft.modeling.rules import Rule
    from hf_sft.training.averaging import WeightAverage

    model = torch.nn.Linear(2, 2).cuda()
    average = WeightAverage(model, dict.fromkeys(("weight", "bias"), Rule("*")), setting="auto", several=False)
    assert {value.device.type for value in average.averages.values()} == {"cuda"}
