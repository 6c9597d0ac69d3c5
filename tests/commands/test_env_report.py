"""Laws of what a bug report tells of a machine: everything needed, no secret, and a broken part does not stop it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_sft import packages
from hf_sft.commands import env_report
from hf_sft.commands.env_report import as_text, describe_environment

SECRET = "Tr0ub4dor"


def test_report_is_plain_data_and_names_every_part() -> None:
    report = describe_environment()
    assert json.loads(json.dumps(report)) == report
    assert {"hf-sft", "torch", "transformers", "datasets", "accelerate", "numpy", "pyarrow"} <= set(report["versions"])
    assert report["torch"]["precision_of_a_run"].startswith("fp32, or bf16")  # tests run on the CPU
    text = as_text(report)
    for name, version in report["versions"].items():
        assert any(line.split() == [name, version] for line in text.splitlines()), name
    for word in ("python", "platform", "cpu", "memory", "disk", "caches", "environment", "embedded models"):
        assert any(line.startswith(word) for line in text.splitlines()), word


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", SECRET, "set, not shown"),
        ("HUGGING_FACE_HUB_TOKEN", SECRET, "set, not shown"),
        ("HF_MY_API_KEY", SECRET, "set, not shown"),
        ("HTTPS_PROXY", f"http://me:{SECRET}@proxy:3128", "http://***@proxy:3128"),
        ("http_proxy", f"me:{SECRET}@proxy:3128", "***@proxy:3128"),
        ("all_proxy", f"socks5h://me:{SECRET}/x@y@proxy", "socks5h://***@proxy"),
        ("HF_ENDPOINT", f"https://hub.example/?a=1&token={SECRET}", "https://hub.example/?a=1&token=***"),
        ("HF_HUB_USER_AGENT", f"mine hf_{SECRET * 3}", "mine hf_***"),
        ("TOKENIZERS_PARALLELISM", "false", "false"),
        ("OMP_NUM_THREADS", "3", "3"),
        ("CUDA_VISIBLE_DEVICES", "", ""),
        ("ACCELERATE_USE_CPU", "true", "true"),
    ],
)
def test_variables_are_shown_and_secrets_are_not(
    name: str, value: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    report = describe_environment()
    assert report["environment"][name] == shown
    assert SECRET not in json.dumps(report) and SECRET not in as_text(report)


def test_variables_of_other_programs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", SECRET)
    assert "DATABASE" not in describe_environment()["environment"]


def test_home_folder_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "somebody" / "cache"))
    report = describe_environment()
    assert report["caches"]["hub"]["path"] == "~/cache/hub"
    assert "somebody" not in json.dumps(report)


@pytest.mark.parametrize(
    "error", [ImportError("no"), OSError(f"libtorch.so of http://me:{SECRET}@host"), KeyError("x")]
)
def test_report_goes_on_where_torch_is_broken(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "torch":
                raise error

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    report = describe_environment()
    assert report["torch"]["state"].startswith(f"cannot be imported: {type(error).__name__}")
    assert report["versions"]["torch"] != "not installed"
    assert report["embedded_models"] and SECRET not in as_text(report)


def test_gpu_that_torch_does_not_see_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360 MiB, 550.54'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    torch = describe_environment()["torch"]
    assert torch["nvidia_smi"] == ["NVIDIA T4, 15360 MiB, 550.54"]
    assert "does not see the GPU" in torch["state"]


def test_devices_are_named_with_their_memory() -> None:
    device = SimpleNamespace(name="NVIDIA T4", major=7, minor=5)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_device_properties=lambda number: device,
        mem_get_info=lambda number: (15_000_000_000, 16_000_000_000),
    )
    mps = SimpleNamespace(is_available=lambda: False)
    found = env_report._devices(SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=mps)))
    assert found[1] == "cuda:1 NVIDIA T4, 15.0 GB free of 16.0 GB, compute capability 7.5"


def test_caches_are_where_the_libraries_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home" / "datasets" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "datasets" / "deep" / "rows").write_bytes(b"x" * 1000)
    (tmp_path / "home" / "datasets" / "link").symlink_to(tmp_path / "home")
    (tmp_path / "home" / "token").write_text(SECRET)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    report = describe_environment()
    assert report["caches"]["datasets"]["size_bytes"] == 1000
    assert report["caches"]["hub"]["path"] == str(tmp_path / "elsewhere")
    assert report["caches"]["hub"]["exists"] is False
    assert report["caches"]["hub"]["free_bytes"] > 0
    assert report["hub"]["token"].startswith("stored")
    monkeypatch.setattr(env_report, "CACHE_SECONDS", -1)
    assert set(describe_environment()["caches"]["datasets"]) >= {"size_at_least_bytes"}


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.KNOWN, "nowhere", ("nowhere-to-find", "demo"))
    monkeypatch.setattr(env_report, "PACKAGES", ("torch", "no-such-package"))
    report = describe_environment()
    assert report["extras"]["demo"]["nowhere-to-find"] == "not installed"
    assert report["versions"]["no-such-package"] == "not installed"


def test_variables_do_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_NOTE", "\x1b[2J\x07two\nlines")
    text = as_text(describe_environment())
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert "\nlines" not in text
