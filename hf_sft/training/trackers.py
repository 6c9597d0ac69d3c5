"""TensorBoard, Weights & Biases and MLflow, told the same: what is run, its losses and metrics, how it ended."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hf_sft.training.logged_config import flat

PARAMETERS = 100  # that MLflow takes at once
LONGEST = 500  # characters of a parameter; MLflow's servers differ in what they take
STEP = "train/global_step"


class Tracker(Protocol):
    """One place that a run is recorded in, on the main process alone."""

    def begin(self, name: str, config: Mapping[str, Any]) -> str | None:
        """Open it -> the id by which a later process goes on there, if any. Raises what its library raises."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def summarise(self, values: Mapping[str, float]) -> None: ...

    def end(self, *, finished: bool) -> None: ...


@dataclass
class TensorBoard:
    """Event files in `tensorboard/` of the run directory, or where TENSORBOARD_LOGGING_DIR says."""

    folder: Path
    known: str | None  # an id, where the run goes on
    config: Mapping[str, Any] = field(default_factory=dict)
    writer: Any = None

    def begin(self, name: str, config: Mapping[str, Any]) -> str | None:
        self.config = config
        self.folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or self.folder / "tensorboard")
        self.folder.mkdir(parents=True, exist_ok=True)
        return "begun"

    def _opened(self, step: int) -> Any:
        """When the first value comes: what an interrupted run wrote from that step on is not shown twice."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step if self.known else None)
            if not self.known:
                recipe = json.dumps(self.config, indent=2, ensure_ascii=False)
                self.writer.add_text("recipe", "\n".join(f"    {line}" for line in recipe.splitlines()), 0)
        return self.writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._opened(step).add_scalar(name, value, step)

    def summarise(self, values: Mapping[str, float]) -> None:
        """In the tab HPARAMS, so that runs can be sorted by them."""
        self._opened(0).add_hparams(flat(self.config), dict(values), run_name=".")

    def end(self, *, finished: bool) -> None:
        if self.writer is not None:
            self.writer.close()


@dataclass
class Wandb:
    """The run that is open in this process, or one of its own. Its output and the machine's folders are not sent."""

    folder: Path
    known: str | None
    run: Any = None
    own: bool = True

    def begin(self, name: str, config: Mapping[str, Any]) -> str | None:
        import wandb

        self.own, self.run = wandb.run is None, wandb.run
        if self.own:
            settings: dict[str, Any] = {"x_disable_meta": True, "disable_git": True}
            if "WANDB_CONSOLE" not in os.environ:
                settings["console"] = "off"
            known = getattr(wandb.Settings, "model_fields", settings)  # of an older version: what it knows
            settings = {key: value for key, value in settings.items() if key in known}
            again = {"id": self.known, "resume": "allow"} if self.known else {}
            project = os.environ.get("WANDB_PROJECT") or "hf-sft"
            self.run = wandb.init(project=project, name=name, settings=settings, **again)
        self.run.config.update(dict(config), allow_val_change=True)
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP, step_sync=True)
        return str(self.run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, STEP: step})

    def summarise(self, values: Mapping[str, float]) -> None:
        self.run.summary.update(dict(values))

    def end(self, *, finished: bool) -> None:
        if self.own:
            self.run.finish(exit_code=0 if finished else 1)


@dataclass
class Mlflow:
    """The run that is active in this process, or one of its own, in the experiment that MLflow's variables name."""

    folder: Path
    known: str | None
    own: bool = True
    last_step: int = 0

    def begin(self, name: str, config: Mapping[str, Any]) -> str | None:
        import mlflow

        self.own = mlflow.active_run() is None
        if self.own and self.known:
            with contextlib.suppress(mlflow.exceptions.MlflowException):  # it was deleted meanwhile
                return str(mlflow.start_run(run_id=self.known).info.run_id)
        if self.own:
            mlflow.start_run(run_name=name, tags={"mlflow.source.name": "hf-sft"})
        parameters = [(key, str(value)[:LONGEST]) for key, value in flat(config).items()]
        for start in range(0, len(parameters), PARAMETERS):
            mlflow.log_params(dict(parameters[start : start + PARAMETERS]))
        return str(mlflow.active_run().info.run_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        import mlflow

        self.last_step = step
        mlflow.log_metrics(dict(values), step=step)

    def summarise(self, values: Mapping[str, float]) -> None:
        import mlflow

        mlflow.log_metrics(dict(values), step=self.last_step)

    def end(self, *, finished: bool) -> None:
        import mlflow

        if self.own:
            mlflow.end_run("FINISHED" if finished else "FAILED")


TRACKERS: dict[str, Callable[[Path, str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}
