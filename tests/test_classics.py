"""The tutorials' classics: our recipes beside the training loop that the tutorials write in plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.typing import NDArray
from tiny import SIZE, images, save_image_model
from tiny_runs import largest_difference, prepare, train, weights
from torch import nn
from transformers import TimmWrapperForImageClassification

from hf_sft.job import Job
from hf_sft.recipe import Recipe
from hf_sft.training.history import epoch_entries
from hf_sft.training.order import epoch_order

RECIPES = Path(__file__).parents[1] / "recipes"
EPOCHS, BATCH = 3, 8
WHOLE = {"train": 72, "validation": 40, "test": 40}  # 9 batches an epoch


@dataclass(frozen=True, kw_only=True)
class Classic:
    """What the tutorials write: the optimizer over what trains, and whether that is the new head alone."""

    optimizer: Callable[[Any], torch.optim.Optimizer]
    head: bool = False


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


CLASSICS = {
    "resnet50_cifar10_adam": Classic(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-4)),
    "resnet18_sgd": Classic(optimizer=_sgd),
    "resnet18_two_classes": Classic(optimizer=_sgd),
    "resnet50_head_adam": Classic(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3), head=True),
    "resnet50_head_sgd": Classic(optimizer=_sgd, head=True),
}


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A split as the tutorials' loaders give it."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What the tutorials print after an epoch, and the weights they would keep."""

    loss: float
    accuracy: float
    validation_loss: float
    state: dict[str, torch.Tensor]


def follow_tutorial(model: Any, classic: Classic, splits: Mapping[str, Pixels], orders: list[NDArray]) -> list[Epoch]:
    """The loop of the tutorials. model: timm's own ResNet, without any wrapper; frozen blocks are in eval mode."""
    if classic.head:
        for parameter in model.parameters():
            parameter.requires_grad = False
        for parameter in model.fc.parameters():
            parameter.requires_grad = True
    criterion = nn.CrossEntropyLoss()
    optimizer = classic.optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    epochs = []
    for order in orders:
        model.train()
        if classic.head:
            model.eval()
            model.fc.train()
        running_loss = 0.0
        for start in range(0, len(order), BATCH):
            rows = torch.as_tensor(order[start : start + BATCH])
            inputs, labels = splits["train"].images[rows], splits["train"].labels[rows]
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * inputs.size(0)
        accuracy, validation_loss = look_at(model, splits["validation"])
        state = copy.deepcopy(model.state_dict())
        mean = running_loss / len(order)
        epochs.append(Epoch(loss=mean, accuracy=accuracy, validation_loss=validation_loss, state=state))
    return epochs


@torch.no_grad()
def look_at(model: nn.Module, split: Pixels) -> tuple[float, float]:
    """(accuracy, mean loss)."""
    outputs = model.eval()(split.images)
    accuracy = (outputs.argmax(1) == split.labels).double().mean().item()
    return accuracy, nn.functional.cross_entropy(outputs, split.labels).item()


@pytest.fixture(autouse=True, scope="module")
def recipes_leave_nothing_open() -> Iterator[None]:
    """One that does begins with a solved head, and BatchNorm keeps its statistics: the tutorials do neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_sft.training.warm_start.MOST_WORK", 10**8)
        patch.setattr("hf_sft.modeling.batch_norm.FEW_STEPS", 1000)
        yield


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet that has seen images: no block starts at zero, and BatchNorm knows what comes in."""
    folder = save_image_model("timm_resnet", tmp_path_factory.mktemp("models") / "resnet")
    model = TimmWrapperForImageClassification.from_pretrained(folder)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            layer.momentum = 1.0
    pixels = torch.stack([torch.as_tensor(np.array(image)) for image in images(64, seed=9)["image"]])
    with torch.no_grad():
        model.train()(pixels.permute(0, 3, 1, 2) / 127.5 - 1)
    model.save_pretrained(folder)
    return folder


def noisy_images(number: int, seed: int, columns: Mapping[str, Any]) -> Dataset:
    """Images, two of seven with a wrong label (an accuracy is seldom 0.5 or 1), under the recipe's column names."""
    rows = images(number, seed=seed)
    labels = [1 - label if index % 7 < 2 else label for index, label in enumerate(rows["label"])]
    rows = rows.remove_columns("label").add_column("label", labels, feature=rows.features["label"])
    return rows.rename_columns({role: str(column) for role, column in columns.items() if role != column})


def prepare_classic(name: str, resnet: Path, folder: Path, sizes: Mapping[str, int] = WHOLE) -> Job:
    """The classic's own recipe with a tiny ResNet, tiny images under the names of its columns, and few epochs."""
    replaced = {
        "model.name": resnet,
        "processor.size": SIZE,
        "training.num_train_epochs": EPOCHS,
        "training.per_device_train_batch_size": BATCH,
        "output_dir": folder,
    }
    recipe = Recipe.load(RECIPES / f"{name}.yaml", [f"{key}={value}" for key, value in replaced.items()])
    if recipe.dataset.splits:  # slices of one split: 80 % train, of which a tenth validates
        sizes = {"train": round(sizes["train"] / 0.72)}
    data = {role: noisy_images(size, seed, recipe.dataset.columns) for seed, (role, size) in enumerate(sizes.items())}
    return prepare(recipe, data)


def pixels_of(work: Job, role: str) -> Pixels:
    rows = work.inputs[role].rows
    batch = work.collate(rows.__getitems__(range(len(rows))))
    return Pixels(images=batch["pixel_values"], labels=batch["labels"])


@dataclass(frozen=True, kw_only=True)
class Course:
    """One classic trained twice from the same weights on the same batches: by our job and by the tutorials' loop."""

    work: Job
    ours: list[dict[str, Any]]
    theirs: list[Epoch]
    splits: dict[str, Pixels]
    model: Any


def train_both(name: str, work: Job) -> Course:
    splits = {role: pixels_of(work, role) for role in work.inputs}
    lengths = np.ones(len(splits["train"].labels), dtype=np.int64)
    seed = work.recipe.seed
    orders = [epoch_order(lengths, global_batch_size=BATCH, seed=seed, epoch=epoch) for epoch in range(EPOCHS)]
    model = copy.deepcopy(work.built.model).timm_model
    theirs = follow_tutorial(model, CLASSICS[name], splits, orders)
    return Course(
        work=work, ours=epoch_entries(train(work).log, evaluated=True), theirs=theirs, splits=splits, model=model
    )


def assert_same_course(course: Course) -> None:
    """Validation after every epoch, the weights that are kept, and what they are worth on the test split."""
    assert [entry["accuracy"] for entry in course.ours] == [epoch.accuracy for epoch in course.theirs]
    losses = [epoch.validation_loss for epoch in course.theirs]
    assert [entry["validation_loss"] for entry in course.ours] == pytest.approx(losses, rel=1e-5)
    best = max(course.theirs, key=lambda epoch: (epoch.accuracy, -epoch.validation_loss))
    kept = {f"timm_model.{name}": value.numpy() for name, value in best.state.items()}
    assert largest_difference(weights(course.work), kept) < 1e-6
    course.model.load_state_dict(best.state)
    test, evaluator = course.work.inputs["test"], course.work.evaluator
    assert test.targets is not None
    rows = evaluator.predict(course.work.built.model, test.rows, test.lengths, course.work.labels)
    found = evaluator.measure(rows, test.targets, course.work.labels)
    assert found["accuracy"] == look_at(course.model, course.splits["test"])[0]


@pytest.mark.parametrize("name", CLASSICS)
def test_a_classic_is_the_loop_of_the_tutorials(name: str, resnet: Path, tmp_path: Path) -> None:
    course = train_both(name, prepare_classic(name, resnet, tmp_path))
    assert len(course.splits["train"].labels) == WHOLE["train"]
    losses = [epoch.loss for epoch in course.theirs]
    assert [entry["train_loss"] for entry in course.ours] == pytest.approx(losses, rel=1e-5)
    assert max(losses) - min(losses) > 0.05, "it did learn"
    assert_same_course(course)


@pytest.fixture(scope="module")
def ragged(resnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A classic whose last batch of an epoch holds 4 rows of 8."""
    name, folder = "resnet50_cifar10_adam", tmp_path_factory.mktemp("ragged")
    return train_both(name, prepare_classic(name, resnet, folder, WHOLE | {"train": 76}))


def test_a_ragged_last_batch_changes_nothing(ragged: Course) -> None:
    assert_same_course(ragged)


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_rows(ragged: Course) -> None:
    losses = [epoch.loss for epoch in ragged.theirs]
    assert [entry["train_loss"] for entry in ragged.ours] == pytest.approx(losses, rel=1e-5)
