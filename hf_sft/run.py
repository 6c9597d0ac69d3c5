"""Fine-tune by a recipe: the whole job on one page. `python -m hf_sft.run RECIPE [key=value ...]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sft.console import say
from hf_sft.recipe import Recipe
from hf_sft.record import RunRecord


def fine_tune(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    callbacks: Sequence[Any] = (),
    overwrite: bool = False,
    with_probe: bool = False,
    trust_remote_code: bool = False,
) -> RunRecord:
    """Train, evaluate, save and document a model as the recipe says; what it leaves is in `recipe.output_dir`.

    recipe: a Recipe, the path of one, bundled:<name>, or its content as a dict.
    data: what a notebook has in memory instead of dataset.path: split -> datasets.Dataset or pandas.DataFrame.
    metrics: name -> f(predictions, references[, scores]) -> number, beside (or named function:<name> in) the recipe's.
    callbacks: transformers.TrainerCallback instances.
    overwrite: delete an earlier run in that folder first.
    with_probe: before training, solve a head on the pretrained features and record it as a baseline.
    The same call again goes on where it stopped, or returns the record of the finished run. SIGINT and SIGTERM (and
    run.max_hours) end it at the next step, after a checkpoint, with KeyboardInterrupt or SystemExit(143).

    With `hub`, the finished run is pushed; where that fails all is in the folder, and PushError holds the record.

    Raises HfSftError (RecipeError, DataError, ModelError, EnvironmentProblem) for whatever the user can mend.
    """
    recipe = as_recipe(recipe)
    started = time.perf_counter()
    from hf_sft import environment, job, ownership, results, room, run_directory
    from hf_sft.hub import around_run
    from hf_sft.training import fit, probe, tracking

    if with_probe:
        probe.refuse_stream(recipe)
    machine = environment.prepare_environment(recipe)
    asked = run_directory.describe_asked(recipe, data)
    finished = run_directory.finished_run(recipe, asked, overwrite=overwrite)
    if finished is not None:
        _tell(finished, with_probe=with_probe)
        around_run.finish(finished, recipe)
        return finished
    pinned, origins = around_run.begin(recipe, overwrite=overwrite, in_memory=data is not None)
    work = job.prepare(
        pinned,
        machine,
        data=data,
        functions=metrics or {},
        callbacks=callbacks,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
    )
    room_for_it = room.told_apart(work.recipe, parameters=work.parameters["total"])
    with room_for_it, ownership.owned_by_main_process(recipe.output_dir):
        run_directory.finished_run(recipe, asked, overwrite=overwrite)  # another may have finished here meanwhile
        directory = run_directory.open_run(work.recipe, asked, overwrite=overwrite)
        results.list_bad_rows(work, directory)
        work = around_run.make_ready(replace(work, origins=origins))
        with tracking.tracking(work, directory) as trackers:
            watching = [*callbacks, *around_run.callbacks(work, directory), trackers]
            trained = fit.train(work, directory, watching, with_probe=with_probe)
            found = results.evaluate(work, directory)
            results.save_model(work, directory, found)
            record = results.write_record(work, directory, trained, found, started=started)
            trackers.conclude(record)
    say(f"\n{record}")
    around_run.finish(record, work.recipe)
    return record


def _tell(finished: RunRecord, *, with_probe: bool) -> None:
    say(f"this run is finished already; --overwrite repeats it\n\n{finished}")
    if with_probe and not any("linear_probe" in found for found in finished.baselines.values()):
        say("no linear probe was measured in that run; --overwrite --with-probe repeats it with one")


def as_recipe(recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
    """The recipe itself, read from its path, or made from a dict."""
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.from_dict(dict(recipe)) if isinstance(recipe, Mapping) else Recipe.load(recipe)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `python -m hf_sft.run`; returns its exit code."""
    from hf_sft.cli import run_command

    return run_command(list(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
