"""BatchNorm that goes on normalising by the statistics it was pretrained with, while its scales learn."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hf_sft.errors import Finding, RecipeError


def norms_kept_still(model: nn.Module, new: Collection[str], setting: Literal["train", "frozen"]) -> list[nn.Module]:
    """The BatchNorm modules that stay in eval mode throughout: with `frozen`, those that were trained before.

    While weights and statistics both move, the running ones lag behind, and evaluation uses them: a short run never
    catches up (keras.io/guides/transfer_learning keeps them for that reason). A head that was solved on pretrained
    features also meets others in training, normalised by each batch. new: names of the parameters that start untrained.
    Raises RecipeError where there is nothing that could stay.
    """
    if setting == "train":
        return []
    found = [
        module
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        and module.track_running_stats
        and not any(f"{path}.{name}" in new for name, _ in module.named_parameters())
    ]
    if not found:
        expected, fix = "a model with pretrained BatchNorm", "leave it out: this model has none"
        raise RecipeError(Finding(place="tuning.batch_norm", expected=expected, found="frozen", fix=fix))
    return list(found)
