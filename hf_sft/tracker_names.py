"""Experiment trackers that `training.report_to` may name, and the Python packages they come in."""

from __future__ import annotations

from typing import Any

from hf_sft.errors import nearest

OURS = ("tensorboard", "wandb", "mlflow")  # written to by training/trackers.py; the others by the Trainer
PACKAGES = {
    "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "azure_ml": "azureml", "comet_ml": "comet_ml",
    "neptune": "neptune", "trackio": "trackio", "codecarbon": "codecarbon", "clearml": "clearml", "dagshub": "dagshub",
    "flyte": "flytekit", "dvclive": "dvclive", "swanlab": "swanlab", "kubeflow": "kubeflow",
}  # fmt: skip


def listed(report_to: Any) -> list[str]:
    """The trackers that are named, `all` among them; none for `none` and nothing."""
    names = report_to if isinstance(report_to, list) else [report_to]
    return [name for name in names if name not in (None, "none")]


def problem_with_trackers(report_to: Any) -> dict[str, str] | None:
    """What is wrong with training.report_to (keys of errors.Finding), or None."""
    for name in listed(report_to):
        if isinstance(name, str) and name not in PACKAGES and name != "all":
            fix = nearest(str(name), PACKAGES)
            return {"expected": "experiment trackers, all or none", "found": str(name), "fix": fix}
    return None
