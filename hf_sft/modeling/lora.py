"""LoRA (Hu et al. 2021): low-rank adapters on frozen layers, put in place so that the model keeps its names.

PEFT makes the adapters; they stand inside the transformers model itself, not around it: a layer `x` becomes
`x.base_layer`, `x.lora_A` and `x.lora_B`, and everything that works on the model (rules, blocks, checkpoints,
evaluation) goes on working. The head carries none, it trains whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_sft.errors import Finding, ModelError, RecipeError, nearest
from hf_sft.modeling.anatomy import Block, head_modules
from hf_sft.recipe_tuning import Lora

ADAPTER = "default"  # the name by which PEFT knows the one adapter of a model
PLACE = "tuning.lora.targets"
READ_OF_CONVOLUTIONS = ("stride", "kernel_size", "padding", "dilation")  # by models that pad by themselves (MobileNet)


def add_adapters(model: Any, layers: Sequence[Block], new: frozenset[str], settings: Lora) -> str:
    """Give every layer that `settings.targets` means an adapter, drawn so that the outputs do not change -> in words.

    layers: the blocks that may carry adapters. new: parameters that start untrained: they train whole.
    auto means all linear layers and plain convolutions of these blocks, not those of attention alone: as good as
    training everything where the data are few (Dettmers et al. 2023, section 4; Schulman et al. 2025, "LoRA without
    regret"). Raises RecipeError for a pattern that means no layer, ModelError where auto finds none, and for adapters
    that stay and could not be read back.
    """
    from peft import LoraConfig, inject_adapter_in_model

    inside = {name.rpartition(".")[0] for block in layers for name in block.parameters}
    whole = {name.rpartition(".")[0] for name in new}
    head = tuple(head_modules(model))
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and name not in whole and not any(f"{name}.".startswith(f"{part}.") for part in head)
    }
    if settings.targets == "auto":
        targets = [name for name, module in modules.items() if name in inside and can_carry(module)]
        if not targets:
            found = f"none in the layers of {type(model).__name__}"
            expected = "linear layers or plain convolutions that adapters can stand on"
            raise ModelError(Finding(place=PLACE, expected=expected, found=found, fix="choose another strategy"))
    else:
        targets = _matched(settings.targets, modules, inside)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a number, of which the scaling is made
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=isinstance(modules[targets[0]], Conv1D),
    )
    with _ties_untold(model, settings):
        inject_adapter_in_model(config, model, ADAPTER)
    for name in targets:
        adapted = model.get_submodule(name)
        for read in READ_OF_CONVOLUTIONS:
            if hasattr(adapted.base_layer, read):
                setattr(adapted, read, getattr(adapted.base_layer, read))
    kinds = dict.fromkeys(re.sub(r"\.\d+\b", ".*", name) for name in targets)
    shown = ", ".join(list(kinds)[:6]) + (" ..." if len(kinds) > 6 else "")
    return f"adapters of rank {settings.rank} on {len(targets)} layers: {shown}"


@contextmanager
def _ties_untold(model: Any, settings: Lora) -> Iterator[None]:
    """PEFT asks a model with tied weights for its input embeddings; detectors that tie their heads have none.

    Heads carry no adapter, so that the ties do not concern it. Raises ModelError where it would have to read them
    back: it knows a tied head as two.
    """
    ties = getattr(model, "_tied_weights_keys", None)
    try:
        model.get_input_embeddings()
    except NotImplementedError:
        if ties and not settings.merge:
            expected, found = (
                "a model that PEFT can put together again",
                f"{type(model).__name__}, whose heads are tied",
            )
            fix = "set merge: true, which leaves a plain model"
            raise ModelError(Finding(place="tuning.lora.merge", expected=expected, found=found, fix=fix)) from None
        if ties:
            model._tied_weights_keys = None
    try:
        yield
    finally:
        if ties:
            model._tied_weights_keys = ties


def can_carry(module: nn.Module) -> bool:
    """Whether PEFT's adapter for a layer computes, and merges into, what the layer computes.

    Subclasses (padded as TensorFlow pads, standardised weights, the output of nn.MultiheadAttention) compute something
    else; of convolutions PEFT leaves dilation out of account and does not merge grouped ones.
    """
    if type(module) is nn.Conv2d:
        return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    return type(module) in (nn.Linear, Conv1D)


def _matched(patterns: Sequence[str], modules: dict[str, nn.Module], inside: set[str]) -> list[str]:
    """Names of the layers that the patterns mean, in the order of the model."""
    matched, findings = set[str](), list[Finding]()
    able = [name for name, module in modules.items() if can_carry(module)]
    for number, pattern in enumerate(patterns):
        named = [name for name in modules if fnmatchcase(name, pattern)]
        carrying = [name for name in named if name in able]
        if named and not carrying:
            kinds = ", ".join(dict.fromkeys(type(modules[name]).__name__ for name in named))
            expected, found = "linear layers or plain convolutions", f"{pattern}: {kinds}"
            fix = "leave it out" if not able else f"name other layers, as {_as_glob(able[-1])!r}"
        elif not carrying:
            expected, found = "a pattern that matches layers below the head", pattern
            fix = nearest(pattern, [*dict.fromkeys(map(_as_glob, able)), *able])
            fix = fix if fix.startswith("did you mean") else f"one that matches layers: {_as_glob(able[-1])!r}"
        else:
            matched |= set(carrying)
            continue
        findings.append(Finding(place=f"{PLACE}.{number}", expected=expected, found=found, fix=fix))
    if findings:
        raise RecipeError(findings)
    return [name for name in able if name in matched]


def _as_glob(name: str) -> str:
    return f"*.{name.rpartition('.')[2]}"


def adapter_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of all adapters; empty for a model without."""
    return frozenset(name for name, _ in model.named_parameters() if ".lora_" in name)


def let_drop(model: nn.Module, frozen: Sequence[nn.Module]) -> list[nn.Module]:
    """The frozen modules without those that have no parameters and stand beside an adapter in one module.

    Dropout in a layer with adapters is on, as PEFT has it; norms and what carries none stay in eval mode.
    """
    if not adapter_parameters(model):
        return list(frozen)
    beside = {
        id(child)
        for module in model.modules()
        if any(parameter.requires_grad for parameter in module.parameters())
        for child in module.children()
        if not any(True for _ in child.parameters())
    }
    return [module for module in frozen if id(module) not in beside]


@contextmanager
def every_adapter_used(model: nn.Module) -> Iterator[None]:
    """Raises ModelError when a forward pass inside leaves an adapter out: its layer's weight is read past it."""
    called: set[str] = set()
    adapters = {name: module for name, module in model.named_modules() if _is_adapted(module)}
    hooks = [module.register_forward_hook(partial(_note, called, name)) for name, module in adapters.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    unused = [name for name in adapters if name not in called]
    if unused:
        found = f"{len(unused)} that are not called: {', '.join(unused[:3])}"
        used = list(dict.fromkeys(_as_glob(name) for name in adapters if name in called))
        fix = f"set tuning.lora.targets: [{', '.join(used)}]" if used else "choose another strategy"
        raise ModelError(Finding(place=PLACE, expected="layers that the model calls", found=found, fix=fix))


def _note(called: set[str], name: str, *_: Any) -> None:
    called.add(name)


def _is_adapted(module: nn.Module) -> bool:
    return isinstance(getattr(module, "base_layer", None), nn.Module) and hasattr(module, "lora_A")


def merge_adapters(model: Any) -> None:
    """Add every adapter to the weights of its layer, in their precision, and take it away: a plain model is left.

    Raises ModelError where an adapter holds numbers that are not finite.
    """
    for name, module in list(model.named_modules()):
        if _is_adapted(module):
            try:
                module.merge(safe_merge=True)
            except ValueError as error:
                found = f"{name}: {error}"
                raise ModelError(Finding(place="tuning.lora", expected="finite adapters", found=found)) from error
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.base_layer)
    if hasattr(model, "peft_config"):
        del model.peft_config
