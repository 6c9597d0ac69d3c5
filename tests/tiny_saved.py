"""Tiny models as they are after training, ready to be asked, and what to ask them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image, fromarray
from safetensors.torch import load_file, save_file
from tiny import TEXT_FAMILIES, save_image_model, save_text_model, texts

from hf_sft.saved_model import SavedModel, load_saved

LABELS = {"text": ["negative", "neutral", "positive"], "image": ["up", "down", "left"]}


def save(family: str, folder: Path, **config: Any) -> Path:
    """A model whose scores differ from row to row; `config` changes its configuration."""
    text = family in TEXT_FAMILIES
    labels = config.pop("labels", LABELS["text" if text else "image"])
    (save_text_model if text else save_image_model)(family, folder, labels=labels)
    weights = load_file(folder / "model.safetensors")
    large = {name: value * {2: 8, 4: 4}.get(value.ndim, 1) for name, value in weights.items()}
    save_file(large, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    if family == "gpt2":
        config["pad_token_id"] = 3  # as every run of ours leaves it
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def load(family: str, folders: Path, **config: Any) -> SavedModel:
    name = folders / f"{family}_{abs(hash(str(config)))}"
    return load_saved(name if name.exists() else save(family, name, **config))


def ragged(number: int) -> list[str]:
    rows = list(texts(number, seed=3)["text"])
    return [" ".join([row] * (1 + index % 4)) for index, row in enumerate(rows)]


def pictures(number: int) -> list[Image]:
    generator = np.random.default_rng(0)
    return [fromarray(generator.integers(0, 256, (20 + 3 * n, 50, 3), dtype=np.uint8)) for n in range(number)]
