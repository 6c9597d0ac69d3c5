"""Everything that can be known of a recipe before anything is spent: its sense, its data, its model, a rehearsal."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_sft import environment, job, run_directory, sense
from hf_sft.advice import Advice
from hf_sft.commands.evidence import advise_early, advise_on, in_words
from hf_sft.console import overheard
from hf_sft.data.bad_rows import looked_at
from hf_sft.data.quality import compare_splits, conflicting, label_findings
from hf_sft.errors import Finding, HfSftError
from hf_sft.hub import preflight
from hf_sft.job import Job
from hf_sft.job_notes import tuning_notes
from hf_sft.modeling.block_table import block_table
from hf_sft.modeling.build import Opened, open_model
from hf_sft.modeling.convex import METHODS
from hf_sft.modeling.parameter_groups import describe
from hf_sft.recipe import Recipe
from hf_sft.recipe_tuning import Gradual
from hf_sft.rehearsal import Rehearsal, rehearse
from hf_sft.row_pictures import save_seen
from hf_sft.run import as_recipe
from hf_sft.tables import Table
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import TaskData, load_data
from hf_sft.tasks.objective import check_objective, describe_penalty
from hf_sft.training.arguments import fill_training
from hf_sft.training.global_batch import describe_batch
from hf_sft.training.learning_rates import default_learning_rate
from hf_sft.training.probe import notes, refuse_problem, refuse_stream, solves, warms

MOST_ROWS = 10_000  # looked at in each split, unless all are asked for
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """errors stop a run, warnings do not. data: split -> rows, labels and what was seen; model: words by topic.

    blocks: what trains, block by block. rehearsal: what the run would take; None where it was not come to.
    advice: the strategy that suits rows and model; None where it cannot be told.
    not_looked_at: what an error or --fast left out.
    """

    recipe: str
    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    blocks: Table | None = None
    rehearsal: Rehearsal | None = None
    advice: Advice | None = None
    notes: tuple[str, ...] = ()
    not_looked_at: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.errors

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "recipe": self.recipe,
            "ok": self.ok,
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.warnings],
            "data": dict(self.data),
            "model": dict(self.model),
            "blocks": self.blocks and [dict(zip(self.blocks.heads, row, strict=True)) for row in self.blocks.rows],
            "rehearsal": self.rehearsal and self.rehearsal.as_dict(),
            "advice": self.advice and self.advice.as_dict(),
            "notes": list(self.notes),
            "not_looked_at": list(self.not_looked_at),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        from hf_sft.commands import check_report

        return check_report.as_text(self)

    def _repr_html_(self) -> str:
        from hf_sft.commands import check_report

        return check_report.as_html(self)


class _Notebook:
    """What was found so far. An error in one part does not keep the others from being looked at."""

    def __init__(self) -> None:
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []
        self.notes: list[str] = []
        self.left_out: list[str] = []
        self.advice: Advice | None = None

    def attempt(self, action: Callable[[], T]) -> T | None:
        """What the action returns; None after an error that the user can mend, which is noted."""
        try:
            return action()
        except HfSftError as error:
            self.errors += error.findings or (Finding(place="recipe", found=str(error)),)
            return None


def check(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    fast: bool = False,
    full: bool = False,
    with_probe: bool = False,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    trust_remote_code: bool = False,
) -> CheckReport:
    """Look at a recipe, its data and its model, and rehearse a few steps; nothing is left in output_dir.

    fast: stop before weights are loaded. full: look at every row, not at most 10,000 of each split.
    with_probe: the advice on the strategy looks at a linear probe too, one pass over at most 1,000 rows.
    data, metrics: as for fine_tune. What is wrong is in the report, not raised.
    """
    started, book = time.perf_counter(), _Notebook()
    name = str(recipe) if isinstance(recipe, (str, Path)) else "recipe"
    facts: dict[str, Any] = {}
    words: dict[str, str] = {}
    rehearsal = blocks = None
    with overheard():
        read = book.attempt(
            lambda: Recipe.load(recipe, overrides) if isinstance(recipe, (str, Path)) else as_recipe(recipe)
        )
        if read is None:
            book.left_out.append("data and model: the recipe comes first")
        else:
            facts, words, blocks, rehearsal = _look(
                read,
                book,
                fast=fast,
                full=full,
                probed=with_probe,
                data=data,
                functions=metrics or {},
                trust=trust_remote_code,
            )
            book.notes += in_words(book.advice, read.tuning)
    return CheckReport(
        recipe=name,
        errors=tuple(dict.fromkeys(book.errors)),
        warnings=tuple(dict.fromkeys(book.warnings)),
        data=facts,
        model=words,
        blocks=blocks,
        rehearsal=rehearsal,
        advice=book.advice,
        notes=tuple(dict.fromkeys(book.notes)),
        not_looked_at=tuple(book.left_out),
        seconds=time.perf_counter() - started,
    )


def _look(
    recipe: Recipe, book: _Notebook, *, fast: bool, full: bool, probed: bool, data: Any, functions: Any, trust: bool
) -> tuple[dict[str, Any], dict[str, str], Table | None, Rehearsal | None]:
    environment.silence_libraries()
    task = TASKS[recipe.task]
    book.notes += recipe.notices
    machine = book.attempt(lambda: environment.prepare_environment(recipe))
    book.notes += machine.notes if machine else ()
    book.attempt(lambda: _look_at_folder(recipe, data, book))
    book.attempt(lambda: job.check_packages(recipe))
    target = book.attempt(lambda: preflight.look(recipe)) if recipe.hub is not None else None
    book.notes += [] if target is None else [target.words]
    if machine is not None:
        book.attempt(lambda: job.check_batch(recipe, machine))
    if probed:
        book.attempt(lambda: refuse_stream(recipe))
    found = book.attempt(lambda: load_data(recipe, task, data))
    opened = book.attempt(lambda: open_model(recipe, task, trust_remote_code=trust))
    facts: dict[str, Any] = {}
    metrics = None
    if found is not None:
        book.attempt(lambda: job.check_validation(recipe, found))
        book.attempt(lambda: refuse_problem(recipe, found.labels.problem, asked=probed))
        penalty = book.attempt(lambda: check_objective(recipe, task, found))
        book.notes += describe_penalty(penalty, found.labels) if penalty else []
        metrics = book.attempt(lambda: job.find_metrics(recipe, found, functions, trust))
        facts = _look_at_rows(recipe, found, opened, book, full=full)
    if opened is not None:
        book.warnings += sense.learning_rate(recipe, opened.config)
        book.warnings += sense.queries(opened.config, facts)
        errors, warnings = sense.vocabulary(opened)
        book.errors, book.warnings = book.errors + errors, book.warnings + warnings
    if found is not None and opened is not None and machine is not None:
        book.warnings += sense.same_but_for_spelling(opened, found.labels)
        book.warnings += book.attempt(lambda: _look_at_steps(recipe, found, opened, machine.processes)) or []
    if found is not None and opened is not None:
        book.advice = advise_early(recipe, found, opened.known)
    if book.errors:
        book.left_out.append("the model's weights and a rehearsal: the errors come first")
        return facts, {}, None, None
    if fast:
        book.left_out.append("the model's weights and a rehearsal (--fast)")
        return facts, {}, None, None
    assert machine is not None and found is not None and opened is not None and metrics is not None
    work = book.attempt(lambda: job.assemble(recipe, machine, found, metrics, opened, trust_remote_code=trust))
    if work is None:
        book.left_out.append("a rehearsal: the errors come first")
        return facts, {}, None, None
    book.advice = advise_on(work, opened, probed=probed, trust_remote_code=trust)
    seen = book.attempt(lambda: _draw_seen(work, _called(recipe)))
    book.notes += [seen] if seen else []
    book.notes += notes(recipe, work.built)
    book.notes += tuning_notes(work.recipe, work.rules, work.inputs["train"].size, machine.processes, work.built)
    return facts, _describe_model(work, recipe.training), _blocks(work), book.attempt(lambda: rehearse(work))


def _blocks(work: Job) -> Table:
    """What learns, block by block."""
    training, tuning = work.recipe.training, work.recipe.tuning
    return block_table(
        work.built.model,
        work.rules,
        learning_rate=training["learning_rate"],
        weight_decay=training.get("weight_decay", 0.0),
        unit=(tuning.gradual or Gradual()).unit,
        solved=solves(work.recipe),
    )


def _draw_seen(work: Job, name: str) -> str:
    """Where rows are drawn, in words: in a folder of this check alone. A disk that takes no picture is no error."""
    if work.task.draw is None:
        return ""
    try:
        return save_seen(work, Path(tempfile.mkdtemp(prefix="hf_sft_check_")) / f"{name}.png")
    except OSError as error:
        return f"no picture of training rows: {error.strerror or error}"


def _called(recipe: Recipe) -> str:
    return Path(recipe.output_dir).name or "run"


def _look_at_folder(recipe: Recipe, data: Any, book: _Notebook) -> None:
    asked = run_directory.describe_asked(recipe, data)
    if run_directory.finished_run(recipe, asked, overwrite=False) is not None:
        book.notes.append(f"{recipe.output_dir} holds this very run, finished: run prints its table")


def _look_at_rows(
    recipe: Recipe, found: TaskData, opened: Opened | None, book: _Notebook, *, full: bool
) -> dict[str, Any]:
    """Facts per split; what is odd goes into the notebook."""
    task, facts, inspections, counts = TASKS[recipe.task], {}, [], {}
    problem = task.problems[found.labels.problem]
    for role, part in found.splits.items():
        positions = looked_at(len(part.split), None if full else MOST_ROWS)
        seen = task.inspect(role, part.split, recipe, positions)
        inspections.append(seen)
        book.warnings += seen.warnings
        facts[role] = {"rows": len(part.split), "looked_at": len(seen.positions), **seen.facts}
        if part.entries is not None and found.labels.problem != "regression":
            counts[role] = Counter(_names(part.entries))
            facts[role] |= {"labels": {name: counts[role][name] for name in found.labels.names}}
            facts[role]["counted"] = problem.counted
            if problem.inspect_labels is not None:
                more, findings = problem.inspect_labels(role, list(part.entries), part.split.row_ids, found.labels)
                facts[role] |= more
                book.warnings += findings
            different = conflicting(seen, part.entries[seen.positions])
            book.warnings += [different] if different else []
        if opened is not None and task.full_lengths is not None and task.longest_input is not None:
            lengths = task.full_lengths(part.split.rows.select(positions)[:], opened.processor, recipe)
            limit = opened.processor.model_max_length
            if not task.cuts:
                facts[role] |= sense.windows(lengths, limit)
                facts[role]["longest_rows"] = part.split.row_ids[positions[np.argsort(-lengths)[:3]]].tolist()
                continue
            cut, findings = sense.truncation(lengths, limit, task.longest_input(opened.processor, opened.config))
            facts[role] |= cut
            book.warnings += findings if role == "train" else []
    book.warnings += compare_splits(inspections)
    if "train" in counts:
        book.warnings += label_findings(counts, found.labels.problem)
    for note in found.notes:
        if note.startswith("warning: "):
            what = note.removeprefix("warning: ")
            book.warnings.append(
                Finding(place=f"dataset.columns.{task.target}", expected="labels with rows to learn from", found=what)
            )
        else:
            book.notes.append(note)
    return facts


def _names(entries: Any) -> list[str]:
    return [name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)]


def _look_at_steps(recipe: Recipe, found: TaskData, opened: Opened, processes: int) -> list[Finding]:
    if solves(recipe):
        return []
    rows = len(found.splits["train"].split) if "train" in found.splits else None
    rate, _ = default_learning_rate(opened.config, recipe.tuning.strategy, random=False, optimizer="")
    training = fill_training(
        recipe,
        learning_rate=rate,
        rows=rows,
        processes=processes,
        validates="validation" in found.splits,
        task_defaults=TASKS[recipe.task].training_defaults,
    )
    return sense.warm_up(training, rows, processes)


def _describe_model(work: Job, given: Mapping[str, Any]) -> dict[str, str]:
    _, _, trains = describe(work.built.model)
    rate = work.recipe.training["learning_rate"]
    _, why = default_learning_rate(
        work.built.model.config, work.recipe.tuning.strategy, random=work.recipe.model.weights == "random", optimizer=""
    )
    words = {"weights": work.built.report, "trains": trains.removeprefix("training ")}
    if solves(work.recipe):
        words["head"] = f"solved by {METHODS[work.labels.problem].name}, no steps"
    else:
        words["learning rate"] = f"{rate:g}" + ("" if "learning_rate" in given else f" ({why})")
        if batch := describe_batch(work.recipe, work.environment.processes):
            words["batch"] = batch
    if warms(work.recipe):
        words["warm start"] = f"the head is solved by {METHODS[work.labels.problem].name} before the first step"
    words["machine"] = str(work.environment)
    if work.task.length is not None:
        how = "cut at" if work.task.cuts else "read in windows of"
        words["texts"] = f"{how} {work.built.processor.model_max_length} tokens"
    return words
