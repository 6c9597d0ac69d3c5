"""Laws of augmentation: drawn by seed, epoch and row alone; training rows only; every name makes what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
from PIL import Image as pil
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe, prepare, train, weights

from hf_sft.data.augment import AUGMENTATIONS, configure_augment
from hf_sft.data.rows import Rows
from hf_sft.errors import RecipeError
from hf_sft.recipe import AUGMENTATION_KEYS, Recipe

IMAGE_NAMES = [*AUGMENTATION_KEYS["image-classification"]]
TEXT_NAMES = [*AUGMENTATION_KEYS["text-classification"]]
CHANGES = {
    "bert": [{"word_dropout": {"p": 0.4}}, "word_swap"],
    "vit": ["horizontal_flip", "trivial_augment", "random_erasing"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def picture(mode: str = "RGB") -> pil.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    return pil.fromarray(pixels).convert(mode)


def opened(image: Any) -> Any:
    return image.convert("RGB")


def augment_of(*entries: Any, seed: int = 0, text: bool = False) -> Any:
    named = [entry if isinstance(entry, tuple) else (entry, {}) for entry in entries]
    column, take = ("text", str) if text else ("image", opened)
    return configure_augment(named, [column], seed=seed, pixels=16, opened=take)


def test_the_names_are_those_of_the_recipe() -> None:
    assert set(AUGMENTATIONS) == {name for names in AUGMENTATION_KEYS.values() for name in names}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_every_augmentation_of_images_changes_some_and_keeps_them_images(name: str, mode: str) -> None:
    augment, image = augment_of(name), picture(mode)
    draws = [(epoch, row) for epoch in range(2) for row in range(8)]
    if AUGMENTATIONS[name].after:
        before = torch.ones(len(draws), 3, 16, 16)
        after = augment.inputs({"pixel_values": before}, draws)["pixel_values"]
        assert after.shape == before.shape and (after != before).any(dim=(1, 2, 3)).sum() > 0
        return
    found = augment.raw({"image": [image] * len(draws), "label": [0] * len(draws)}, draws)
    sizes = {(16, 16)} if name == "random_resized_crop" else {image.size}
    assert {changed.size for changed in found["image"]} == sizes and found["label"] == [0] * len(draws)
    assert {changed.mode for changed in found["image"]} == {"RGB"}
    assert len({changed.tobytes() for changed in found["image"]}) > 1 or (name, mode) == ("grayscale", "L")


@pytest.mark.parametrize("name", TEXT_NAMES)
def test_every_augmentation_of_texts_changes_some_and_leaves_words_of_the_text(name: str) -> None:
    text = "one two three four five six seven eight nine ten"
    found = augment_of((name, {"p": 0.5}), text=True).raw({"text": [text] * 9}, [(0, row) for row in range(9)])["text"]
    assert len(set(found)) > 1 and all(set(changed.split()) <= set(text.split()) for changed in found)
    assert augment_of((name, {"p": 0}), text=True).raw({"text": [text, ""]}, [(0, 0), (0, 1)])["text"] == [text, ""]
    assert all(augment_of((name, {"p": 1}), text=True).raw({"text": ["word"]}, [(0, 0)])["text"])


@pytest.mark.parametrize("name", [*IMAGE_NAMES, *TEXT_NAMES])
def test_a_draw_depends_on_seed_epoch_and_row_alone(name: str) -> None:
    """Not on the other rows of the batch, on what was drawn before, nor on torch's own state, which is left alone."""
    text = name in TEXT_NAMES
    inputs: list[Any] = [f"{row} two three four five six seven" if text else picture() for row in range(6)]
    column = "text" if text else "image"
    draws = [(row % 2, 10 + row) for row in range(6)]

    def change(order: list[int], seed: int = 0) -> dict[int, Any]:
        augment = augment_of(name, seed=seed, text=text)
        chosen = [draws[row] for row in order]
        if AUGMENTATIONS[name].after:
            values = augment.inputs({"pixel_values": torch.ones(len(order), 3, 32, 32)}, chosen)["pixel_values"]
            return {row: value.numpy().tobytes() for row, value in zip(order, values, strict=True)}
        found = augment.raw({column: [inputs[row] for row in order]}, chosen)[column]
        return {row: value if text else value.tobytes() for row, value in zip(order, found, strict=True)}

    torch.manual_seed(1)
    whole = change([0, 1, 2, 3, 4, 5])
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert change([5, 3, 1]) == {row: whole[row] for row in (5, 3, 1)}
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_drawing_leaves_the_generators_of_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed would seed them too, for every row, and dropout on a GPU draws from them."""
    monkeypatch.setattr(
        torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the generators of all GPUs are seeded")
    )
    assert augment_of("horizontal_flip").raw({"image": [picture()]}, [(0, 0)])["image"]


def test_rows_are_drawn_anew_in_each_epoch_by_their_ids() -> None:
    rows = Dataset.from_dict({"text": ["one two three four five six seven eight nine"] * 3})
    augment = augment_of(("word_swap", {"p": 0.5}), text=True)
    read = Rows(rows, None, None, augment=augment, row_ids=np.array([7, 8, 9]))
    epochs = [[read[row + 3 * 2 * epoch]["text"] for row in range(3)] for epoch in range(3)]
    assert len({text for epoch in epochs for text in epoch}) > 4
    alone = Rows(rows.select([1]), None, None, augment=augment, row_ids=np.array([8]))
    assert [alone[2 * epoch]["text"] for epoch in range(3)] == [epoch[1] for epoch in epochs]
    assert read[1 + 3]["text"] == epochs[0][1] and read[1 + 3]["weight"] == 0.0


def changed_recipe(family: str, models: Path, folder: Path, **training: Any) -> Recipe:
    """Without dropout, so that what is drawn is the augmentation alone."""
    model = {"config": NO_DROPOUT}
    return make_recipe(family, models, folder, augment=CHANGES[family], model=model, training=training)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_training_rows_are_changed_and_no_others(family: str, models: Path, tmp_path: Path) -> None:
    work = prepare(changed_recipe(family, models, tmp_path), make_data(family, train=16, validation=8, test=8))
    assert work.inputs["train"].rows.augment is not None
    assert work.inputs["validation"].rows.augment is None and work.inputs["test"].rows.augment is None
    plain = prepare(make_recipe(family, models, tmp_path, model={"config": NO_DROPOUT}), make_data(family, train=16))
    assert plain.inputs["train"].rows.augment is None
    first, name = work.inputs["train"].features(16), "input_ids" if family == "bert" else "pixel_values"
    second = plain.inputs["train"].features(16)
    assert any(not np.array_equal(one[name], other[name]) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_resumed_run_draws_what_the_whole_one_drew(family: str, models: Path, tmp_path: Path) -> None:
    data, often = make_data(family, train=44, validation=8), {"save_strategy": "steps", "save_steps": 2}
    whole = prepare(changed_recipe(family, models, tmp_path / "whole", **often), data)
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(changed_recipe(family, models, tmp_path / "parts", **often), data), [StopAfter(9)])
    resumed = prepare(changed_recipe(family, models, tmp_path / "parts", **often), data)
    train(resumed)
    assert largest_difference(weights(whole), weights(resumed)) == 0.0


def run(family: str, models: Path, folder: Path, batch: int) -> dict[str, np.ndarray]:
    recipe = changed_recipe(family, models, folder, per_device_train_batch_size=batch)
    work = prepare(recipe, make_data(family, train=36), double=True)
    train(work)
    return weights(work)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_two_processes_draw_what_one_draws(family: str, models: Path, tmp_path: Path) -> None:
    one = run(family, models, tmp_path / "one", 8)
    for other in in_two_processes(run, family, models, tmp_path / "two", 4):
        assert largest_difference(one, other) < 1e-10


@pytest.mark.parametrize(
    ("entry", "place", "words"),
    [
        ("horizontal_flop", "augment.0", "did you mean 'horizontal_flip'"),
        ({"rand_augment": {"magnitud": 3}}, "augment.0.rand_augment.magnitud", "did you mean 'magnitude'"),
        ({"trivial_augment": {"p": 3}}, "augment.0.trivial_augment.p", "has no settings"),
        ("word_swap", "augment.0", "an augmentation for image-classification"),
    ],
)
def test_a_wrong_name_or_setting_is_found_in_the_recipe(entry: Any, place: str, words: str) -> None:
    content = {"task": "image-classification", "model": {"name": "m"}, "dataset": {"path": "p"}, "augment": [entry]}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(content)
    assert place in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    "entry", [("horizontal_flip", {"p": "often"}), ("random_resized_crop", {"scale": 3}), ("word_swap", {"p": 2})]
)
def test_a_setting_that_cannot_be_is_named(entry: Any) -> None:
    with pytest.raises(RecipeError, match=rf"augment\.0\.{entry[0]}"):
        augment_of(entry).raw({"image": [picture()]}, [(0, 0)])
