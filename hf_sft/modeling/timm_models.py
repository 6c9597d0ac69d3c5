"""timm architectures with a checkpoint file (or random weights), as transformers' TimmWrapper."""

from __future__ import annotations

import pickle
from typing import Any

import timm
from timm.models import load_state_dict
from timm.models._helpers import remap_state_dict
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sft.errors import Finding, ModelError, nearest
from hf_sft.modeling.anatomy import output_layer
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

    timm's remapping by order of keys is used when the names differ, and only where every shape agrees.
    Raises ModelError for a checkpoint that needs code to load, or does not fit the architecture.
    """
    place = "model.weights"
    try:
        state = load_state_dict(str(source.weights), weights_only=True)
    except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(Finding(place=place, expected="a file of weights alone", found=found)) from error
    wrapper = TimmWrapperForImageClassification(config).float()
    name, layer = output_layer(wrapper, config.num_labels)
    state, remapped = _as_named(state, source.architecture or "", config)
    inner = name.removeprefix("timm_model.")
    head = {key: value for key, value in state.items() if key.startswith(f"{inner}.")}
    body = {
        key: value.float() if value.is_floating_point() else value for key, value in state.items() if key not in head
    }
    own = wrapper.timm_model.state_dict()
    wrong = sorted(
        [key for key in own if not key.startswith(f"{inner}.") and key not in body]
        + [key for key, value in body.items() if key not in own or own[key].shape != value.shape]
    )
    if wrong:
        found = f"{len(wrong)} missing or of another shape: {', '.join(wrong[:4])}"
        raise ModelError(Finding(place=place, expected=f"the weights of {source.architecture}", found=found))
    wrapper.timm_model.load_state_dict(body, strict=False)
    new = frozenset(f"{name}.{part}" for part, _ in layer.named_parameters())
    before = head[f"{inner}.weight"].shape[0] if f"{inner}.weight" in head else None
    change = f"{before} -> {config.num_labels} re-initialised" if before else f"new, {config.num_labels} outputs"
    return wrapper, new, f"{name} {change}, {len(body)} tensors loaded{remapped}"


def _as_named(state: dict[str, Any], architecture: str, config: Any) -> tuple[dict[str, Any], str]:
    """The checkpoint under timm's own key names, and what was renamed, in words."""
    classes = list(state.values())[-1].shape[0] if state else 0
    reference = timm.create_model(architecture, num_classes=classes, **(config.model_args or {}))
    own = reference.state_dict()
    if set(own) == set(state):
        return state, ""
    if len(own) != len(state):
        return state, ""  # nothing to remap by order; the caller names what does not fit
    try:
        renamed = remap_state_dict(state, reference, allow_reshape=False)
    except AssertionError as error:
        raise ModelError(
            Finding(place="model.weights", expected=f"the weights of {architecture}", found=str(error).splitlines()[0])
        ) from None
    pairs = [(old, new) for old, new in zip(state, renamed, strict=True) if old != new]
    first = f"{pairs[0][0]} -> {pairs[0][1]}"
    return renamed, f"; {len(pairs)} of {len(state)} keys renamed by order, shapes equal (first: {first})"
