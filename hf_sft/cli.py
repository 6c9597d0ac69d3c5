"""The command `hf-sft`. Each command is a few lines; what takes time to import is imported inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from hf_sft.cli_action import carry_out, help_printed, print_json, print_text, words_apart
from hf_sft.cli_cache import cache_commands
from hf_sft.cli_candidates import Candidates, ManyCandidates
from hf_sft.cli_push import push
from hf_sft.cli_run import RunCommand, run_here, start_processes
from hf_sft.cli_values import (
    MODEL,
    BatchSize,
    Columns,
    Options,
    TrustRemoteCode,
    read_mapping,
    read_pairs,
    read_task,
)
from hf_sft.console import escaped_json, prepare_streams, report_error
from hf_sft.errors import Finding, HfSftError, RecipeError

app = typer.Typer(
    name="hf-sft",
    help="Fine-tune a pretrained vision or text model by a YAML recipe.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print_text(installed("hf-sft"))
        raise typer.Exit


@app.command(no_args_is_help=True, cls=RunCommand, short_help="Train, evaluate, save and document a model.")
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, bundled:<name>, or hub:me/model.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys: training.num_train_epochs=1")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Start this many processes (one per device).")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in output_dir first.")] = False,
    with_probe: Annotated[
        bool, typer.Option("--with-probe", help="Record a head solved on the pretrained features as a baseline.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train, evaluate, save and document a model.

    Example: hf-sft run bundled:bert_sentiment training.num_train_epochs=1
    """
    flags = ["--overwrite"] * overwrite + ["--trust-remote-code"] * trust_remote_code
    flags += ["--with-probe"] * with_probe
    if processes > 1:
        raise typer.Exit(start_processes(recipe, overrides or [], flags, processes))
    options = {"overwrite": overwrite, "with_probe": with_probe, "trust_remote_code": trust_remote_code}
    raise typer.Exit(run_here(recipe, overrides or [], **options))


@app.command(no_args_is_help=True, short_help="Report mistakes and costs before a run.")
def check(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, bundled:<name>, or hub:me/model.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Stop before the model's weights are loaded.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Look at every row, not at 10,000 of each split.")] = False,
    with_probe: Annotated[
        bool, typer.Option("--with-probe", help="Solve a head on the model's features, for the advice on the strategy.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Look at recipe, data and model, and rehearse a few steps, before anything is spent. Exit code 2: errors.

    Example: hf-sft check recipe.yaml
    """

    def action() -> int:
        from hf_sft.recipe import Recipe

        try:  # mistakes of the recipe are known before anything heavy is imported
            Recipe.load(recipe, overrides or [])
        except RecipeError as error:
            if not as_json:
                raise
            errors = [vars(finding) for finding in error.findings]
            print_json({"recipe": recipe, "ok": False, "errors": errors, "warnings": []})
            return error.exit_code
        from hf_sft.commands.check import check

        with words_apart(as_json):
            report = check(
                recipe,
                overrides or [],
                fast=fast,
                full=full,
                with_probe=with_probe,
                trust_remote_code=trust_remote_code,
            )
        print_json(report.as_dict()) if as_json else print_text(str(report))
        return 0 if report.ok else 2

    carry_out(action)


@app.command(no_args_is_help=True, cls=ManyCandidates, short_help="Which model and strategy suit a recipe's data.")
def rank_models(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, bundled:<name>, or hub:me/model.")],
    candidates: Candidates,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Of the linear probe.")] = 5,
    rows: Annotated[int, typer.Option(min=2, help="Training rows that are looked at, at most.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ranking as JSON.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Probe each candidate on a sample of the training rows, frozen, and suggest one, with a strategy and the reason.

    Example: hf-sft rank-models recipe.yaml --candidates google-bert/bert-base-uncased timm/resnet18@random
    """

    def action() -> int:
        from hf_sft.recipe import Recipe

        Recipe.load(recipe, overrides or [])  # mistakes are known before anything heavy is imported
        from hf_sft.commands.rank_models import rank_models

        options: dict[str, Any] = {"folds": folds, "rows": rows, "trust_remote_code": trust_remote_code}
        with words_apart(True):
            found = rank_models(recipe, candidates, overrides or [], **options)
        print_json(found.as_dict()) if as_json else print_text(str(found))
        return 0 if found.ranked else 2

    carry_out(action)


@app.command(no_args_is_help=True, short_help="Metrics of a saved model on any data.")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help=MODEL)],
    data: Annotated[
        str | None, typer.Option(help="File, folder, Hub id, bundled:<name>; absent: the run's own.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which split; absent: test where there is one.")] = None,
    by: Annotated[str | None, typer.Option(help="A column whose values are evaluated apart.")] = None,
    columns: Columns = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Instead of the run's; may be repeated.")
    ] = None,
    label_map: Annotated[
        str | None, typer.Option(metavar="YAML", help="'{label of the data: label of the model}'; null drops one.")
    ] = None,
    options: Options = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the predictions (parquet) there.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    on_bad_row: Annotated[str, typer.Option(metavar="error|skip", help="Rows that cannot be used.")] = "error",
    batch_size: BatchSize = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Metrics with intervals of a saved model, per class and per slice; added to the record of its run.

    Example: hf-sft evaluate runs/bert_sentiment --split test --by domain
    """

    def action() -> int:
        from hf_sft.commands.evaluate import check_predictions_file, evaluate
        from hf_sft.commands.flags import said_with_flags

        if output is not None:
            check_predictions_file(output, overwrite=overwrite)
        with words_apart(as_json), said_with_flags(data=data is not None):
            found = evaluate(
                model,
                data=data,
                split=split,
                by=by,
                columns=read_pairs(columns, "--columns"),
                metrics=metrics or (),
                label_map=read_mapping(label_map, "--label-map"),
                options=read_pairs(options, "--option"),
                on_bad_row=cast("Literal['error', 'skip']", on_bad_row),
                batch_size=batch_size,
                trust_remote_code=trust_remote_code,
            )
            if output is not None:
                found.write_predictions(output, overwrite=overwrite)
        print_json(found.as_dict()) if as_json else print_text(str(found))
        return 0

    carry_out(action)


@app.command(no_args_is_help=True, short_help="Label a file, a folder or lines of text.")
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help=MODEL)],
    inputs: Annotated[
        str, typer.Argument(metavar="INPUT", help="csv, jsonl, parquet, txt, a folder of images; - for lines of text.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", help="csv, jsonl or parquet; - for jsonl on the screen.")
    ] = "-",
    columns: Columns = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="The best labels instead of the score of each.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of boxes those with a score above it; 0.5 unless given.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the added columns.")] = "",
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Probabilities by the temperature that hf-sft inspect has fitted.")
    ] = False,
    options: Options = None,
    batch_size: BatchSize = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """The label and the probability of every row, in the order of the input, whatever its size.

    Example: hf-sft predict runs/bert_sentiment reviews.csv -o labelled.csv
    """

    def action() -> int:
        from hf_sft.commands.predict import predict

        found = predict(
            model,
            inputs,
            output,
            columns=read_pairs(columns, "--columns"),
            top_k=top_k,
            threshold=threshold,
            batch_size=batch_size,
            options=read_pairs(options, "--option"),
            prefix=prefix,
            calibrated=calibrated,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
        )
        print(found, file=sys.stderr, flush=True)
        return 0

    carry_out(action)


@app.command(no_args_is_help=True, short_help="Write a recipe for a data set.")
def init(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="File, folder, Hub id, or bundled:<name>.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the recipe there, not to the screen.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Where the guess is wrong: text-classification, ...")] = None,
    name: Annotated[str | None, typer.Option(help="The configuration of a data set on the Hub.")] = None,
    embedded: Annotated[bool, typer.Option("--list", help="List embedded models, data and recipes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
) -> None:
    """Write a commented recipe for a data set: task, columns, problem, model and settings, each with its reason.

    Example: hf-sft init tickets.csv -o tickets.yaml
    """

    def action() -> int:
        from hf_sft.commands.init import list_embedded, write_recipe

        if embedded:
            print_text(list_embedded())
            return 0
        if data is None:
            raise RecipeError(Finding(place="DATA", expected="a data set, or --list", found="nothing"))
        text = write_recipe(data, output=output, task=read_task(task), force=force, name=name)
        if output is None:
            print_text(text.rstrip("\n"))
        return 0

    carry_out(action)


@app.command(short_help="Print the JSON Schema of a recipe.")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors and for other programs.

    Example: hf-sft schema > recipe.schema.json
    """

    def action() -> int:
        from hf_sft.commands.schema import as_text

        print_text(as_text().rstrip("\n"))
        return 0

    carry_out(action)


@app.command(no_args_is_help=True, short_help="Tables of one run or several.")
def show(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """The record of a run as tables; several runs side by side.

    Example: hf-sft show runs/a runs/b
    """

    def action() -> int:
        from hf_sft.commands.show import show

        found = show(runs)
        print_text(escaped_json(found.as_json()) if as_json else str(found))
        return 0

    carry_out(action)


@app.command(no_args_is_help=True, short_help="A report on what a run learned, and where it fails.")
def inspect(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="A finished run; several are compared.")],
    only: Annotated[str | None, typer.Option(metavar="A,B", help="Some analyses: errors,confidence,...")] = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows that are looked at where all would take long.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print the key figures as JSON.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Where a run errs, how sure it may be, what changed and what it looks at: report/index.html, figures and data.

    Several runs: what changed from the first to each of the others, on the same rows.

    Example: hf-sft inspect runs/bert_sentiment --only errors,confidence
    """

    def action() -> int:
        from hf_sft.commands.inspect import inspect

        names = [name.strip() for name in (only or "").split(",") if name.strip()]
        with words_apart(as_json):
            found = inspect(*runs, only=names, rows=rows, trust_remote_code=trust_remote_code)
        figures = {section.name: dict(section.key_figures) for section in found.sections}
        print_json(figures) if as_json else print_text(str(found))
        return 0 if found.ok else 1

    carry_out(action)


@app.command(short_help="What a bug report needs.")
def env(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Versions, devices, threads, caches: what a bug report needs.

    Example: hf-sft env
    """

    def action() -> int:
        from hf_sft.commands.env_report import as_text, describe_environment

        found = describe_environment()
        print_json(found) if as_json else print_text(as_text(found))
        return 0

    carry_out(action)


app.command(no_args_is_help=True, short_help="Put a finished run on the Hub.")(push)
app.add_typer(cache_commands(), name="cache", short_help="What is recorded of frozen layers.")


def run_command(arguments: list[str]) -> int:
    """`python -m hf_sft.run ARGUMENTS` -> exit code; the launchers start this."""
    command = typer.main.get_command(app)
    try:
        prepare_streams()
        with help_printed(arguments):
            result = command.main(["run", *arguments], prog_name="hf-sft", standalone_mode=True)
    except HfSftError as error:
        return report_error(error)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return int(result or 0)


def main() -> None:
    """Entry point of the command `hf-sft`."""
    try:
        prepare_streams()
        with help_printed(sys.argv[1:]):
            app()
    except HfSftError as error:
        sys.exit(report_error(error))
