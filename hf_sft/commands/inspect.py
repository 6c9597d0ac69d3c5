"""Look inside a finished run: where it errs, how sure it may be, what changed in it, what it looks at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_sft.analysis import ANALYSES
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.report import Report, look_at_both, look_inside
from hf_sft.commands.show import show
from hf_sft.errors import Finding, RecipeError, nearest
from hf_sft.modeling.adapter_files import config_folder
from hf_sft.record import RunRecord, write_text

TEMPERATURE = "hf_sft_temperature"  # in the model's config


def inspect(
    run: str | Path | RunRecord,
    *others: str | Path | RunRecord,
    only: Sequence[str] | str = (),
    rows: int = 256,
    data: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Report:
    """A report on a finished run, written to `report/index.html` in its folder; in a notebook it shows itself.

    others: runs judged on the same rows, each compared with the first; `report/comparison/index.html` is then written.
    only: names of ANALYSES; absent: all. Some make a page of their own, as `report/errors.html`.
    rows: how many rows are looked at where all would take long (seeded).
    data: the splits of a run on data in memory, as they were given to fine_tune.
    Key figures are added to the record, and a temperature to the model, for `predict --calibrated`.
    Raises HfSftError for a folder without a finished run, and names of analyses that are not there.
    """
    names = _chosen([only] if isinstance(only, str) else only)
    if rows < 2:
        raise RecipeError(Finding(place="rows", expected="at least 2", found=str(rows)))
    finished = [
        FinishedRun(record=_record(one), rows=rows, data=data, trust_remote_code=trust_remote_code)
        for one in (run, *others)
    ]
    record = finished[0].record
    if others:
        _refuse_only(only)
        return look_at_both(finished)
    report = look_inside(finished[0], names)
    for section in report.sections:
        temperature = section.key_figures.get("temperature")
        if isinstance(temperature, float):
            _keep_temperature(record, temperature)
    return report


def _record(run: str | Path | RunRecord) -> RunRecord:
    return run if isinstance(run, RunRecord) else show(run).records[0]


def _refuse_only(only: Sequence[str] | str) -> None:
    if only:
        fix = "leave it out, or inspect one run"
        raise RecipeError(Finding(place="only", expected="one run to choose analyses of", found="several", fix=fix))


def _chosen(only: Sequence[str]) -> list[str]:
    wrong = [name for name in only if name not in ANALYSES]
    if wrong:
        fix = nearest(wrong[0], list(ANALYSES))
        raise RecipeError(Finding(place="only", expected="names of analyses", found=", ".join(wrong), fix=fix))
    return list(only) or list(ANALYSES)


def _keep_temperature(record: RunRecord, temperature: float) -> None:
    """Into the saved model's config, so that it goes where the model goes."""
    file = Path(config_folder(str(record.directory.model))) / "config.json"
    if file.is_file():
        content = json.loads(file.read_text(encoding="utf-8"))
        write_text(file, json.dumps({**content, TEMPERATURE: temperature}, indent=2) + "\n")
