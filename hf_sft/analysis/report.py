"""All analyses of a run, one after another: what cannot be shown says why, what fails takes nothing else down."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_sft.analysis import ANALYSES, FinishedRun
from hf_sft.analysis.blocks_seen import BlocksSeen
from hf_sft.analysis.comparison import compare_runs, told_apart
from hf_sft.analysis.depth import NAME, TITLE, show_depth
from hf_sft.analysis.files import write_files
from hf_sft.analysis.finished import first_line
from hf_sft.analysis.page import fragment, page
from hf_sft.analysis.predictions import Predictions, gone, judged, read_predictions
from hf_sft.analysis.section import Absent, Section
from hf_sft.console import say
from hf_sft.errors import DataError, Finding, HfSftError
from hf_sft.record import RunRecord
from hf_sft.summary import number, results, splits
from hf_sft.tables import Table, as_text

FIXED_SECONDS = 15.0  # reading model and data, drawing; measured with the embedded runs on two cores


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found. Prints its key figures in a terminal, shows itself whole in a notebook."""

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    folder: Path
    seconds: float
    file: str = "index.html"

    @property
    def ok(self) -> bool:
        """Whether every section was finished (or is absent with a reason)."""
        return not any(section.failed for section in self.sections)

    def __str__(self) -> str:
        rows = []
        for section in self.sections:
            figures = ", ".join(
                f"{name.replace('_', ' ')} {_short(value)}" for name, value in section.key_figures.items()
            )
            rows.append((section.title, figures or section.sentence))
        width = min(110, shutil.get_terminal_size((100, 24)).columns)
        table = as_text(Table(heads=("section", "what was found"), rows=rows, left=2, firm=1), width)
        return f"{self.title}\n\n{table}\n\n{self.folder / self.file} ({self.seconds:.0f} s)"

    def _repr_html_(self) -> str:
        return fragment(self.title, self.facts, self.sections)


def _short(value: float | int | str | None) -> str:
    return "-" if value is None else number(value) if isinstance(value, float) else str(value)


def look_inside(run: FinishedRun, names: Sequence[str]) -> Report:
    """The named analyses of a run, in the order of ANALYSES; written into its report folder and its record.

    All of them make index.html; some of them a page of their own, <name>_<name>.html, beside it.
    """
    started = time.perf_counter()
    predictions = read_predictions(run.record)
    say(describe_cost(run, names))
    sections = tuple(_section(run, predictions, name) for name in ANALYSES if name in names)
    title = f"{run.name}: {run.record.recipe['task']}"
    facts = (*_facts(run), *gone(run.record))
    folder = run.record.directory.report
    whole = len(sections) == len(ANALYSES)
    file = "index.html" if whole else f"{'_'.join(section.name for section in sections)}.html"
    write_files(folder, page(title, facts, sections), sections, file)
    found = {section.name: dict(section.key_figures) for section in sections if section.key_figures}
    record = RunRecord.load(run.path)  # what another command may have added since
    replace(record, inspection={**record.inspection, **found}).save()
    seconds = time.perf_counter() - started
    return Report(title=title, facts=facts, sections=sections, folder=folder, seconds=seconds, file=file)


def look_at_both(runs: Sequence[FinishedRun]) -> Report:
    """All runs side by side, and the first against each of the others.

    Written beside the first one's report, and into its record.
    """
    started = time.perf_counter()
    first, *others = runs
    names = told_apart(runs)
    predictions = read_predictions(first.record)
    try:
        seen = BlocksSeen(first, judged(predictions, first.record).split)
    except Absent as reason:
        expected = "a run whose rows can be compared one by one"
        raise DataError(Finding(place=str(first.path), expected=expected, found=str(reason))) from reason
    say(describe_cost_of_comparison(runs, names, len(predictions[seen.role])))
    pairs = tuple(
        compare_runs(
            first,
            run,
            predictions,
            read_predictions(run.record),
            names=(names[0], names[number]),
            features=seen.after,
            number=number,
        )
        for number, run in enumerate(others, 1)
    )
    try:
        together = show_depth(runs, names, seen)
    except Absent as reason:
        together = Section(name=NAME, title=TITLE, sentence=f"Not shown: {reason}.")
    sections = (together, *pairs)
    title = f"{', '.join(names[:-1])} and {names[-1]}"
    facts = tuple(f"{name}: {line}" for run, name in zip(runs, names, strict=True) for line in _facts(run))
    folder = first.record.directory.report / "comparison"
    write_files(folder, page(title, facts, sections), sections)
    found = {name: dict(one.key_figures) for name, one in zip(names[1:], pairs, strict=True)}
    record = RunRecord.load(first.path)
    earlier = record.inspection.get("comparisons", {})
    added = {"comparisons": {**earlier, **found}, together.name: dict(together.key_figures)}
    replace(record, inspection={**record.inspection, **added}).save()
    seconds = time.perf_counter() - started
    return Report(title=title, facts=facts, sections=sections, folder=folder, seconds=seconds)


def describe_cost(run: FinishedRun, names: Sequence[str]) -> str:
    """One line: what is looked at, on how many rows, and about how long that takes on the machine of the run."""
    sizes = {role: int(part["rows"]) for role, part in run.record.data.items() if isinstance(part, Mapping)}
    evaluated = sum(sizes.get(role, 0) for role in ("validation", "test"))
    each = run.record.timings.get("evaluate", 0.0) / max(evaluated, 1)
    judged = min(run.rows, sizes.get(run.judged_role, 0))
    chosen = [ANALYSES[name] for name in names]
    rows = sum(one.passes * judged for one in chosen)
    rows += sum(min(run.rows * many, sizes.get(role, 0)) for one in chosen for role, many in one.once.items())
    sampled = f"; models look at samples of up to {run.rows:,} rows (seed {run.seed})" if rows else ""
    about = _about(FIXED_SECONDS + rows * each)
    return f"inspect {run.name}: {', '.join(name for name in ANALYSES if name in names)}{sampled}; about {about}"


def describe_cost_of_comparison(runs: Sequence[FinishedRun], names: Sequence[str], rows: int) -> str:
    """The same of several runs, which have so many rows to compare and share one sample of them."""
    first = runs[0]
    each = [run.record.timings.get("evaluate", 0.0) / max(rows, 1) for run in runs]
    size = min(first.rows, rows)
    seconds = FIXED_SECONDS * len(runs) + (sum(each) + max(each)) * size
    told = f"{len(runs)} models, and the one before training, look at a sample of {size:,} rows (seed {first.seed})"
    return f"inspect {names[0]} against {', '.join(names[1:])}: {told}; about {_about(seconds)}"


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _section(run: FinishedRun, predictions: Mapping[str, Predictions], name: str) -> Section:
    """One analysis; a reason where there is none, and what went wrong where it failed."""
    analysis = ANALYSES[name]
    started = time.perf_counter()
    try:
        section = analysis.show(run, predictions)
    except Absent as reason:
        return Section(name=name, title=analysis.title, sentence=f"Not shown: {reason}.")
    except HfSftError as error:
        return Section(name=name, title=analysis.title, sentence=f"Not shown: {first_line(error)}.", failed=True)
    except Exception as error:  # whatever it is: the other sections are worth having, and this one says what happened
        file = run.record.directory.report / f"{name}_traceback.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(traceback.format_exc(), encoding="utf-8")
        what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        say(f"inspect: {name} failed ({what}); the traceback is in {file}")
        sentence = f"This analysis failed: {what}. The traceback is in {file.name}; please report it as a bug."
        return Section(name=name, title=analysis.title, sentence=sentence, failed=True)
    say(f"{analysis.title.lower()}: {time.perf_counter() - started:.1f} s")
    return section


def _facts(run: FinishedRun) -> tuple[str, ...]:
    record = run.record
    facts = [f"model {record.recipe['model']['name']}, data {record.recipe['dataset']['path']}"]
    for split in splits(record):
        values = [
            f"{result.metric} {number(result.value)}"
            + (f" ({number(result.interval[0])} to {number(result.interval[1])})" if result.interval else "")
            for result in results(record, split)
        ]
        facts.append(f"{split}: {', '.join(values)}")
    return (*facts, *(record.notes or ()))
