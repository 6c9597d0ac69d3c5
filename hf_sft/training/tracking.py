"""`training.report_to`: the trackers of a run, opened before it trains and closed however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import TrainerCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_sft.console import say
from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.packages import require_package
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory, RunRecord, write_text
from hf_sft.secrets import mask
from hf_sft.tracker_names import OURS, PACKAGES, listed
from hf_sft.training.logged_config import describe_job, name_run, summarise
from hf_sft.training.trackers import TRACKERS, Tracker

if TYPE_CHECKING:
    from hf_sft.job import Job

IDS = "trackers.json"  # beside the checkpoints: tracker -> the id by which a run goes on there


def check_trackers(recipe: Recipe) -> None:
    """Raises MissingExtraError for a tracker that is not installed."""
    for name in listed(recipe.training.get("report_to")):
        if name != "all":
            require_package(PACKAGES[name], "training.report_to")


def left_to_trainer(report_to: Any) -> list[str]:
    """The trackers that the Trainer itself writes to."""
    return [name for name in _named(report_to) if name not in OURS]


def _named(report_to: Any) -> list[str]:
    """Without `all`, which means what is installed."""
    names = listed(report_to)
    return get_available_reporting_integrations() if "all" in names else names


class Tracking(TrainerCallback):
    """Hands on what is logged in training. A tracker that fails is left out from there on: the run is worth more."""

    def __init__(self, trackers: dict[str, Tracker]):
        self.trackers = trackers

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        values = {_renamed(name): float(value) for name, value in (logs or {}).items() if _is_number(value)}
        if values:
            self._tell(lambda tracker: tracker.log(values, state.global_step))

    def conclude(self, record: RunRecord) -> None:
        """The final metrics of the run."""
        self._tell(lambda tracker: tracker.summarise(summarise(record)))

    def end(self, *, finished: bool) -> None:
        self._tell(lambda tracker: tracker.end(finished=finished))

    def _tell(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                action(tracker)
            except Exception as error:  # whatever a service or its library comes up with hours into a run
                del self.trackers[name]
                say(f"{name} is told nothing more: {_first_line(error)}")


@contextmanager
def tracking(job: Job, directory: RunDirectory) -> Iterator[Tracking]:
    """The trackers that the recipe names, told of the job; empty where it names none of ours, and on other ranks.

    Raises EnvironmentProblem where one cannot be opened, as for want of a key or a server.
    """
    names = [name for name in _named(job.recipe.training.get("report_to")) if name in OURS]
    if not names or not PartialState().is_main_process:
        yield Tracking({})
        return
    told = Tracking(_begin(names, job, directory))
    try:
        yield told
    except BaseException:
        told.end(finished=False)
        raise
    told.end(finished=True)


def _begin(names: list[str], job: Job, directory: RunDirectory) -> dict[str, Tracker]:
    known = _known_ids(directory.checkpoints / IDS)
    ids: dict[str, str | None] = {}
    begun: dict[str, Tracker] = {}
    config, title = describe_job(job), name_run(job)
    for name in names:
        tracker = TRACKERS[name](directory.path, known.get(name))
        try:
            ids[name] = tracker.begin(title, config)
        except Exception as error:  # each library has its own; all mean that nothing would be recorded
            Tracking(begun).end(finished=False)
            expected, fix = f"{name} ready to record", f"do what {name} asks for, or leave it out"
            finding = Finding(place="training.report_to", expected=expected, found=_first_line(error), fix=fix)
            raise EnvironmentProblem(finding) from error
        begun[name] = tracker
    write_text(directory.checkpoints / IDS, json.dumps(ids))
    return begun


def _known_ids(file: Path) -> Mapping[str, str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _renamed(name: str) -> str:
    """As the Trainer's own integrations call it: `eval/loss`, `train/loss`."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _first_line(error: Exception) -> str:
    return mask((str(error).strip().splitlines() or [type(error).__name__])[0])
