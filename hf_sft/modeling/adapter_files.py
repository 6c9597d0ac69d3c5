"""Adapters as a folder that PEFT and transformers read: adapter_model.safetensors, adapter_config.json, config/.

The folder has no config.json of its own: with one transformers looks for all weights there. What the classifier is,
its labels above all, stands in config/.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hf_sft.modeling.anatomy import head_modules
from hf_sft.modeling.lora import ADAPTER, adapter_parameters

WEIGHTS = "adapter_model.safetensors"
CONFIG = "config"  # the folder of the model's configuration
TASK_TYPES = {  # auto class -> PEFT's name, where it has one
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
}


def holds_adapters(folder: str | Path) -> bool:
    """Whether a folder holds adapters rather than a whole model."""
    return (Path(folder) / "adapter_config.json").is_file()


def config_folder(folder: str) -> str:
    """Where AutoConfig finds the configuration of the model that a folder or Hub id holds."""
    return str(Path(folder) / CONFIG) if holds_adapters(folder) else folder


def save_adapters(model: Any, folder: Path, *, auto_model: str, base: str, revision: str | None) -> None:
    """Write the adapters of a model and what trains whole beside them. base: what from_pretrained reads."""
    adapters = adapter_parameters(model)
    others = {name.rpartition(".")[0] for name, value in model.named_parameters() if value.requires_grad} - {
        name.rpartition(".")[0] for name in adapters
    }
    head = list(head_modules(model))
    below = {name for name in others if not any(f"{name}.".startswith(f"{part}.") for part in head)}
    whole = sorted(part for name in {*head, *below} for part in _called_parts(model, name))
    tensors = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.') if name in adapters else name}": value.cpu().contiguous()
        for name, value in model.state_dict().items()
        if name in adapters or any(name.startswith(f"{part}.") for part in whole)
    }
    config = copy.copy(model.peft_config[ADAPTER])
    config.base_model_name_or_path, config.revision = base, revision
    config.target_modules, config.modules_to_save = sorted(config.target_modules), whole
    config.task_type, config.inference_mode = TASK_TYPES.get(auto_model), True
    config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    described = copy.deepcopy(model.config)
    described.architectures = [type(model).__name__]
    described.save_pretrained(folder / CONFIG)


def _called_parts(model: nn.Module, name: str) -> list[str]:
    """A module's name; for a list of modules, which is no layer and which PEFT does not wrap, those of its entries."""
    module = model.get_submodule(name)
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return [name]
    return [part for child, _ in module.named_children() for part in _called_parts(model, f"{name}.{child}")]


def load_adapted(auto_class: Any, folder: str, config: Any, *, trust_remote_code: bool = False) -> Any:
    """The base model with a folder's adapters merged into it, in float32: a plain model of that configuration.

    Raises ValueError where the folder lacks weights of its own.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    adapted = PeftConfig.from_pretrained(folder)
    base = auto_class.from_pretrained(
        adapted.base_model_name_or_path,
        revision=adapted.revision,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # the base's classifier, if it has one, is replaced by the folder's
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a deprecated name that PEFT reads; missing weights are told below
        model = PeftModel.from_pretrained(base, folder)
    with safe_open(Path(folder) / WEIGHTS, "pt") as file:
        missing = sorted(set(get_peft_model_state_dict(model)) - set(file.keys()))
    if missing:
        raise ValueError(f"{len(missing)} weights missing in {WEIGHTS}: {', '.join(missing[:4])}")
    return model.merge_and_unload(safe_merge=True)
