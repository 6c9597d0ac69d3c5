"""BatchNorm that goes on normalising by the statistics it was pretrained with, while its scales learn."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hf_sft.errors import Finding, RecipeError

FEW_STEPS = 1000


def settle_batch_norm(
    setting: str, model: nn.Module, new: Collection[str], *, trained_before: bool, steps: int | None
) -> tuple[str, str]:
    """tuning.batch_norm decided, and one line that says why; empty where the recipe says it or nothing is kept.

    trained_before: the weights are pretrained, and layers that hold them train. steps: of the run; None: unknown.
    """
    if setting != "auto":
        return setting, ""
    if not trained_before or steps is None or steps >= FEW_STEPS or not _pretrained_norms(model, new):
        return "train", ""
    why = f"as {steps:,} steps are few (tuning.batch_norm: train moves them)"
    return "frozen", f"BatchNorm keeps its pretrained statistics, {why}"


def norms_kept_still(model: nn.Module, new: Collection[str], setting: str) -> list[nn.Module]:
    """The BatchNorm modules that stay in eval mode throughout: with `frozen`, those that were trained before.

    While weights and statistics both move, the running ones lag behind, and evaluation uses them: a short run never
    catches up (keras.io/guides/transfer_learning keeps them for that reason). A head that was solved on pretrained
    features also meets others in training, normalised by each batch. new: names of the parameters that start untrained.
    Raises RecipeError where there is nothing that could stay.
    """
    if setting != "frozen":
        return []
    found = _pretrained_norms(model, new)
    if not found:
        expected, fix = "a model with pretrained BatchNorm", "leave it out: this model has none"
        raise RecipeError(Finding(place="tuning.batch_norm", expected=expected, found="frozen", fix=fix))
    return found


def _pretrained_norms(model: nn.Module, new: Collection[str]) -> list[nn.Module]:
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        and module.track_running_stats
        and not any(f"{path}.{name}" in new for name, _ in module.named_parameters())
    ]
