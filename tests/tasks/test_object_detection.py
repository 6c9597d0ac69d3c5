"""Laws of object detection: boxes moved with their images, a loss that adds up, answers equal to pipeline()'s."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset, Image, concatenate_datasets
from PIL import Image as pil
from timm.layers import BatchNormAct2d
from tiny import DETECTION_FAMILIES, drawn, save_detector, save_image_model
from tiny_runs import (
    StopAfter,
    largest_difference,
    logged,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from transformers import AutoModelForImageClassification, AutoModelForObjectDetection, ResNetConfig, pipeline

from hf_sft import fine_tune
from hf_sft.commands.check import check
from hf_sft.commands.evaluate import evaluate
from hf_sft.commands.evaluated_rows import rows_to_evaluate
from hf_sft.commands.predict import predict
from hf_sft.data.augment import configure_augment
from hf_sft.data.labels import Labels
from hf_sft.data.shapes import SHAPES
from hf_sft.errors import HfSftError
from hf_sft.modeling.anatomy import find_blocks, head_parameters
from hf_sft.recipe import Recipe
from hf_sft.saved_model import load_saved
from hf_sft.tasks.box_pictures import draw_boxes
from hf_sft.tasks.detection import PROBLEMS, write_boxes
from hf_sft.tasks.object_detection import as_shares, collate_boxes, open_images
from hf_sft.tasks.set_loss import _match, count_boxes, overlaps, pad_truth, set_losses
from hf_sft.tasks.task import Penalty

PROBLEM = PROBLEMS["boxes"]
LABELS = Labels(problem="boxes", names=SHAPES)
REAL_TIME = ("rt_detr", "rt_detr_v2", "d_fine")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, with its files."""
    folder = tmp_path_factory.mktemp("run")
    recipe = make_recipe("rt_detr", folder, folder / "run", training={"learning_rate": 5e-3})
    fine_tune(recipe, data=make_data("rt_detr", train=12, validation=4, test=4))
    return folder / "run"


def batch_of(rows: int = 5, *, seed: int = 0, queries: int = 6, outputs: int = 3) -> tuple[Any, Any]:
    """(outputs, batch) of random boxes in float64; row 2 has none, row 3 weighs nothing."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(number: int) -> torch.Tensor:
        return torch.rand(number, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.3

    labels = [
        {
            "boxes": boxes(number),
            "class_labels": torch.randint(3, (number,), generator=generator),
            "num_labels": 3,
        }
        for number in (2, 1, 0, 3, 4)[:rows]
    ]
    logits = torch.randn(rows, queries, outputs, generator=generator, dtype=torch.float64)
    weight = torch.ones(rows)
    weight[3:4] = 0.0
    found = {"logits": logits, "pred_boxes": torch.stack([boxes(queries) for _ in range(rows)])}
    return found, {"labels": labels, "weight": weight, "sizes": torch.tensor([[20, 40]] * rows)}


def part_of(outputs: Any, batch: Any, part: slice) -> tuple[Any, Any]:
    return {name: value[part] for name, value in outputs.items()}, {name: value[part] for name, value in batch.items()}


# the loss


@pytest.mark.parametrize("outputs", [3, 4], ids=["score per label", "no object as a label"])
def test_the_objective_of_a_batch_is_the_sum_over_its_rows(outputs: int) -> None:
    found, batch = batch_of(outputs=outputs)
    total, items = PROBLEM.objective(found, batch, Penalty())
    parts = [PROBLEM.objective(*part_of(found, batch, slice(row, row + 1)), Penalty()) for row in range(5)]
    torch.testing.assert_close(total, sum(part for part, _ in parts))
    assert items == sum(part for _, part in parts) == PROBLEM.count(batch, Penalty()) == 2 + 1 + 1 + 4


def test_the_loss_of_a_row_does_not_know_the_order_of_its_boxes() -> None:
    found, batch = batch_of(rows=1)
    truth = pad_truth(batch["labels"], found["logits"])
    turned = [{name: value.flip(0) if name != "num_labels" else value for name, value in batch["labels"][0].items()}]
    again = set_losses(found["logits"], found["pred_boxes"], pad_truth(turned, found["logits"]), 3)
    torch.testing.assert_close(again, set_losses(found["logits"], found["pred_boxes"], truth, 3))


def test_the_loss_is_least_where_boxes_and_labels_are_right() -> None:
    found, batch = batch_of(rows=1)
    wanted = batch["labels"][0]
    right = {"logits": torch.full((1, 6, 3), -9.0, dtype=torch.float64), "pred_boxes": found["pred_boxes"].clone()}
    for place, (box, label) in enumerate(zip(wanted["boxes"], wanted["class_labels"], strict=True)):
        right["pred_boxes"][0, place], right["logits"][0, place, label] = box, 9.0
    assert PROBLEM.objective(right, batch, Penalty())[0] < 0.01 < PROBLEM.objective(found, batch, Penalty())[0]


def test_true_boxes_are_not_rounded_in_half_precision() -> None:
    _, batch = batch_of()
    truth = pad_truth(batch["labels"], torch.zeros(1, dtype=torch.bfloat16))
    torch.testing.assert_close(truth.boxes[0, 0], batch["labels"][0]["boxes"][0].float(), rtol=0, atol=0)


def test_a_box_is_given_to_the_query_that_covers_it_best() -> None:
    """Of two that are as sure, that with the greater overlap, though it is a little further in L1."""
    wanted = {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "class_labels": torch.tensor([0])}
    boxes = torch.tensor([[[0.6, 0.5, 0.2, 0.2], [0.5, 0.5, 0.32, 0.2]]])
    logits = torch.zeros(1, 2, 1)
    losses = set_losses(logits, boxes, pad_truth([wanted], logits), 1)
    turned = set_losses(logits, boxes.flip(1), pad_truth([wanted], logits), 1)
    torch.testing.assert_close(losses, turned)
    other = set_losses(logits[:, :1], boxes[:, :1], pad_truth([wanted], logits), 1)
    assert losses < other
    assert int(_match(logits, boxes, pad_truth([wanted], logits), False)[0, 0]) == 1


def test_more_boxes_than_queries_are_no_error() -> None:
    found, batch = batch_of(queries=2)
    assert torch.isfinite(PROBLEM.objective(found, batch, Penalty())[0])


def test_overlaps_are_those_of_torchvision() -> None:
    from torchvision.ops import box_convert, box_iou, generalized_box_iou

    boxes = torch.rand(2, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5 + 0.1
    one, other = (box_convert(part, "cxcywh", "xyxy") for part in boxes)
    overlap, generalised = overlaps(boxes[0][:, None], boxes[1][None])
    torch.testing.assert_close(overlap, box_iou(one, other))
    torch.testing.assert_close(generalised, generalized_box_iou(one, other))


@pytest.mark.parametrize("family", ["rt_detr", "rt_detr_v2"])
def test_the_loss_is_transformers_own_without_noisy_queries(family: str, models: Path) -> None:
    """Theirs is a sum over layers, ours their mean; both over the boxes, where every image has some."""
    work = prepare(make_recipe(family, models, models / f"own_{family}"), make_data(family, train=6, validation=2))
    batch, model = work.collate(work.inputs["train"].features(4)), work.built.model.eval()
    with torch.no_grad():
        outputs = model(batch["pixel_values"])
        total, items = PROBLEM.objective(outputs, batch, Penalty())
        theirs = model(batch["pixel_values"], labels=batch["labels"]).loss
    layers = outputs["intermediate_logits"].shape[1] + 1
    assert work.built.model.config.num_denoising == 0
    torch.testing.assert_close(total / items * layers, theirs, rtol=1e-4, atol=0)


# rows


def test_boxes_move_with_their_image() -> None:
    """A bright box on black is where its box says, whatever is done to the image."""
    entries = [("horizontal_flip", {"p": 0.5}), ("random_resized_crop", {"scale": [0.5, 1.0]}), ("vertical_flip", {})]
    augment = configure_augment(entries, None, seed=0, pixels=80, opened=lambda value: value)
    assert augment is not None
    seen = 0
    for row in range(20):
        pixels = np.zeros((60, 90, 3), np.uint8)
        pixels[12:30, 20:50] = 255
        batch = {"image": [pil.fromarray(pixels)], "targets": np.empty(1, object)}
        batch["targets"][0] = np.array([[20.0, 12, 50, 30, 1]])
        moved = augment.raw(open_images("image", 2, batch), [(0, row)])
        found = as_shares(moved["image"][0], moved["boxes"][0], moved["classes"][0], 2)
        bright = np.asarray(moved["image"][0])[..., 0] > 127
        if not len(found["boxes"]):
            assert bright.mean() < 0.05
            continue
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        x, y, width, height = (found["boxes"][0].numpy() * [80, 80, 80, 80]).tolist()
        np.testing.assert_allclose([x - width / 2, y - height / 2, x + width / 2, y + height / 2], box, atol=1.5)
        seen += 1
    assert seen > 10


def test_boxes_that_vanish_are_dropped_and_others_cut() -> None:
    image = pil.new("RGB", (100, 50))
    boxes = torch.tensor([[-50.0, 0, 50, 50], [-95, 0, 5, 50], [120, 0, 140, 10], [10, 10, 10.4, 40]])
    found = as_shares(image, boxes, torch.arange(4), 4)
    assert found["class_labels"].tolist() == [0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.25, 0.5, 0.5, 1.0]]))


def test_draws_depend_on_seed_epoch_and_row_alone(models: Path) -> None:
    augment = ["horizontal_flip", {"random_resized_crop": {"scale": [0.3, 1.0]}}, "color_jitter"]
    recipe = make_recipe("rt_detr", models, models / "draws", augment=augment)
    rows = prepare(recipe, make_data("rt_detr", train=8, validation=2)).inputs["train"].rows
    alone, together = rows[8 * 2 * 3 + 5], rows.__getitems__([8 * 2 * 3 + row for row in range(8)])[5]
    assert torch.equal(alone["pixel_values"], together["pixel_values"])
    assert torch.equal(alone["labels"]["boxes"], together["labels"]["boxes"])
    assert not torch.equal(alone["pixel_values"], rows[5]["pixel_values"])


# answers


@pytest.mark.parametrize("outputs", [3, 4])
def test_answers_are_in_pixels_of_the_image_as_it_came(outputs: int) -> None:
    found, batch = batch_of(outputs=outputs)
    rows = PROBLEM.decode(found, batch, LABELS)
    assert all((np.diff(scores) <= 0).all() for scores in rows["scores"])
    best = rows["predictions"][0][0]
    x, y, width, height = min(
        found["pred_boxes"][0].tolist(),
        key=lambda box: abs(box[0] * 40 - best[[0, 2]].mean()) + abs(box[1] * 20 - best[[1, 3]].mean()),
    )
    np.testing.assert_allclose(
        best[:4],
        [(x - width / 2) * 40, (y - height / 2) * 20, (x + width / 2) * 40, (y + height / 2) * 20],
        rtol=1e-6,
    )
    written = write_boxes(rows, LABELS)
    assert set(written["prediction"][0]) <= set(SHAPES) and len(written["boxes"][0][0]) == 4


def test_predictions_are_pipelines_to_the_pixel(finished: Path, tmp_path: Path) -> None:
    ask = pipeline("object-detection", model=str(finished / "model"))
    rows = drawn(4, seed=5)
    saved = load_saved(finished)
    threshold = float(np.median(predict(saved, rows, threshold=0.0).rows[0]["scores"]))
    found = predict(saved, rows, tmp_path / "out.parquet", threshold=threshold)
    table = pyarrow.parquet.read_table(found.path).to_pylist()
    assert any(row["scores"] for row in table)
    for row, image in zip(table, rows["image"], strict=True):
        answers = ask(image, threshold=threshold)
        assert [answer["label"] for answer in answers] == row["prediction"]
        np.testing.assert_allclose([answer["score"] for answer in answers], row["scores"], rtol=1e-5)
        boxes = [[answer["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for answer in answers]
        np.testing.assert_allclose(np.trunc(np.reshape(row["boxes"], (-1, 4))), np.reshape(boxes, (-1, 4)), atol=1)
        assert pil.open(row["picture"]).size[0] >= 64


def test_other_data_are_read_in_the_format_of_the_own_but_coco_in_its_own(finished: Path, tmp_path: Path) -> None:
    saved = load_saved(finished)
    own = saved.recipe.dataset.model_copy(update={"bbox_format": "xyxy"})
    saved = replace(saved, recipe=saved.recipe.model_copy(update={"dataset": own}))
    label, image = saved.labels.names[0], pil.new("RGB", (64, 64))
    rows = Dataset.from_list([{"image": image, "objects": {"bbox": [[30, 30, 40, 50]], "category": [label]}}])
    part, *_ = rows_to_evaluate(saved, rows.cast_column("image", Image()), None, {}, None, {})
    assert part.entries is not None and part.entries[0].boxes.tolist() == [[30, 30, 40, 50]]
    image.save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30]}],
        "categories": [{"id": 1, "name": label}],
    }
    (tmp_path / "test.json").write_text(json.dumps(content))
    part, *_ = rows_to_evaluate(saved, tmp_path / "test.json", None, {}, None, {})
    assert part.entries is not None and part.entries[0].boxes.tolist() == [[10, 10, 30, 40]]


def test_a_threshold_is_of_detectors_and_a_share(finished: Path, models: Path) -> None:
    with pytest.raises(HfSftError, match="a score from 0 to 1"):
        predict(finished, drawn(1), threshold=2)
    classifier = save_image_model("resnet", models / "classifier", labels=("a", "b"))
    with pytest.raises(HfSftError, match="leave threshold out"):
        predict(classifier, drawn(1), threshold=0.5)


def test_a_finished_run_leaves_metrics_predictions_and_pictures(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert set(record["metrics"]["test"]) == {"loss", "map", "map_50", "map_75", "mar_100"}
    assert set(record["per_class"]["test"]) == set(SHAPES)
    assert sum(values["support"] for values in record["per_class"]["test"].values()) > 0
    table = pyarrow.parquet.read_table(finished / "predictions" / "test.parquet").to_pylist()
    assert len(table[0]["boxes"]) == len(table[0]["scores"]) == 10 and table[0]["reference_boxes"]
    assert pil.open(finished / "report" / "examples.png").width > 100
    assert "finds objects in an image" in (finished / "model" / "README.md").read_text()
    found = evaluate(finished, data=make_data("rt_detr", test=4)["test"])
    assert found.metrics["map"] == pytest.approx(record["metrics"]["test"]["map"], abs=1e-9)


def test_pictures_show_truth_beside_answers() -> None:
    image, truth = pil.new("RGB", (300, 200)), np.array([[10.0, 10, 60, 60, 0]])
    both = draw_boxes(image, truth, {"predictions": truth, "scores": np.array([0.9])}, LABELS)
    one = draw_boxes(image, truth, None, LABELS)
    assert both.width > 2 * one.width and both.height == one.height
    assert np.asarray(one).any() and not np.asarray(draw_boxes(image, np.zeros((0, 5)), None, LABELS)).any()


# models


@pytest.mark.parametrize("family", DETECTION_FAMILIES)
def test_every_family_reloads_bit_equal_and_knows_its_head(family: str, models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe(family, models, tmp_path), make_data(family, train=4, validation=2))
    model = work.built.model.to(memory_format=torch.contiguous_format).eval()  # as it will be read
    names = [name for name, _ in model.named_parameters()]
    head = head_parameters(model)
    assert 0 < len(head) < len(names) and set(work.built.new) <= set(head)
    blocks = find_blocks(model)
    assert sorted(name for block in blocks for name in block.parameters) == sorted(names)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForObjectDetection.from_pretrained(tmp_path / "saved").eval()
    pixels = work.collate(work.inputs["train"].features(2))["pixel_values"]
    with torch.no_grad():
        here, there = (part(pixel_values=pixels) for part in (model, again))
    assert torch.equal(here["logits"], there["logits"]) and torch.equal(here["pred_boxes"], there["pred_boxes"])


def test_other_families_and_settings_of_other_losses_are_refused(models: Path, tmp_path: Path) -> None:
    folder = save_detector("detr", models / "other")
    config = json.loads((folder / "config.json").read_text())
    data = make_data("detr", train=4, validation=2)
    recipe = make_recipe("detr", models, tmp_path, model={"config": {"giou_loss_coefficient": 3}})
    with pytest.raises(HfSftError, match="giou_loss_coefficient"):
        prepare(recipe, data)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "dab-detr"}))
    with pytest.raises(HfSftError, match=r"(?s)a detector that can be trained: rt_detr, .*dab-detr"):
        prepare(make_recipe("detr", models, tmp_path, model={"name": str(folder)}), data)


def test_check_counts_boxes_that_no_model_learns(models: Path, tmp_path: Path) -> None:
    """Those that training leaves out as too small, and more of them in an image than the model has queries."""
    data, found = make_data("rt_detr", train=6, validation=3), []
    for least, queries in ((0.5, 2), (18.0, 30)):
        thin = data["train"].map(
            lambda row, least=least: {
                "objects": {**row["objects"], "bbox": [[x, y, least, 18.0] for x, y, *_ in row["objects"]["bbox"]]}
            }
        )
        recipe = make_recipe("rt_detr", models, tmp_path, model={"config": {"num_queries": queries}})
        report = check(recipe, fast=True, data={**data, "train": thin})
        assert report.ok, str(report)
        found.append((report.data["train"], " ".join(map(str, report.warnings))))
    (facts, said), (usual, nothing) = found
    number = facts["boxes"]["all"]
    assert facts["under_a_pixel"] == number and "under_a_pixel" not in usual
    assert f"{number} of {number} boxes of train with less, in rows 0, 1" in said and "cxcywh_normalised" in said
    assert "2, and an image of" in said and "{num_queries: 3}" in said
    assert "at least 1 pixel" not in nothing and "num_queries" not in nothing


@pytest.mark.parametrize("family", ["resnet", "timm_efficientnet"])
def test_a_classifier_becomes_the_backbone_of_a_new_detector(family: str, models: Path, tmp_path: Path) -> None:
    folder = save_image_model(family, models / f"backbone_{family}")
    if family == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic")
        AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    recipe = make_recipe("rt_detr", models, tmp_path, model={"name": str(folder)}, processor={"size": 96})
    work = prepare(recipe, make_data("rt_detr", train=4, validation=2))
    assert "loaded as the backbone of a RTDetrForObjectDetection" in work.built.report
    old = [name for name, _ in work.built.model.named_parameters() if name not in work.built.new]
    assert old and all(name.startswith("model.backbone.model.") for name in old)
    with_activations = sum(isinstance(module, BatchNormAct2d) for module in work.built.model.modules())
    assert bool(with_activations) == (family == "timm_efficientnet")  # RT-DETR's frozen norms would drop them


# training


@pytest.mark.parametrize("family", ["rt_detr", "detr"])
def test_accumulating_changes_nothing(family: str, models: Path, tmp_path: Path) -> None:
    """In float64 with BatchNorm frozen: one batch of 8 and 4 of 2, of which some rows have more boxes than others."""
    settings = {"max_steps": 3, "num_train_epochs": 9, "optim": "sgd", "learning_rate": 1e-4}
    found = {}
    for name, size, times in (("whole", 8, 1), ("parts", 2, 4)):
        training = {**settings, "per_device_train_batch_size": size, "gradient_accumulation_steps": times}
        recipe = make_recipe(family, models, tmp_path / name, training=training)
        work = prepare(recipe, make_data(family, train=20, validation=2), double=True)
        norms = [module for module in work.built.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        work = replace(work, frozen=[*work.frozen, *norms])
        found[name] = logged(train(work), "loss", "grad_norm"), weights(work)
    np.testing.assert_allclose(found["parts"][0], found["whole"][0], rtol=1e-9)
    assert largest_difference(found["parts"][1], found["whole"][1]) < 1e-9


@pytest.mark.parametrize("family", ["rt_detr", "d_fine"])
def test_an_interrupted_run_ends_as_one_that_was_not(family: str, models: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"training": {"num_train_epochs": 2}, "augment": ["horizontal_flip"]}
    data = make_data(family, train=12, validation=4)

    def run(folder: str, *callbacks: Any) -> Any:
        work = prepare(make_recipe(family, models, tmp_path / folder, **changes), data)
        return train(work, callbacks), weights(work)

    whole, kept = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", StopAfter(3))
    resumed, kept_too = run("parts")
    assert largest_difference(kept, kept_too) == 0 and resumed.best_step == whole.best_step
    again, kept_again = run("again")
    assert largest_difference(kept, kept_again) == 0 and again.best_step == whole.best_step


@pytest.mark.parametrize("tuning", [{"strategy": "head"}, {"strategy": "top_layers", "layers": 2}])
def test_frozen_layers_stay_as_they_are(tuning: dict[str, Any], models: Path, tmp_path: Path) -> None:
    recipe = make_recipe("rt_detr", models, tmp_path, tuning=tuning, training={"per_device_train_batch_size": 4})
    work = prepare(recipe, make_data("rt_detr", train=8, validation=2))
    before = weights(work)
    train(work)
    changed = {name for name, value in weights(work).items() if not np.array_equal(value, before[name])}
    trained = {name for name, parameter in work.built.model.named_parameters() if parameter.requires_grad}
    assert changed and changed <= trained | {name for name in before if "num_batches" in name}


def test_predictions_keep_the_order_of_the_rows(models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe("rt_detr", models, tmp_path), make_data("rt_detr", train=4, validation=7))
    inputs = work.inputs["validation"]
    together = work.evaluator.predict(work.built.model, inputs.rows, inputs.lengths, work.labels)
    single = replace(work.evaluator, batch_size=1).predict(work.built.model, inputs.rows, inputs.lengths, work.labels)
    for one, other in zip(together["scores"], single["scores"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_features_collate_with_lists_of_labels(models: Path) -> None:
    work = prepare(make_recipe("rt_detr", models, models / "collate"), make_data("rt_detr", train=4, validation=2))
    batch = collate_boxes(work.inputs["train"].features(3))
    assert batch["pixel_values"].shape == (3, 3, 64, 64) and len(batch["labels"]) == 3
    assert count_boxes(batch["labels"], batch["weight"]) == sum(len(row["boxes"]) for row in batch["labels"])


@pytest.mark.slow
def test_eight_drawings_are_learned_by_heart(tmp_path: Path) -> None:
    """One to three shapes each; 400 steps, about a minute on a core of its own."""
    eight = drawn(8)
    content = {
        "task": "object-detection",
        "model": {"name": "package:hf_sft/architectures/rt_detr_small", "weights": "random"},
        "dataset": {"path": "memory", "splits": {"validation": None}},
        "processor": {"size": 96},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 2e-3},
        "output_dir": str(tmp_path),
    }
    record = fine_tune(Recipe.from_dict(content), data={"train": concatenate_datasets([eight] * 400), "test": eight})
    assert record.metrics["test"]["map_50"] > 0.9
