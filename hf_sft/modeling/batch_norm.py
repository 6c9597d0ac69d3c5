"""BatchNorm that goes on normalising by the statistics it was pretrained with, while its scales learn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hf_sft.errors import Finding, RecipeError
from hf_sft.record import write_text

FEW_STEPS = 1000
BEGUN_WITH = "batch_norm"  # a file beside the checkpoints: a run that goes on, or is extended, keeps what it began with


def settle_batch_norm(
    setting: str, norms: Sequence[nn.Module], *, trained_before: bool, steps: int | None, begun: Path | None
) -> tuple[str, str]:
    """tuning.batch_norm decided, and one line that says why; empty where the recipe says it or nothing is kept.

    While weights and statistics both move, the running ones lag behind, and evaluation uses them: a short run never
    catches up (keras.io/guides/transfer_learning keeps them for that reason). A head that was solved on pretrained
    features also meets others in training, normalised by each batch.

    norms: those that could be kept still. trained_before: the weights are pretrained. steps: of the run; None: unknown.
    begun: the checkpoints of a run that may go on, where it noted what it began with.
    Raises RecipeError where there is nothing to keep and the recipe asks for it.
    """
    if setting == "frozen" and not norms:
        expected, fix = "pretrained BatchNorm in layers that train", "leave it out: this run has none"
        raise RecipeError(Finding(place="tuning.batch_norm", expected=expected, found="frozen", fix=fix))
    if setting != "auto":
        return setting, ""
    if norms and begun is not None and (begun / BEGUN_WITH).is_file():
        return (begun / BEGUN_WITH).read_text(encoding="utf-8").strip(), ""
    if not norms or not trained_before or steps is None or steps >= FEW_STEPS:
        return "train", ""
    why = f"as {steps:,} steps are few (tuning.batch_norm: train moves them)"
    return "frozen", f"BatchNorm keeps its pretrained statistics, {why}"


def note_batch_norm(checkpoints: Path, setting: str) -> None:
    """What a run that goes on has to take."""
    write_text(checkpoints / BEGUN_WITH, setting + "\n")


def pretrained_norms(model: nn.Module, new: Collection[str], frozen: Sequence[nn.Module]) -> list[nn.Module]:
    """The BatchNorm modules that were trained before and would gather statistics: those in frozen parts do not.

    new: names of the parameters that start untrained. A norm without parameters is as new as what it stands beside.
    """
    still = {id(module) for module in frozen}

    def starts_untrained(path: str, module: nn.Module) -> bool:
        owner = path if any(True for _ in module.parameters()) else path.rpartition(".")[0]
        return any(name.startswith(f"{owner}." if owner else "") for name in new)

    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        and module.track_running_stats
        and id(module) not in still
        and not starts_untrained(path, module)
    ]
