"""What a bug report needs to know of a machine: versions, devices, memory, caches, variables; never a secret."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_sft import packages
from hf_sft.errors import HfSftError
from hf_sft.tables import printable

PACKAGES = (
    "hf-sft", "torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "evaluate", "safetensors",
    "huggingface_hub", "tokenizers", "numpy", "pillow", "scikit-learn", "pyarrow",
)  # fmt: skip
PREFIXES = (
    "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "DATASETS_", "ACCELERATE_", "CUDA_", "NVIDIA_", "HIP_",
    "ROCR_", "PYTORCH_", "TORCH", "NCCL_", "GLOO_", "OMP_", "MKL_", "OPENBLAS_", "TOKENIZERS_", "FSDP_",
)  # fmt: skip
NAMES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "XDG_CACHE_HOME", "TMPDIR",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "MPLBACKEND",
    "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE",
)  # fmt: skip
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY")  # in small letters, too
SECRET_PARTS = {
    "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "KEY", "KEYS", "CREDENTIAL",
    "CREDENTIALS", "AUTH", "AUTHORIZATION", "COOKIE", "HEADERS",
}  # fmt: skip
SET = "set, not shown"
CACHE_SECONDS = 0.4  # at most, for the size of one cache
GIVEN = ("versions", "extras", "environment", "embedded_models")  # sections whose names are not our words
OFFLINE = ("1", "ON", "YES", "TRUE")  # how huggingface_hub reads a switch


def describe_environment() -> dict[str, Any]:
    """Everything that `hf-sft env` shows, as plain data. What cannot be found out is said, never raised."""
    torch = _describe_torch()
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "extras": _describe_extras(),
        "python": {"version": platform.python_version(), "executable": _hide_home(sys.executable)},
        "platform": platform.platform(),
        "cpu": _describe_cpu() | {"torch_threads": torch.pop("threads", None)},
        "memory": _describe_memory(),
        "torch": torch,
        "disk": _describe_disk(),
        "caches": _describe_caches(),
        "hub": _describe_hub(),
        "environment": _variables(os.environ),
        "embedded_models": _embedded_models(),
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The report as lines to paste into an issue."""
    lines: list[str] = []
    for title, content in report.items():
        if isinstance(content, Mapping):
            shown = {name if title in GIVEN else _words(name): _said(name, value) for name, value in content.items()}
            lines += ["", title.replace("_", " "), *_lines(shown)]
            lines += [] if content else ["  none"]
        else:
            lines += ["", f"{title}  {printable(_said(title, content))}"]
    return "\n".join(lines[1:])


def _lines(shown: Mapping[str, str]) -> list[str]:
    width = max(map(len, shown), default=0)
    return [f"  {printable(name).ljust(width)}  {printable(value)}".rstrip() for name, value in shown.items()]


def _words(name: str) -> str:
    """`free_bytes` as `free`; names in capitals are those of variables."""
    return name if name.isupper() else name.removesuffix("_bytes").replace("_", " ")


def _said(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        parts = [(part, _said(part, inside)) for part, inside in value.items()]
        return ", ".join(text if part in ("path", "state") else f"{_words(part)} {text}" for part, text in parts)
    if isinstance(value, list):
        return "; ".join(_said("", entry) for entry in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "unknown", True: "yes", False: "no"}[value]
    return _gigabytes(value) if name.endswith("_bytes") else str(value)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package) or "unreadable"
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _describe_extras() -> dict[str, Any]:
    """Extra of hf-sft -> the packages it installs, with versions."""
    found: dict[str, dict[str, str]] = {}
    for distribution, extra in packages.KNOWN.values():
        if extra:
            found.setdefault(extra, {})[distribution] = _version(distribution)
    return found


def _describe_cpu() -> dict[str, Any]:
    names = re.findall(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return {
        "name": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **({"limit_of_the_container": int(quota) / int(period)} if quota.isdigit() else {}),
    }


def _describe_memory() -> dict[str, Any]:
    names = getattr(os, "sysconf_names", {})  # there is none on Windows
    known = "SC_PHYS_PAGES" in names
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None
    available = re.search(r"^MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    found = {"total_bytes": total, "available_bytes": int(available[1]) * 1024 if available else None}
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _read(file).strip()
        if limit.isdigit() and (total is None or int(limit) < total):
            found["limit_of_the_container_bytes"] = int(limit)
    return found


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _describe_torch() -> dict[str, Any]:
    """What torch sees, and what a run would choose; the reason where torch cannot be imported."""
    seen = _ask_nvidia_smi()
    try:
        import torch
    except Exception as error:  # a broken installation can raise anything
        return {"state": f"cannot be imported: {_in_short(error)}", "nvidia_smi": seen}
    found: dict[str, Any] = {"cuda_build": torch.version.cuda or "none", "threads": torch.get_num_threads()}
    try:
        found["devices"] = _devices(torch)
        from hf_sft.environment import choose_precision, on_cpu

        device = None if on_cpu() else torch.accelerator.current_accelerator(check_available=True)
        device = device or torch.device("cpu")
        chosen = choose_precision("auto", device)
        chosen = f"{chosen}, or bf16 where a model measures faster in it" if device.type == "cpu" else chosen
        found |= {"device_of_a_run": device.type, "precision_of_a_run": chosen}
    except Exception as error:  # a driver or accelerate that does not fit this torch
        found["state"] = f"does not work: {_in_short(error)}"
    found["nvidia_smi"] = seen
    if seen and not found.get("devices"):
        found["state"] = "does not see the GPU that nvidia-smi sees; its build, the driver or CUDA_VISIBLE_DEVICES"
    return found


def _devices(torch: Any) -> list[str]:
    devices = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        memory = f"{_gigabytes(free)} free of {_gigabytes(total)}"
        devices.append(f"cuda:{number} {device.name}, {memory}, compute capability {device.major}.{device.minor}")
    if torch.backends.mps.is_available():
        devices.append(f"mps {_gigabytes(torch.mps.recommended_max_memory())} recommended at most")
    return devices


def _ask_nvidia_smi() -> list[str]:
    """Name, memory and driver of each GPU, whatever torch makes of it."""
    command = shutil.which("nvidia-smi")
    query = [command or "", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5) if command else None
    except (OSError, subprocess.TimeoutExpired) as error:
        return [_in_short(error)]
    lines = done.stdout.splitlines() if done and done.returncode == 0 else []
    return [line.strip() for line in lines if line.strip()]


def _in_short(error: BaseException) -> str:
    words = f"{type(error).__name__}: {error}".strip().splitlines()[0].split(" ")
    return " ".join(map(_hide, words))[:300]


def _describe_disk() -> dict[str, Any]:
    places = {"working directory": Path.cwd(), "temporary files": Path(os.environ.get("TMPDIR") or "/tmp")}
    return {name: {"path": _hide_home(str(path)), **_room(path)} for name, path in places.items()}


def _room(path: Path) -> dict[str, int]:
    """Free and total bytes of the disk on which that folder lies, or would lie."""
    there = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    if there is None:
        return {}
    usage = shutil.disk_usage(there)
    return {"free_bytes": usage.free, "total_bytes": usage.total}


def _describe_caches() -> dict[str, Any]:
    """Where the libraries keep what they load, by their own rules, without importing them."""
    variables = os.environ
    home = variables.get("HF_HOME") or f"{variables.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    hub = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    places = {"HF_HOME": home, "hub": hub, "datasets": variables.get("HF_DATASETS_CACHE") or f"{home}/datasets"}
    found = {}
    for name, place in places.items():
        path = Path(os.path.expandvars(place)).expanduser()
        size = _size(path) if name != "HF_HOME" and path.is_dir() else {}
        found[name] = {"path": _hide_home(str(path)), **({} if path.is_dir() else {"exists": False}), **size}
        found[name] |= {"free_bytes": room["free_bytes"]} if (room := _room(path)) else {}
    return found


def _size(folder: Path) -> dict[str, int]:
    """Bytes of the files below, links not followed; as many as can be counted in the time there is."""
    end, total, folders = time.monotonic() + CACHE_SECONDS, 0, [str(folder)]
    while folders:
        if time.monotonic() > end:
            return {"size_at_least_bytes": total}
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # no permission, or gone while it was counted
    return {"size_bytes": total}


def _describe_hub() -> dict[str, Any]:
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    file = Path(os.path.expandvars(os.environ.get("HF_TOKEN_PATH") or f"{home}/token")).expanduser()
    given = any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    offline = (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in OFFLINE
    return {
        "endpoint": _hide(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"),
        "offline": offline,
        "token": "in the environment" if given else "stored by hf auth login" if file.is_file() else "none",
    }


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that steer the libraries, secrets masked."""
    names = [
        name
        for name in sorted(environment)
        if name.startswith(PREFIXES) or name in NAMES or name.upper() in PROXIES
    ]  # fmt: skip
    return {name: SET if set(name.split("_")) & SECRET_PARTS else _hide(environment[name]) for name in names}


def _hide(text: str) -> str:
    """Text without user names and passwords of addresses, tokens and the name of the home folder."""
    text = re.sub(r"(\w+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    text = re.sub(r"(?i)([?&][^=&\s]*(?:token|key|secret|password|sig)[^=&\s]*=)[^&\s]+", r"\1***", text)
    return _hide_home(re.sub(r"\bhf_[A-Za-z0-9]{10,}", "hf_***", text))


def _hide_home(path: str) -> str:
    home = os.path.expanduser("~")
    return re.sub(rf"{re.escape(home)}(?=/|\\|:|$)", "~", path) if len(home) > 1 else path


def _embedded_models() -> dict[str, str]:
    """What the bundled recipes load from Python packages, and whether it is there."""
    from hf_sft.recipe import Recipe
    from hf_sft.recipe_file import bundled_recipes

    recipes = [Recipe.load(f"bundled:{name}") for name in bundled_recipes()]
    names = [name for recipe in recipes for name in (recipe.model.name, recipe.model.weights or "")]
    found = {}
    for name in dict.fromkeys(name for name in names if name.startswith(packages.PREFIX)):
        try:
            packages.locate_in_package(name, name)
            found[name] = "found"
        except HfSftError as error:
            found[name] = f"{error.findings[0].found}; {error.findings[0].fix}"
    return found
