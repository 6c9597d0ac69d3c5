"""A batch of one row: BatchNorm behind a global pooling has nothing to normalise by, and torch refuses to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_sft.errors import Finding, RecipeError
from hf_sft.evaluation import model_inputs
from hf_sft.modeling.cut import undisturbed


def refuse_lone_row(
    model: nn.Module,
    frozen: Sequence[nn.Module],
    batch: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    rows: int | None,
    processes: int,
) -> None:
    """Raises RecipeError where a batch of training will hold one row and the model cannot train on one.

    batch: of one row, collated; training: with all defaults filled in; rows: of train, None for a stream. In several
    processes every batch is full.
    """
    size = training["per_device_train_batch_size"]
    if size > 1 and (processes > 1 or rows is None or rows % size != 1):
        return
    inputs = model_inputs(dict(batch), next(model.parameters()).device, False)
    with undisturbed(model), torch.no_grad():
        model.train()
        for module in frozen:
            module.training = False
        try:
            model(**inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            found = f"a batch of one row: {size} rows a batch" + (f", {rows:,} rows" if size > 1 else "")
            other = next(number for number in range(max(2, size - 1), 2 * size + 3) if (rows or 0) % number != 1)
            raise RecipeError(
                Finding(
                    place="training.per_device_train_batch_size",
                    expected="two rows or more in every batch, as this model's BatchNorm needs",
                    found=found,
                    fix=f"set it to {other}",
                )
            ) from error
