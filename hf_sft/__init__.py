"""Hugging Face-native supervised fine-tuning for vision and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sft.commands.check import check as check
    from hf_sft.commands.evaluate import evaluate as evaluate
    from hf_sft.commands.inspect import inspect as inspect
    from hf_sft.commands.predict import predict as predict
    from hf_sft.commands.rank_models import rank_models as rank_models
    from hf_sft.errors import HfSftError as HfSftError
    from hf_sft.hub.push import push as push
    from hf_sft.recipe import Recipe as Recipe
    from hf_sft.record import RunRecord as RunRecord
    from hf_sft.run import fine_tune as fine_tune

__all__ = [
    "HfSftError", "Recipe", "RunRecord", "check", "evaluate", "fine_tune", "inspect", "predict", "push", "rank_models",
]  # fmt: skip

_HOME = {
    "HfSftError": "errors",
    "Recipe": "recipe",
    "RunRecord": "record",
    "check": "commands.check",
    "evaluate": "commands.evaluate",
    "fine_tune": "run",
    "inspect": "commands.inspect",
    "predict": "commands.predict",
    "push": "hub.push",
    "rank_models": "commands.rank_models",
}


def __getattr__(name: str) -> Any:
    """Public names are loaded when they are first used: `import hf_sft` takes no time."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"hf_sft.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hf_sft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
