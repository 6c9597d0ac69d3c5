"""Random changes of training inputs, drawn per (seed, epoch, row): the same on any number of processes and on resume.

Crop, flips and colour as in Szegedy et al. 2015 and He et al. 2016; RandAugment: Cubuk et al. 2020; TrivialAugment:
Müller, Hutter 2021; AugMix: Hendrycks et al. 2020; AutoAugment: Cubuk et al. 2019; random erasing: Zhong et al. 2020;
word dropout and swaps: Wei, Zou 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xxhash

from hf_sft.errors import Finding, RecipeError

IGNORED = -100  # what stands in a mask where no class counts
Draw = tuple[int, int]  # epoch and row id
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One kind of change. make: (settings, pixels) -> function of one input, which draws from torch's generator.

    after: whether it takes the model's input (pixel_values), not the raw one.
    """

    make: Callable[[Settings, int], Callable[[Any], Any]]
    after: bool = False


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The changes of a recipe, in its order, for some columns of the raw rows. Travels to data-loader workers.

    columns: those that are changed, each alone; None: images with targets that move along (tv_tensors), all that stands
    in a row together.
    """

    seed: int
    columns: Sequence[str] | None
    opened: Callable[[Any], Any]
    before: Sequence[Callable[[Any], Any]]
    after: Sequence[Callable[[Any], Any]]

    def raw(self, batch: Mapping[str, Sequence[Any]], draws: Sequence[Draw]) -> dict[str, Any]:
        """The source columns with their inputs changed."""
        changed = dict(batch)
        if self.columns is None and self.before:
            rows = [dict(zip(batch, cells, strict=True)) for cells in zip(*batch.values(), strict=True)]
            moved = self._each(self.before, rows, draws)
            return {name: [row[name] for row in moved] for name in batch}
        for column in self.columns if self.columns and self.before else ():
            changed[column] = self._each([self.opened, *self.before], batch[column], draws)
        return changed

    def inputs(self, inputs: Mapping[str, Any], draws: Sequence[Draw]) -> dict[str, Any]:
        """The model's inputs changed."""
        changed = dict(inputs)
        if self.after:
            changed["pixel_values"] = torch.stack(self._each(self.after, inputs["pixel_values"], draws))
        return changed

    def _each(self, steps: Sequence[Callable[[Any], Any]], values: Sequence[Any], draws: Sequence[Draw]) -> list[Any]:
        found = []
        with torch.random.fork_rng(devices=[]):
            for value, (epoch, row) in zip(values, draws, strict=True):
                torch.default_generator.manual_seed(xxhash.xxh64_intdigest(f"{self.seed} {epoch} {row}".encode()) >> 1)
                for step in steps:
                    value = step(value)
                found.append(value)
        return found


def configure_augment(
    entries: Sequence[tuple[str, Settings]],
    columns: Sequence[str] | None,
    *,
    seed: int,
    pixels: int,
    opened: Callable[[Any], Any],
) -> Augment | None:
    """pixels: side of the square that random_resized_crop gives. opened: a raw input as augmentations take it.

    columns: those to change; None: all that stands in a row moves together. None where nothing is to be changed.

    Raises RecipeError for settings that an augmentation cannot have.
    """
    if not entries:
        return None
    steps = []
    for number, (name, settings) in enumerate(entries):
        try:
            steps.append((AUGMENTATIONS[name].after, AUGMENTATIONS[name].make(settings, pixels)))
        except (TypeError, ValueError, KeyError) as error:
            place, found = f"augment.{number}.{name}", f"{dict(settings)}: {' '.join(str(error).split())}"
            raise RecipeError(Finding(place=place, expected="settings that it can have", found=found)) from error
    return Augment(
        seed=seed,
        columns=None if columns is None else list(columns),
        opened=opened,
        before=[step for after, step in steps if not after],
        after=[step for after, step in steps if after],
    )


def _vision(name: str, defaults: Settings, settings: Settings, pixels: int) -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    if name == "RandomResizedCrop":
        defaults = {"size": pixels, "antialias": True, **defaults}
    if name == "RandomRotation":
        defaults = {"fill": _nothing(), **defaults}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    if name == "AutoAugment" and isinstance(values.get("policy"), str):
        values["policy"] = v2.AutoAugmentPolicy(values["policy"])
    transform: Callable[[Any], Any] = getattr(v2, name)(**{**defaults, **values})
    return transform


def _nothing() -> dict[Any, int]:
    """What stands where there is no image: black, of which a mask says that it does not count."""
    from torchvision import tv_tensors

    return {tv_tensors.Mask: IGNORED, "others": 0}


def _padded_crop(settings: Settings, pixels: int) -> Callable[[Any], Any]:
    return partial(_crop_padded, int(settings.get("padding", 4)))


def _crop_padded(padding: int, image: Any) -> Any:
    """A window of the image's own size out of the image with a border mirrored around it (CIFAR's usual crop); with

    targets that move along a border of nothing.
    """
    from torchvision.transforms import v2

    if isinstance(image, dict):
        size = [image["image"].height, image["image"].width]
        return v2.RandomCrop(size, padding=padding, fill=_nothing())(image)
    size = [image.height, image.width]
    return v2.RandomCrop(size, padding=min(padding, *(side - 1 for side in size)), padding_mode="reflect")(image)


def _share(settings: Settings, default: float) -> float:
    p = settings.get("p", default)
    if not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError("p is a probability, from 0 to 1")
    return float(p)


def _word_dropout(settings: Settings, pixels: int) -> Callable[[Any], Any]:
    return partial(_drop_words, _share(settings, 0.1))


def _drop_words(p: float, text: str) -> str:
    words = text.split()
    kept = [word for word, draw in zip(words, torch.rand(len(words)).tolist(), strict=True) if draw >= p]
    return " ".join(kept or words[:1])


def _word_swap(settings: Settings, pixels: int) -> Callable[[Any], Any]:
    return partial(_swap_words, _share(settings, 0.1))


def _swap_words(p: float, text: str) -> str:
    """Each word changes places with its right neighbour with that probability."""
    words = text.split()
    for place in np.flatnonzero(torch.rand(max(0, len(words) - 1)).numpy() < p):
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words) or text


def _of_torchvision(name: str, after: bool = False, **defaults: Any) -> Augmentation:
    return Augmentation(make=partial(_vision, name, defaults), after=after)


AUGMENTATIONS: dict[str, Augmentation] = {
    "random_resized_crop": _of_torchvision("RandomResizedCrop", scale=(0.35, 1.0)),
    "random_crop": Augmentation(make=_padded_crop),
    "horizontal_flip": _of_torchvision("RandomHorizontalFlip"),
    "vertical_flip": _of_torchvision("RandomVerticalFlip"),
    "rotation": _of_torchvision("RandomRotation", degrees=10),
    "color_jitter": _of_torchvision("ColorJitter", brightness=0.3, contrast=0.3, saturation=0.3),
    "grayscale": _of_torchvision("RandomGrayscale"),
    "gaussian_blur": _of_torchvision("GaussianBlur", kernel_size=5),
    "rand_augment": _of_torchvision("RandAugment"),
    "trivial_augment": _of_torchvision("TrivialAugmentWide"),
    "aug_mix": _of_torchvision("AugMix"),
    "auto_augment": _of_torchvision("AutoAugment"),
    "random_erasing": _of_torchvision("RandomErasing", after=True, p=0.25),
    "word_dropout": Augmentation(make=_word_dropout),
    "word_swap": Augmentation(make=_word_swap),
}
