"""Laws of semantic segmentation: masks read right, moved with their images, trained on and answered in full size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image
from PIL import Image as pil
from tiny import CLASSES, masked, save_image_model, save_segmentation_model
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
from torch.nn import functional
from transformers import AutoModelForSemanticSegmentation, SegformerConfig, SegformerImageProcessor, pipeline

from hf_sft import Recipe, check, fine_tune
from hf_sft.commands.check import _draw_seen
from hf_sft.commands.evaluate import evaluate
from hf_sft.commands.evaluated_rows import rows_to_evaluate
from hf_sft.commands.init import write_recipe
from hf_sft.commands.predict import predict
from hf_sft.data import masks
from hf_sft.data.augment import IGNORED
from hf_sft.data.labels import Labels
from hf_sft.errors import DataError, HfSftError
from hf_sft.saved_model import load_saved
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import load_data, make_inputs
from hf_sft.tasks.pixels import PROBLEMS, balance_pixels
from hf_sft.tasks.task import Penalty
from hf_sft.usage import loading_lines

TASK = TASKS["image-segmentation"]
PROBLEM = PROBLEMS["pixels"]
LABELS = Labels(problem="pixels", names=CLASSES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def rows_of(*masks: Any, sizes: Any = None) -> Dataset:
    """Black images with these masks; sizes: of the images, where others than the masks'."""
    pictures = [mask if isinstance(mask, pil.Image) else pil.fromarray(np.array(mask, np.uint8)) for mask in masks]
    images = [pil.new("RGB", size) for size in sizes or [picture.size for picture in pictures]]
    features = Features({"image": Image(), "mask": Image()})
    return Dataset.from_dict({"image": images, "mask": pictures}, features=features)


def loaded(rows: Dataset, models: Path, **dataset: Any) -> Any:
    recipe = make_recipe("segformer", models, models / "out", dataset={"splits": {"validation": None}, **dataset})
    return recipe, load_data(recipe, TASK, {"train": rows})


def halves(*ids: int) -> np.ndarray:
    """A mask of stripes with these ids."""
    return np.repeat(np.array(ids, np.uint8), 8)[:, None].repeat(8, axis=1)


def refused(rows: Dataset, models: Path, **dataset: Any) -> str:
    with pytest.raises(DataError) as error:
        loaded(rows, models, **dataset)
    return str(error.value)


# masks


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1", "RGB", "RGBA"])
def test_ids_are_read_from_grey_masks_and_palettes_alike(mode: str, models: Path) -> None:
    ids = halves(0, 1)
    picture = pil.fromarray(ids.astype(np.uint16)) if mode == "I;16" else pil.fromarray(ids)
    if mode == "1":
        picture = pil.fromarray(ids.astype(bool))
    if mode == "P":
        picture.putpalette([9, 9, 9, 200, 0, 0])
    if mode in ("RGB", "RGBA"):
        picture = picture.convert(mode)
    assert picture.mode == mode
    _, found = loaded(rows_of(picture), models)
    assert found.labels.names == ("0", "1")
    assert list(found.splits["train"].entries) == [{"0": 64, "1": 64}]


def test_masks_that_cannot_be_used_are_named_by_row_and_skipped_when_asked(models: Path) -> None:
    good = halves(0, 1, 2)
    bad = rows_of(good, halves(0, 7, 1), pil.new("RGB", (8, 24), "red"), good, sizes=[(8, 24)] * 3 + [(16, 24)])
    names = {"labels": list(CLASSES)}
    said = refused(bad, models, **names)
    assert "ids that have no name" in said and "train: 1" in said and "holds 7" in said
    assert "colours, not ids" in said and "train: 2" in said
    assert "mode RGB with the colour (255, 0, 0)" in said and "give each colour an id" in said
    said = refused(bad.select([0, 3]), models, **names)
    assert "another size than the image" in said and "train: 1" in said and "16 x 24" in said
    _, found = loaded(bad, models, on_bad_row="skip", **names)
    assert found.splits["train"].split.row_ids.tolist() == [0]
    assert len(found.bad_rows) == 3


def test_grey_masks_beside_coloured_ones_are_coloured_and_none_is_skipped(models: Path) -> None:
    def coloured(*colours: Any) -> Any:
        return pil.fromarray(np.array(colours, np.uint8).repeat(8, 0)[:, None].repeat(8, 1))

    grey, street = coloured((70, 70, 70), (0, 0, 0)), coloured((70, 70, 70), (128, 64, 128))
    assert "grey as a colour" in refused(rows_of(grey, grey, street), models)
    said = refused(rows_of(grey, grey, street, grey), models, on_bad_row="skip")
    assert "4 of 4 masks hold colours: mode RGB with 2 colours, as (70, 70, 70), (128, 64, 128)" in said
    assert "skip" not in said
    _, found = loaded(rows_of(grey, grey, halves(0, 70)), models)
    assert found.labels.names[-1] == "70" and len(found.splits["train"].entries) == 3


def test_colours_are_counted_in_one_mask_alone(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []
    name = masks._name_colours
    monkeypatch.setattr(masks, "_name_colours", lambda value: counted.append(value) or name(value))
    said = refused(rows_of(halves(0, 1), *[pil.new("RGB", (8, 8), "red")] * 4), models)
    assert "4 rows of train: 1, 2" in said and "with the colour (255, 0, 0)" in said
    assert len(counted) == 1


def test_masks_that_a_camera_s_format_blurs_are_refused(models: Path, tmp_path: Path) -> None:
    pil.fromarray(halves(0, 1)).save(tmp_path / "mask.jpg")
    rows = Dataset.from_dict({"image": [str(tmp_path / "mask.jpg")], "mask": [str(tmp_path / "mask.jpg")]})
    said = refused(rows.cast(Features({"image": Image(), "mask": Image()})), models)
    assert "is a JPEG, which does not keep ids" in said and "mask.jpg" in said and "PNG" in said


def test_a_usual_id_of_no_class_is_asked_about_and_then_counts_nowhere(models: Path) -> None:
    rows = rows_of(halves(0, 1, 255), halves(1, 1, 2))
    assert "dataset.ignore_label: 255" in refused(rows, models)
    recipe, found = loaded(rows, models, ignore_label=255)
    assert found.labels.names == ("0", "1", "2")
    processor = TASK.load_processor(recipe.model.name, recipe, _config(recipe), False)
    inputs = make_inputs(found.splits["train"], recipe, TASK, found.labels, processor)
    assert inputs.targets is not None and inputs.targets.tolist() == [[64, 64, 0], [0, 128, 64]]
    assert set(torch.unique(inputs.rows[0]["labels"]).tolist()) == {0, 1, IGNORED}


def test_labels_are_renamed_merged_and_dropped(models: Path) -> None:
    rows = rows_of(halves(0, 1, 2, 3))
    settings = {"labels": ["none", "car", "bus", "tree"], "label_map": {"none": None, "bus": "car"}}
    recipe, found = loaded(rows, models, **settings)
    assert found.labels.names == ("car", "tree")
    opened = TASK.open_rows(recipe, found.labels, True)(rows[:])
    assert opened["mask"][0][::8, 0].tolist() == [IGNORED, 0, 0, 1]
    assert "label_map" in refused(rows, models, label_map={"9": "x"})


@pytest.mark.parametrize("names", [None, ["background", "object"]])
def test_masks_of_0_and_255_are_named_by_label_map(names: Any, models: Path) -> None:
    rows, settings = rows_of(halves(0, 255), halves(0, 0, 255)), {"labels": names}
    wanted = "label_map: {255: object}" if names else "label_map: {0: background, 255: object}"
    assert wanted in refused(rows, models, **settings)
    settings["label_map"] = {255: "object"} if names else {0: "background", 255: "object"}
    recipe, found = loaded(rows, models, **settings)
    assert found.labels.names == ("background", "object")
    assert next(iter(found.splits["train"].entries)) == {"background": 64, "object": 64}
    opened = TASK.open_rows(recipe, found.labels, True)(rows[:])
    assert opened["mask"][0][::8, 0].tolist() == [0, 1]


def test_masks_of_a_few_shades_are_told_the_map_that_names_them(models: Path) -> None:
    rows = rows_of(halves(0, 100, 200), halves(0, 200, 100))
    (said,) = [note for note in loaded(rows, models)[1].notes if "cannot be learned" in note]
    assert said.startswith("warning: ") and "190 more; the masks hold 3 ids alone" in said
    words = said.partition("dataset.label_map: ")[2].partition("}")[0] + "}"
    _, found = loaded(rows, models, label_map=yaml.safe_load(words))
    assert found.labels.names == ("class_0", "class_100", "class_200")
    assert not any("cannot be learned" in note or "label_map" in note for note in found.notes)
    (said,) = [note for note in loaded(rows_of(halves(0, 1, 3)), models)[1].notes if "cannot be learned" in note]
    assert "label_map" not in said  # one of four classes did not come up


def test_masks_of_floats_are_called_so(models: Path) -> None:
    floats = pil.fromarray(halves(0, 1).astype(np.float32))
    rows = Dataset.from_dict(
        {"image": [pil.new("RGB", floats.size)] * 4, "mask": [floats] * 4},
        features=Features({"image": Image(), "mask": Image()}),
    )
    for on_bad_row in ("error", "skip"):
        said = refused(rows, models, on_bad_row=on_bad_row)
        assert "holds floats" in said and "np.uint8" in said and "colours" not in said


def test_class_zero_is_a_class_unless_it_is_ignored(models: Path) -> None:
    rows = rows_of(halves(0, 1), halves(0, 2))
    assert loaded(rows, models)[1].splits["train"].entries[0] == {"0": 64, "1": 64}
    _, found = loaded(rows, models, ignore_label=0, labels=list(CLASSES))
    assert found.splits["train"].entries[0] == {"lamp": 64}


def _config(recipe: Recipe) -> Any:
    from hf_sft.modeling.build import read_config

    return read_config(recipe.model.name)


def test_labels_are_resized_as_the_processor_resizes_them(models: Path) -> None:
    rows = masked(6, seed=3)
    recipe, found = loaded(rows, models)
    processor = TASK.load_processor(recipe.model.name, recipe, _config(recipe), False)
    inputs = make_inputs(found.splits["train"], recipe, TASK, found.labels, processor)
    plain = SegformerImageProcessor(size={"height": 32, "width": 32})
    masks = [np.asarray(mask) for mask in rows["mask"]]
    expected = plain([image.convert("RGB") for image in rows["image"]], segmentation_maps=masks, return_tensors="pt")
    for place, feature in enumerate(inputs.features(6)):
        torch.testing.assert_close(feature["labels"], expected["labels"][place])
        torch.testing.assert_close(feature["pixel_values"], expected["pixel_values"][place])
        np.testing.assert_array_equal(feature["truth"], masks[place])


@pytest.mark.parametrize(
    "entry", ["horizontal_flip", "vertical_flip", "random_resized_crop", "random_crop", "rotation", "color_jitter"]
)
def test_augmentation_moves_image_and_mask_together(entry: str, models: Path) -> None:
    """In these images what is bright is class 1: the two stay together wherever they go."""
    ids = np.zeros((40, 40), np.uint8)
    ids[4:18, 6:26] = 1
    rows = Dataset.from_dict(
        {"image": [pil.fromarray((ids * 200)[..., None].repeat(3, -1))] * 6, "mask": [pil.fromarray(ids)] * 6},
        features=Features({"image": Image(), "mask": Image()}),
    )
    change = {entry: {"p": 1.0} if "flip" in entry else {}}
    recipe = make_recipe(
        "segformer", models, models / "out", dataset={"splits": {"validation": None}}, augment=[change]
    )
    found = load_data(recipe, TASK, {"train": rows})
    processor = TASK.load_processor(recipe.model.name, recipe, _config(recipe), False)
    inputs = make_inputs(found.splits["train"], recipe, TASK, found.labels, processor, augmented=True)
    moved = 0
    for feature in inputs.features(6):
        assert "truth" not in feature and "sizes" not in feature
        bright = feature["pixel_values"].mean(0) > -0.4
        counting = feature["labels"] != IGNORED
        agree = (bright == (feature["labels"] == 1))[counting].float().mean()
        assert agree > 0.93
        moved += int(
            not torch.equal(
                feature["labels"],
                make_inputs(found.splits["train"], recipe, TASK, found.labels, processor).rows[0]["labels"],
            )
        )
    assert (moved > 0) == (entry != "color_jitter")
    again = inputs.features(6)
    assert all(
        torch.equal(one["labels"], other["labels"]) for one, other in zip(again, inputs.features(6), strict=True)
    )


# loss


def batch_of(rows: int, *, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, len(CLASSES), 4, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, len(CLASSES), (rows, 16, 24), generator=generator)
    labels[labels < 0] = IGNORED
    weight = torch.ones(rows)
    weight[1] = 0.0
    return {"logits": logits}, {"labels": labels, "weight": weight}


@pytest.mark.parametrize("weights_of", [None, (1.0, 2.0, 0.5)])
def test_the_loss_is_the_mean_over_the_pixels_that_count(weights_of: Any) -> None:
    outputs, batch = batch_of(5)
    classes = None if weights_of is None else torch.tensor(weights_of)
    total, items = PROBLEM.objective(outputs, batch, Penalty(class_weights=classes))
    counted = batch["weight"] > 0
    enlarged = functional.interpolate(outputs["logits"][counted], size=(16, 24), mode="bilinear", align_corners=False)
    weight = None if classes is None else classes.double()
    expected = functional.cross_entropy(enlarged, batch["labels"][counted], weight=weight, ignore_index=IGNORED)
    torch.testing.assert_close(total / items, expected, rtol=1e-6, atol=0)
    assert float(PROBLEM.count(batch, Penalty(class_weights=classes))) == pytest.approx(float(items))


@pytest.mark.parametrize("penalty", [Penalty(), Penalty(class_weights=torch.tensor([1.0, 3.0, 0.2]), dice_weight=2.0)])
def test_the_loss_of_a_batch_is_the_sum_over_its_parts(penalty: Penalty) -> None:
    outputs, batch = batch_of(6)
    whole = PROBLEM.objective(outputs, batch, penalty)
    parts = [
        PROBLEM.objective(
            {"logits": outputs["logits"][part]}, {name: value[part] for name, value in batch.items()}, penalty
        )
        for part in (slice(0, 2), slice(2, 5), slice(5, 6))
    ]
    for index in range(2):
        torch.testing.assert_close(sum(part[index] for part in parts), whole[index])


def test_the_dice_loss_is_none_for_a_sure_and_right_answer_and_full_for_a_sure_and_wrong_one() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 4:] = 2
    batch = {"labels": labels, "weight": torch.ones(1)}
    right = 60.0 * functional.one_hot(labels, 3).movedim(-1, 1).double()
    plain, _ = PROBLEM.objective({"logits": right}, batch, Penalty())
    dice, items = PROBLEM.objective({"logits": right}, batch, Penalty(dice_weight=1.0))
    assert float((dice - plain) / items) == pytest.approx(0, abs=1e-6)
    wrong = right[:, [2, 1, 0]]
    plain, _ = PROBLEM.objective({"logits": wrong}, batch, Penalty())
    dice, items = PROBLEM.objective({"logits": wrong}, batch, Penalty(dice_weight=1.0))
    assert float((dice - plain) / items) == pytest.approx(1, abs=1e-6)


def test_balanced_weights_make_classes_weigh_alike() -> None:
    targets = np.array([[90, 10, 0], [70, 30, 0]])
    weights_of = balance_pixels(targets, 3)
    np.testing.assert_allclose(weights_of * targets.sum(0), [100, 100, 0])


def test_half_precision_logits_are_read_in_float32() -> None:
    outputs, batch = batch_of(3)
    half = {"logits": outputs["logits"].bfloat16()}
    total, _ = PROBLEM.objective(half, batch, Penalty())
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, PROBLEM.objective({"logits": half["logits"].float()}, batch, Penalty())[0])


def test_a_step_in_which_no_pixel_counts_changes_nothing(models: Path, tmp_path: Path) -> None:
    """A crop can leave nothing but ignored pixels: no loss, and not one that is not a number."""
    work = prepare(make_recipe("segformer", models, tmp_path), make_data("segformer", train=8, validation=4))
    collate = work.collate

    def nothing_counts(features: Any) -> Any:
        batch = collate(features)
        batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return batch

    before = {name: value for name, value in weights(work).items() if "batch_norm" not in name}
    train(replace(work, collate=nothing_counts))
    after = {name: weights(work)[name] for name in before}
    assert largest_difference(before, after) < 1e-3  # weight decay alone


# runs


def test_accumulation_changes_nothing(models: Path, tmp_path: Path) -> None:
    found = []
    for number, (rows, steps) in enumerate([(16, 1), (4, 4)]):
        training = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps, "num_train_epochs": 1}
        recipe = make_recipe(
            "segformer",
            models,
            tmp_path / str(number),
            training={**training, "learning_rate": 1e-3, "weight_decay": 0.0, "optim": "sgd"},
            dataset={"ignore_label": 2},
            objective={"class_weights": "balanced", "dice_weight": 0.5},
        )
        work = prepare(recipe, make_data("segformer", train=21, validation=4), double=True)
        work.built.model.eval()
        freeze_batch_norm(work.built.model)
        trained = train(work)
        found.append((logged(trained, "loss", "grad_norm"), weights(work)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    assert largest_difference(found[0][1], found[1][1]) < 1e-9


def freeze_batch_norm(model: torch.nn.Module) -> None:
    """Statistics of a batch are those of its rows: micro-batches have others."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,assignment]
            module.training = False


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run")
    recipe = {
        "task": "image-segmentation",
        "model": {"name": str(save_segmentation_model("segformer", folder / "base"))},
        "dataset": {
            "path": "memory",
            "labels": list(CLASSES),
            "ignore_label": 9,
            "label_colors": {"lamp": [255, 255, 0]},
        },
        "training": {"max_steps": 45, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "eval_strategy": "no"},
        "objective": {"dice_weight": 1.0},
        "augment": ["horizontal_flip"],
        "output_dir": str(folder / "run"),
    }
    data = {"train": masked(24, ignored=9), "validation": masked(8, seed=1, ignored=9), "test": masked(8, seed=2)}
    return fine_tune(recipe, data=data), data


def masks_of_pipeline(folder: Path, images: Any) -> list[np.ndarray]:
    ask = pipeline("image-segmentation", str(folder), device="cpu")
    found = []
    for image in images:
        mask = np.full((image.height, image.width), -1)
        for part in ask(image):
            mask[np.asarray(part["mask"]) > 0] = ask.model.config.label2id[part["label"]]
        found.append(mask)
    return found


def test_predicted_masks_are_those_of_pipeline_in_the_images_own_size(run: Any, tmp_path: Path) -> None:
    record, data = run
    images = [image.convert("RGB") for image in data["test"]["image"]]
    answers = predict(record.directory.path, images)
    expected = masks_of_pipeline(record.directory.model, images)
    for row, mask in zip(answers.rows, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(row["mask"]), mask)
        assert row["share_lamp"] == pytest.approx((mask == 1).mean())
        assert set(row["prediction"]) == {CLASSES[number] for number in np.unique(mask)}
    assert {image.size for image in images} == {row["mask"].size for row in answers.rows}


def test_predict_writes_masks_with_a_palette_and_overlays(run: Any, tmp_path: Path) -> None:
    record, data = run
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(data["test"]["image"]):
        image.save(folder / f"photo {place}.png")
    answers = predict(record.directory.path, folder, tmp_path / "answers.csv")
    assert answers.total == 8
    mask = pil.open(tmp_path / "answers_files" / "masks" / "photo_1.png")
    assert mask.mode == "P" and mask.getpalette()[3:6] == [255, 255, 0]
    assert pil.open(tmp_path / "answers_files" / "overlays" / "photo_1.png").size == mask.size
    assert "answers_files/masks/photo_1.png" in (tmp_path / "answers.csv").read_text().replace(str(tmp_path) + "/", "")


def test_predict_writes_over_no_files_of_the_user(run: Any, tmp_path: Path) -> None:
    record, data = run
    for folder in ("roads", "roads_files"):
        (tmp_path / folder / "masks").mkdir(parents=True)
        (tmp_path / folder / "masks" / "0.png").write_text("mine")
    images, output = [image.convert("RGB") for image in data["test"]["image"]], tmp_path / "roads.csv"
    with pytest.raises(DataError, match=r"(?s)no folder .*roads_files yet.*it holds files.*--overwrite"):
        predict(record.directory.path, images, output)
    assert not output.exists()
    predict(record.directory.path, images, output, overwrite=True)
    assert (tmp_path / "roads" / "masks" / "0.png").read_text() == "mine"


def test_a_run_leaves_metrics_pictures_and_a_model_that_knows_names_and_colours(run: Any) -> None:
    record, _ = run
    assert list(record.metrics["test"]) == ["loss", "mean_iou", "mean_dice", "pixel_accuracy"]
    assert record.metrics["test"]["mean_iou"] > record.baselines["test"]["majority"]["mean_iou"]
    low, high = record.intervals["test"]["mean_iou"]
    assert low <= record.metrics["test"]["mean_iou"] <= high
    assert set(record.per_class["test"]["lamp"]) == {"iou", "precision", "recall", "f1", "support"}
    assert record.pictures == ["examples.png"]
    assert pil.open(record.directory.report / "examples.png").width > 300
    assert "(report/examples.png)" in (record.directory.model / "README.md").read_text()
    model = AutoModelForSemanticSegmentation.from_pretrained(record.directory.model)
    assert model.config.id2color[1] == [255, 255, 0] and model.config.semantic_loss_ignore_index == 9
    assert tuple(model.config.id2label.values()) == CLASSES


def test_evaluate_gives_the_numbers_of_the_run_on_its_own_and_on_the_same_data(run: Any, tmp_path: Path) -> None:
    record, data = run
    data["test"].to_parquet(tmp_path / "test.parquet")
    saved = load_saved(record.directory.path)
    found = evaluate(saved, data=str(tmp_path / "test.parquet"))
    for name, value in record.metrics["test"].items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-6)
    assert found.per_class["floor"]["support"] == record.per_class["test"]["floor"]["support"]


def test_ids_without_names_are_the_same_ids_in_other_data(run: Any) -> None:
    record, _ = run
    saved = load_saved(record.directory.path)
    names, own = ("1", "2", "3"), saved.recipe.dataset.model_copy(update={"labels": None, "ignore_label": 0})
    bare = replace(saved, labels=replace(saved.labels, names=names))
    bare = replace(bare, recipe=bare.recipe.model_copy(update={"dataset": own}))
    rows = rows_of(halves(1, 2, 3), halves(0, 1, 2))
    part, *_ = rows_to_evaluate(bare, rows, None, {}, None, {})
    assert list(part.entries) == [{"1": 64, "2": 64, "3": 64}, {"1": 64, "2": 64}]


def test_the_order_of_rows_and_the_size_of_batches_change_no_answer(run: Any) -> None:
    record, data = run
    saved = load_saved(record.directory.path)
    found = [
        evaluate(saved, data=data["test"].select(order), batch_size=size).predictions
        for order, size in ((range(8), 8), (range(7, -1, -1), 3))
    ]
    np.testing.assert_allclose(found[0]["share_lamp"], found[1]["share_lamp"][::-1], atol=1e-6)
    assert found[0]["prediction"] == found[1]["prediction"][::-1]


def test_unknown_ids_of_other_data_are_refused_by_their_rows(run: Any) -> None:
    record, _ = run
    with pytest.raises(HfSftError, match="no name"):
        evaluate(record.directory.path, data=rows_of(halves(0, 1, 5)))


@pytest.mark.parametrize(
    "family",
    [
        "timm_efficientnet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "convnext", "timm_resnet")),
    ],
)
def test_a_classifier_becomes_the_backbone_of_a_segmentation_model(family: str, tmp_path: Path) -> None:
    base = save_image_model(family, tmp_path / "base")
    recipe = Recipe.from_dict(
        {
            "task": "image-segmentation",
            "model": {"name": str(base), "config": {"hidden_size": 16}},
            "dataset": {"path": "memory", "labels": list(CLASSES)},
            "tuning": {"strategy": "head"},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
            "output_dir": str(tmp_path / "run"),
        }
    )
    before = AutoImages(base)
    record = fine_tune(recipe, data={"train": masked(8), "validation": masked(4, seed=1)})
    assert "backbone" in record.parameters["head"]
    model = AutoModelForSemanticSegmentation.from_pretrained(record.directory.model)
    images = [image.convert("RGB") for image in masked(2, seed=1)["image"]]
    answers = predict(record.directory.path, images)
    for row, mask in zip(answers.rows, masks_of_pipeline(record.directory.model, images), strict=True):
        np.testing.assert_array_equal(np.asarray(row["mask"]), mask)
    before.same_in(model)


class AutoImages:
    """The weights of a classifier, to be looked for in a model that has them frozen."""

    def __init__(self, folder: Path):
        from safetensors.torch import load_file

        self.state = load_file(folder / "model.safetensors")

    def same_in(self, model: Any) -> None:
        own = {name.removeprefix("_backbone."): value for name, value in model.backbone.named_parameters()}
        shared = 0
        for name, value in self.state.items():
            for prefix in ("timm_model.", "resnet.", "convnext.", ""):
                if (found := own.get(name.removeprefix(prefix))) is not None and name.startswith(prefix):
                    torch.testing.assert_close(found.detach(), value)
                    shared += 1
                    break
        assert shared >= 0.8 * len([name for name in own if "hidden_states_norms" not in name])


def test_an_interrupted_run_goes_on_to_the_same_weights(models: Path, tmp_path: Path) -> None:
    """Augmentation, the order of rows, the best checkpoint: all as if nothing had happened."""
    changes = {
        "augment": ["random_resized_crop", "horizontal_flip", "color_jitter"],
        "training": {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2},
    }
    found = []
    for name, callbacks in (("whole", []), ("again", []), ("stopped", [StopAfter(3)])):
        recipe = make_recipe("segformer", models, tmp_path / name, **changes)
        data = make_data("segformer", train=20, validation=6)
        if callbacks:
            with pytest.raises(KeyboardInterrupt):
                train(prepare(recipe, data), callbacks)
        work = prepare(recipe, data)
        trained = train(work)
        found.append((weights(work), trained.best_step))
    for other, best in found[1:]:
        assert largest_difference(found[0][0], other) == 0
        assert best == found[0][1]


@pytest.mark.parametrize("strategy", [{"strategy": "head"}, {"strategy": "top_layers", "layers": 1}])
def test_what_is_frozen_stays_and_is_not_recorded(
    strategy: dict[str, Any], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(
        "segformer", models, tmp_path, tuning=strategy, training={"max_steps": 4, "eval_strategy": "no"}
    )
    work = prepare(recipe, make_data("segformer", train=8, validation=4))
    before = weights(work)
    train(work)
    changed = {name.split(".")[0] for name, value in weights(work).items() if (value != before[name]).any()}
    assert changed == ({"decode_head"} if strategy["strategy"] == "head" else {"decode_head", "segformer"})
    assert (
        weights(work)["segformer.stages.0.patch_embeddings.proj.weight"]
        == before["segformer.stages.0.patch_embeddings.proj.weight"]
    ).all()
    assert "targets that are read with the image are not recorded" in capsys.readouterr().out
    wanted = make_recipe("segformer", models, tmp_path / "on", tuning={**strategy, "cache": "on"})
    with pytest.raises(HfSftError, match="read with the image"):
        train(prepare(wanted, make_data("segformer", train=8, validation=4)))


# folders


@pytest.mark.parametrize("layout", ["{kind}", "train/{kind}", "{kind}/train"])
def test_folders_of_images_and_masks_are_paired_by_name(layout: str, models: Path, tmp_path: Path) -> None:
    rows = masked(3)
    for kind, column, ending in (("images", "image", ".jpg"), ("masks", "mask", "_gt.png")):
        folder = tmp_path / layout.format(kind=kind)
        folder.mkdir(parents=True)
        for place, picture in enumerate(rows[column]):
            picture.save(folder / f"photo{place}{ending}")
    recipe = make_recipe("segformer", models, tmp_path / "out", dataset={"path": str(tmp_path)})
    recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"splits": {"validation": None}})})
    found = load_data(recipe, TASK)
    assert [set(entry) for entry in found.splits["train"].entries] == [{"0", "1", "2"}, {"0", "1"}, {"0", "1", "2"}]
    (tmp_path / layout.format(kind="images") / "photo1.jpg").unlink()
    with pytest.raises(DataError, match="photo1"):
        load_data(recipe, TASK)


def test_an_image_without_a_mask_is_a_bad_row(models: Path, tmp_path: Path) -> None:
    for kind, column in (("images", "image"), ("masks", "mask")):
        (tmp_path / kind).mkdir()
        for place, picture in enumerate(masked(4)[column]):
            picture.save(tmp_path / kind / f"{place}.png")
    (tmp_path / "masks" / "2.png").unlink()
    settings = {"path": str(tmp_path), "splits": {"validation": None}}
    with pytest.raises(DataError, match="train: 2"):
        load_data(make_recipe("segformer", models, tmp_path / "out", dataset=settings), TASK)


def test_init_says_what_is_wrong_with_masks_of_colours(tmp_path: Path) -> None:
    for kind, colour in (("images", "black"), ("masks", "red")):
        (tmp_path / kind).mkdir()
        pil.new("RGB", (8, 8), colour).save(tmp_path / kind / "a.png")
    with pytest.raises(DataError, match="give each colour an id"):
        write_recipe(str(tmp_path), output=None)


def test_a_folder_of_another_program_s_boxes_is_told_from_masks(tmp_path: Path) -> None:
    for kind, name in (("images", "a.png"), ("labels", "a.txt")):
        (tmp_path / kind).mkdir()
        pil.new("RGB", (8, 8)).save(tmp_path / kind / name, format="PNG")
    with pytest.raises(DataError, match=r"(?s)but text files.*object-detection reads COCO's json files"):
        write_recipe(str(tmp_path), output=None)


def test_the_pipeline_of_an_example_is_named_by_what_it_does(run: Any) -> None:
    record, _ = run
    assert loading_lines(record, '"m"')[-1].startswith("segment = pipeline(")
    assert "print(segment(" in (record.directory.model / "README.md").read_text()


def test_check_speaks_of_pixels_and_draws_rows_as_the_model_sees_them(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe("segformer", models, tmp_path / f"checked{tmp_path.name}", augment=["random_resized_crop"])
    rows = {"train": masked(8, ignored=255), "validation": masked(4, seed=1)}
    recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"ignore_label": 255})})
    report = check(recipe, data=rows)
    assert report.ok, str(report)
    shares = report.data["train"]["pixels"]
    assert sum(shares.values()) == pytest.approx(1) and shares["0"] > shares["1"] > shares["2"] > 0
    assert "share of the pixels that count" in str(report)
    (line,) = [note for note in report.notes if "as the model sees them" in note]
    drawn = Path(line.rpartition(": ")[2])
    assert pil.open(drawn).height > 300
    again = check(recipe, data=rows)
    assert not any(str(drawn) in note for note in again.notes)  # each check has a folder of its own
    assert report.advice is None and not [note for note in report.notes if note.startswith("advice")]


def test_a_picture_that_cannot_be_written_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert _draw_seen(SimpleNamespace(task=TASK), "run") == "no picture of training rows: No space left on device"  # type: ignore[arg-type]


def test_the_model_s_own_loss_ignores_no_class_of_the_model(models: Path) -> None:
    for ignored, kept in ((255, 255), (9, 9), (0, 255)):
        recipe = make_recipe("segformer", models, models / "out", dataset={"ignore_label": ignored})
        config = SegformerConfig()
        TASK.fit_config(config, LABELS, recipe)
        assert config.semantic_loss_ignore_index == kept


def test_a_batch_of_one_row_is_refused_before_training_where_the_model_cannot_take_it(tmp_path: Path) -> None:
    base = save_image_model("resnet", tmp_path / "base")
    content: dict[str, Any] = {
        "task": "image-segmentation",
        "model": {"name": str(base), "config": {"hidden_size": 16}},
        "dataset": {"path": "memory"},
        "training": {"per_device_train_batch_size": 4},
        "output_dir": str(tmp_path / "run"),
    }
    with pytest.raises(HfSftError, match="set it to 3"):
        prepare(Recipe.from_dict(content), make_data("segformer", train=9, validation=4))
    prepare(Recipe.from_dict(content), make_data("segformer", train=10, validation=4))


@pytest.mark.parametrize("column", ["absent", "empty"])
def test_a_test_split_without_masks_is_predicted_and_not_evaluated(column: str, models: Path, tmp_path: Path) -> None:
    rows = masked(4, seed=2)
    without = rows.remove_columns("mask")
    if column == "empty":
        without = without.add_column("mask", [None] * 4, feature=Image())
    recipe = make_recipe("segformer", models, tmp_path, training={"max_steps": 1})
    record = fine_tune(recipe, data={**make_data("segformer", train=8, validation=4), "test": without})
    assert set(record.metrics) == {"validation"}
    found = pyarrow.parquet.read_table(record.directory.predictions("test")).to_pydict()
    assert len(found["prediction"]) == 4 and "reference" not in found and "loss" not in found
