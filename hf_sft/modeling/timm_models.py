"""timm architectures with a checkpoint file (or random weights), as transformers' TimmWrapper."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import load_state_dict
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sft.errors import Finding, ModelError, nearest
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.source import ModelSource


def make_config(architecture: str) -> Any:
    """The wrapper's configuration of a timm architecture. Raises ModelError naming the nearest one."""
    if not timm.is_model(architecture):
        fix = nearest(architecture.partition(".")[0], timm.list_models())
        if fix.startswith("valid here"):
            fix = "timm.list_models() lists them"
        raise ModelError(Finding(place="model.name", expected="a timm architecture", found=architecture, fix=fix))
    pretrained = timm.get_pretrained_cfg(architecture)
    settings = pretrained.to_dict() if pretrained else {"input_size": (3, 224, 224)}
    settings.pop("num_classes", None)
    config = TimmWrapperConfig(architecture=architecture, architectures=["TimmWrapperForImageClassification"])
    config.pretrained_cfg = settings
    return config


def known_labels(source: ModelSource) -> list[str] | None:
    """A bare checkpoint file carries no label names."""
    return None


def load(source: ModelSource, config: Any) -> tuple[Any, frozenset[str], str]:
    """The checkpoint's weights below a new classifier: (model, new parameters, report).

    Keys of other names are taken by their order, and only where every shape agrees.
    Raises ModelError for a checkpoint that needs code to load, or does not fit the architecture.
    """
    place = "model.weights"
    try:
        state = load_state_dict(str(source.weights), weights_only=True)
    except (RuntimeError, OSError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        found = f"{source.weights}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise ModelError(Finding(place=place, expected="a file of weights alone", found=found)) from error
    wrapper = TimmWrapperForImageClassification(config).float()
    layers = output_layers(wrapper, config.num_labels)
    new = frozenset(f"{name}.{part}" for name, layer in layers.items() for part, _ in layer.named_parameters())
    inner = {name.removeprefix("timm_model.") for name in new}
    own = _weights_alone(wrapper.timm_model.state_dict())
    state, renamed = _as_named(_weights_alone(state), own, inner)
    body = {name: value.float() for name, value in state.items() if name not in inner}
    wrong = [f"{name} missing" for name in own if name not in inner and name not in body]
    wrong += [f"{name} unknown" for name in body if name not in own]
    wrong += [
        f"{name} {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in body.items()
        if name in own and own[name].shape != value.shape
    ]
    if wrong:
        found = f"{source.weights}: {len(wrong)} tensors do not fit: {', '.join(wrong[:4])}"
        raise ModelError(Finding(place=place, expected=f"the weights of {source.architecture}", found=found))
    wrapper.timm_model.load_state_dict(body, strict=False)
    before = next((state[name].shape[0] for name in sorted(inner) if name in state), None)
    change = f"{before} -> {config.num_labels} re-initialised" if before else f"new, {config.num_labels} outputs"
    return wrapper, new, f"{' and '.join(layers)} {change}, {len(body)} tensors loaded{renamed}"


def _weights_alone(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without BatchNorm's counters, which old checkpoints lack and nothing reads."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _as_named(state: dict[str, Any], own: Mapping[str, Any], head: set[str]) -> tuple[dict[str, Any], str]:
    """The checkpoint under timm's own key names, and what was renamed, in words; unchanged where that cannot be."""
    pairs = list(zip(state.items(), own.items(), strict=False))
    fits = len(own) == len(state) and all(
        value.shape[1:] == mine.shape[1:] if name in head else value.shape == mine.shape  # other classes, other rows
        for (_, value), (name, mine) in pairs
    )
    if set(own) == set(state) or not fits:
        return state, ""
    renamed = [(old, name) for (old, _), (name, _) in pairs if old != name]
    words = f"; {len(renamed)} of {len(state)} keys renamed by order, shapes equal (first: {' -> '.join(renamed[0])})"
    return {name: value for (_, value), (name, _) in pairs}, words
