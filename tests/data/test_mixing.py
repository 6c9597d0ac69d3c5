"""Laws of mixup and CutMix: drawn by seed, epoch and row alone; right mixtures of two rows; training rows only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe, prepare, train, weights
from transformers import AutoModelForImageClassification

from hf_sft import fine_tune
from hf_sft.data.augment import configure_augment
from hf_sft.data.mixing import Mixing
from hf_sft.data.rows import Rows
from hf_sft.errors import RecipeError
from hf_sft.recipe import Recipe

KINDS: dict[str, dict[str, float]] = {
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.4, "cutmix": 1.0},
}
SIZE, NUMBER, LABELS = 16, 12, 3
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(NUMBER, 3, SIZE, SIZE + 4, generator=GENERATOR)
TARGETS = np.arange(NUMBER) % LABELS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def images_of(batch: Any) -> dict[str, Any]:
    return {"pixel_values": IMAGES[batch["index"]], "index": batch["index"]}


def make_rows(kind: str, targets: Any = TARGETS, seed: int = 0, **settings: Any) -> Rows:
    mixing = Mixing(seed=seed, num_labels=LABELS, **KINDS[kind])
    rows = Dataset.from_dict({"index": list(range(len(targets)))})
    return Rows(rows, images_of, targets, mixing=mixing, row_ids=settings.pop("ids", None), **settings)


def index(row: int, epoch: int = 0, *, filler: bool = False, size: int = NUMBER) -> int:
    return row + size * (2 * epoch + filler)


def plan_of(rows: Rows, row: int, epoch: int = 0) -> Any:
    assert rows.mixing is not None
    return rows.mixing.plan((epoch, row), row, rows.pools)


# what a mixture is


def test_mixup_is_the_convex_mixture_of_two_rows_and_of_their_labels() -> None:
    rows, shares = make_rows("mixup"), []
    for row in range(NUMBER):
        plan, feature = plan_of(rows, row), rows[row]
        assert plan.partner != row and 0 <= plan.share <= 1 and plan.centre is None
        expected = plan.share * IMAGES[row] + (1 - plan.share) * IMAGES[plan.partner]
        torch.testing.assert_close(feature["pixel_values"], expected)
        labels = np.zeros(LABELS)
        labels[TARGETS[row]] += plan.share
        labels[TARGETS[plan.partner]] += 1 - plan.share
        assert feature["labels"].dtype == np.float32
        np.testing.assert_allclose(feature["labels"], labels, atol=1e-6)
        shares.append(plan.share)
    assert len(set(shares)) == NUMBER


def test_cutmix_puts_a_box_of_one_row_into_another_and_counts_its_pixels() -> None:
    rows = make_rows("cutmix")
    clipped = 0
    for epoch in range(20):
        for row in range(NUMBER):
            plan, feature = plan_of(rows, row, epoch), rows[index(row, epoch)]
            own, other = IMAGES[row], IMAGES[plan.partner]
            foreign = (feature["pixel_values"] != own).all(0)
            assert torch.equal(feature["pixel_values"], torch.where(foreign, other, own))
            height, width = (int(foreign.any(side).sum()) for side in (1, 0))
            assert height * width == foreign.sum(), "a whole box"
            asked = [int(side * (1 - plan.share) ** 0.5) for side in foreign.shape]
            assert height <= asked[0] and width <= asked[1], "smaller where it is cut off at the border"
            clipped += [height, width] != asked
            if TARGETS[row] != TARGETS[plan.partner]:
                left = 1 - float(foreign.float().mean())
                assert feature["labels"][TARGETS[row]] == pytest.approx(left, abs=1e-6)
            assert feature["labels"].sum() == pytest.approx(1)
    assert 0 < clipped < 20 * NUMBER


def test_of_both_each_row_is_given_one_in_half_of_the_cases() -> None:
    rows = make_rows("both")
    cut = [plan_of(rows, row, epoch).centre is not None for epoch in range(50) for row in range(NUMBER)]
    assert 0.43 < np.mean(cut) < 0.57


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.1, 0.13, 0.25), (1.0, 0.06, 0.11), (100.0, 0.0, 0.003)])
def test_shares_come_from_the_beta_distribution(alpha: float, low: float, high: float) -> None:
    """Its variance is 1 / (4 (2 alpha + 1)): 0.208, 0.083, 0.001."""
    mixing = Mixing(seed=0, num_labels=2, mixup=alpha)
    pools = mixing.pools(50, np.zeros(50))
    shares = [mixing.plan((epoch, row), row, pools).share for epoch in range(20) for row in range(50)]
    assert low < np.var(shares) < high and np.mean(shares) == pytest.approx(0.5, abs=0.05)


def test_several_labels_are_mixed_as_they_are() -> None:
    targets = np.eye(NUMBER, dtype=np.float32)[:, :LABELS] + 0.0
    targets[:, 0] = 1
    rows = make_rows("mixup", targets)
    for row in range(NUMBER):
        plan = plan_of(rows, row)
        expected = plan.share * targets[row] + (1 - plan.share) * targets[plan.partner]
        np.testing.assert_allclose(rows[row]["labels"], expected, atol=1e-6)


# what it depends on


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_depends_on_seed_epoch_and_row_alone(kind: str) -> None:
    """Not on the other rows of the batch, on its size, nor on the state of torch or numpy, which is left alone."""

    def read(rows: Rows, order: list[int]) -> dict[int, Any]:
        return {
            place: (feature["pixel_values"].numpy().tobytes(), feature["labels"].tobytes())
            for place, feature in zip(order, rows.__getitems__(order), strict=True)
        }

    rows, every = make_rows(kind), [index(row, epoch) for epoch in (0, 3) for row in range(NUMBER)]
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    whole = read(rows, every)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.random.get_state()[1].tolist() == states[1]
    torch.manual_seed(2)
    assert read(pickle.loads(pickle.dumps(rows)), every[::-5]) == {place: whole[place] for place in every[::-5]}
    assert all(read(rows, [place]) == {place: whole[place]} for place in every)
    assert len({value[0] for value in whole.values()}) == len(every)
    others = read(make_rows(kind, seed=1), every)
    assert all(others[place] != whole[place] for place in every)


def test_a_filler_is_the_mixture_it_repeats_and_weighs_nothing() -> None:
    rows = make_rows("mixup")
    one, filler = rows.__getitems__([index(4, 2), index(4, 2, filler=True)])
    assert torch.equal(one["pixel_values"], filler["pixel_values"]) and (one["weight"], filler["weight"]) == (1.0, 0.0)


def test_draws_follow_row_ids() -> None:
    ids = np.array([7, 100, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16])
    rows = make_rows("mixup", ids=ids)
    assert rows.mixing is not None
    plan = rows.mixing.plan((0, 100), 1, rows.pools)
    assert rows.mixing.plan((0, 100), 5, rows.pools).share == plan.share, "wherever the row stands"
    expected = plan.share * IMAGES[1] + (1 - plan.share) * IMAGES[plan.partner]
    torch.testing.assert_close(rows[1]["pixel_values"], expected)


def test_the_partner_is_as_it_is_read_itself_in_that_epoch() -> None:
    """With random erasing: both rows carry the draws of their own."""

    def make(mixing: bool) -> Rows:
        augment = configure_augment(
            [("random_erasing", {"p": 0.9})], ["index"], seed=5, pixels=SIZE, opened=lambda value: value
        )
        if mixing:
            return make_rows("mixup", augment=augment)
        return Rows(make_rows("mixup").rows, images_of, TARGETS, augment=augment)

    mixed, alone = make(True), make(False)
    for row in range(NUMBER):
        plan = plan_of(mixed, row, 2)
        own, other = (alone[index(each, 2)]["pixel_values"] for each in (row, plan.partner))
        expected = plan.share * own + (1 - plan.share) * other
        torch.testing.assert_close(mixed[index(row, 2)]["pixel_values"], expected)


def test_partners_are_any_other_rows_or_of_each_class_equally_often() -> None:
    targets = np.array([0] * 30 + [1] * 6 + [2] * 4)
    shares = {}
    for by_class in (False, True):
        mixing = Mixing(seed=0, num_labels=3, mixup=1.0, by_class=by_class)
        pools = mixing.pools(40, targets)
        drawn = [(row, mixing.plan((epoch, row), row, pools).partner) for epoch in range(60) for row in range(40)]
        assert all(row != partner for row, partner in drawn) and {partner for _, partner in drawn} == set(range(40))
        shares[by_class] = np.bincount(targets[[partner for _, partner in drawn]]) / len(drawn)
    np.testing.assert_allclose(shares[False], [30 / 40, 6 / 40, 4 / 40], atol=0.03)
    np.testing.assert_allclose(shares[True], [1 / 3] * 3, atol=0.04)


def test_a_split_of_one_row_stays_as_it_is() -> None:
    feature = make_rows("both", TARGETS[:1])[0]
    torch.testing.assert_close(feature["pixel_values"], IMAGES[0])
    assert feature["labels"].tolist() == [1.0, 0.0, 0.0]


# in training


def mixed_recipe(family: str, models: Path, folder: Path, **changes: Any) -> Recipe:
    model = {"config": NO_DROPOUT if family == "vit" else {}}
    content = {"objective": KINDS["both"], "model": model, "tuning": {"strategy": "full"}, **changes}
    return make_recipe(family, models, folder, augment=["horizontal_flip"], **content)


def test_training_rows_are_mixed_and_no_others(models: Path, tmp_path: Path) -> None:
    work = prepare(mixed_recipe("vit", models, tmp_path), make_data("vit", train=16, validation=8, test=8))
    assert work.inputs["train"].rows.mixing is not None
    assert {feature["labels"].shape for feature in work.inputs["train"].features(4)} == {(2,)}
    for role in ("validation", "test"):
        assert work.inputs[role].rows.mixing is None
        assert {feature["labels"].shape for feature in work.inputs[role].features(4)} == {()}
    balanced = mixed_recipe("vit", models, tmp_path, dataset={"sampling": "balanced"})
    assert prepare(balanced, make_data("vit", train=16)).inputs["train"].rows.mixing.by_class
    plain = prepare(make_recipe("vit", models, tmp_path), make_data("vit", train=16))
    assert plain.inputs["train"].rows.mixing is None


def run(models: Path, folder: Path, batch: int, accumulation: int = 1) -> dict[str, np.ndarray]:
    training = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    work = prepare(mixed_recipe("vit", models, folder, training=training), make_data("vit", train=36), double=True)
    train(work)
    return weights(work)


def test_batches_of_one_accumulated_and_two_processes_mix_as_one_batch_does(models: Path, tmp_path: Path) -> None:
    one = run(models, tmp_path / "one", 8)
    assert largest_difference(one, run(models, tmp_path / "ones", 1, 8)) < 1e-10
    for other in in_two_processes(run, models, tmp_path / "two", 2, 2):
        assert largest_difference(one, other) < 1e-10


def test_a_resumed_run_mixes_as_the_whole_one_did(models: Path, tmp_path: Path) -> None:
    data, often = make_data("vit", train=44, validation=8), {"save_strategy": "steps", "save_steps": 2}
    whole = prepare(mixed_recipe("vit", models, tmp_path / "whole", training=often), data)
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(mixed_recipe("vit", models, tmp_path / "parts", training=often), data), [StopAfter(9)])
    resumed = prepare(mixed_recipe("vit", models, tmp_path / "parts", training=often), data)
    train(resumed)
    assert largest_difference(weights(whole), weights(resumed)) == 0.0


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
@pytest.mark.parametrize("family", ["vit", "resnet", "timm_resnet"])
def test_everything_at_once_trains_and_saves_a_plain_model(
    family: str, problem: str, models: Path, tmp_path: Path
) -> None:
    """In batches of one and of more; the second with class weights in place of balanced sampling."""
    for number, batch in enumerate((8, 1)):
        objective = {**KINDS["both"], "focal_gamma": 2.0}
        sampling = "balanced" if number == 0 and problem == "single_label" else "natural"
        objective |= {} if sampling == "balanced" else {"class_weights": "balanced"}
        recipe = mixed_recipe(
            family,
            models,
            tmp_path / str(number),
            objective=objective,
            dataset={"sampling": sampling},
            training={"per_device_train_batch_size": batch, "num_train_epochs": 1},
            tuning={"strategy": "head" if batch == 1 else "full"},
        )
        record = fine_tune(recipe, data=make_data(family, problem, train=20, validation=8))
        assert all(np.isfinite(step["loss"]) and step["loss"] > 0 for step in record.history["steps"])
        saved = AutoModelForImageClassification.from_pretrained(tmp_path / str(number) / "model")
        assert all(torch.isfinite(value).all() for value in saved.state_dict().values())
        assert torch.isfinite(saved(torch.zeros(2, 3, 32, 32)).logits).all()


# what is refused


@pytest.mark.parametrize(
    ("task", "changes", "place", "words"),
    [
        ("text-classification", {"objective": {"mixup": 0.2}}, "objective.mixup", "images alone are mixed"),
        ("text-classification", {"objective": {"cutmix": 1}}, "objective.cutmix", "images alone are mixed"),
        ("image-classification", {"objective": {"mixup": 0}}, "objective.mixup", "greater than or equal to 0.001"),
        ("image-classification", {"objective": {"mixup": 0.2}, "streaming": True}, "objective.mixup", "and a stream"),
        ("text-classification", {"sampling": "balanced", "streaming": True}, "dataset.sampling", "and a stream"),
        (
            "text-classification",
            {"objective": {"class_weights": "balanced"}, "streaming": True},
            "objective.class_weights",
            "and a stream",
        ),
        (
            "text-classification",
            {"objective": {"class_weights": "balanced"}, "sampling": "balanced"},
            "dataset.sampling",
            "one remedy",
        ),
        (
            "text-classification",
            {"objective": {"focal_gamma": 2, "label_smoothing": 0.1}},
            "objective.focal_gamma",
            "no label_smoothing beside it",
        ),
        ("text-classification", {"objective": {"focal_gamma": -1}}, "objective.focal_gamma", "or equal to 0"),
        ("text-classification", {"objective": {"class_weights": {"a": 0}}}, "objective.class_weights.a", "0.000001"),
        ("text-classification", {"sampling": "balance"}, "dataset.sampling", "did you mean 'balanced'"),
    ],
)
def test_what_cannot_be_is_found_in_the_recipe(task: str, changes: dict[str, Any], place: str, words: str) -> None:
    changes, data = dict(changes), {"path": "p"}
    data |= {key: changes.pop(key) for key in ("sampling", "streaming") if key in changes}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({"task": task, "model": {"name": "m"}, "dataset": data, **changes})
    assert [finding.place for finding in caught.value.findings] == [place] and words in str(caught.value)


def test_numbers_are_not_mixed(models: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"objective\.mixup[\s\S]*objective\.cutmix"):
        prepare(mixed_recipe("vit", models, tmp_path), make_data("vit", "regression", train=16))
