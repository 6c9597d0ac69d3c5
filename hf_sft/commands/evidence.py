"""What is known of a recipe's rows and model, and what advice on its strategy follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from accelerate import PartialState
from numpy.typing import NDArray

from hf_sft.advice import Advice, Evidence, advise, agrees, rows_per_class
from hf_sft.errors import HfSftError
from hf_sft.job import Job
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.modeling.batch_norm import pretrained_norms
from hf_sft.modeling.build import Opened
from hf_sft.modeling.convex import METHODS
from hf_sft.modeling.feature_shift import watching
from hf_sft.modeling.folds import choose_rows
from hf_sft.modeling.old_head import read_old_head
from hf_sft.recipe import Recipe
from hf_sft.recipe_tuning import Tuning
from hf_sft.tasks.load import TaskData
from hf_sft.training.activation_cache import replaying
from hf_sft.training.cache_plan import Plan, decide
from hf_sft.training.held_out_probe import HeldOut, deal_rows, features_of, plain_rows, probe_held_out
from hf_sft.training.probe import probed_splits, solves

MEASURED = ("single_label", "multi_label", "regression")  # where the numbers of rows were found that advice rests on
PROBED_ROWS, FOLDS = 1_000, 5  # of a check
SHIFT_ROWS = 64


def count_rows_per_class(found: TaskData) -> float:
    """Of the training rows; see advice.rows_per_class."""
    entries = found.splits["train"].entries
    assert entries is not None
    names: Counter[str] = Counter()
    if found.labels.problem != "regression":
        names.update(name for entry in entries for name in ([entry] if isinstance(entry, str) else entry))
    return rows_per_class(names, len(entries), found.labels.problem)


def evidence_of(
    recipe: Recipe,
    found: TaskData,
    per_class: float,
    *,
    work: Job | None = None,
    held_out: HeldOut | None = None,
    entropy: float | None = None,
    shift: float | None = None,
    known: Sequence[str] | None = None,
) -> Evidence:
    """work: the recipe's job, once its model is there. known: the label names that the checkpoint brings, if any."""
    names = found.labels.names
    return Evidence(
        rows_per_class=per_class,
        classes=len(names) if found.labels.problem == "single_label" else None,
        gained=held_out.gained if held_out else None,
        entropy=entropy,
        shift=shift,
        layers=None if work is None else sum(block.is_layer for block in find_blocks(work.built.model)),
        random=recipe.model.weights == "random",
        solvable=found.labels.problem in METHODS,
        kept_head=known is not None and set(known) == set(names) and len(known) == len(names),
    )


def advise_early(recipe: Recipe, found: TaskData, known: Sequence[str] | None) -> Advice | None:
    """From the rows alone, before weights are loaded; None for a stream, whose rows are not known."""
    if "train" not in found.splits or found.labels.problem not in MEASURED:
        return None
    return advise(evidence_of(recipe, found, count_rows_per_class(found), known=known))


def advise_on(work: Job, opened: Opened, *, probed: bool, trust_remote_code: bool = False) -> Advice | None:
    """From rows and model; with a linear probe where one is asked for, or where its features are recorded already."""
    if "train" not in work.data.splits or work.labels.problem not in MEASURED:
        return None
    plan = None
    if not probed and solves(work.recipe):
        plan = _recorded(work)
    held_out = entropy = shift = None
    if (probed and work.labels.problem in METHODS) or plan:
        held_out, features = _probe(work, plan)
        old = read_old_head(work.recipe, work.task, opened, trust_remote_code=trust_remote_code)
        entropy = old.entropy(features) if old and features is not None else None
        shift = None if features is None else shift_of(work)
    return advise(
        evidence_of(
            work.recipe,
            work.data,
            count_rows_per_class(work.data),
            work=work,
            held_out=held_out,
            entropy=entropy,
            shift=shift,
            known=opened.known,
        )
    )


def shift_of(work: Job) -> float | None:
    """How far the features of a few training rows lie from those of pretraining; None where nothing tells.

    Raises HfSftError where the model gives no features.
    """
    model, train = work.built.model, work.inputs["train"]
    norms = pretrained_norms(model, work.built.new, frozen=())
    if work.recipe.model.weights == "random" or train.targets is None or not norms:
        return None
    model.to(PartialState().device)
    with watching(norms) as seen:
        features_of(work, plain_rows(train, choose_rows(train.targets, SHIFT_ROWS, seed=work.recipe.seed)))
    return seen.shift()


def _recorded(work: Job) -> Plan | None:
    """The plan of a solved head whose features all lie there already."""
    try:
        plan = decide(work, probed=probed_splits(work.recipe, asked=False))
    except HfSftError:  # no room for more, or nothing to keep: the run will say so
        return None
    return plan if plan is not None and not plan.missing else None


def _probe(work: Job, plan: Plan | None) -> tuple[HeldOut | None, NDArray | None]:
    """The probe, and its features; both None where model or rows allow none: advice is no error."""
    seed, problem, train = work.recipe.seed, work.labels.problem, work.inputs["train"]
    assert train.targets is not None
    try:
        chosen = choose_rows(train.targets, PROBED_ROWS, seed=seed)
        targets = train.targets[chosen]
        folds = deal_rows(targets, problem, folds=FOLDS, seed=seed)
        if plan is None:
            work.built.model.to(PartialState().device)
            features = features_of(work, plain_rows(train, chosen))
        else:
            with replaying(work, plan) as replayed:
                features = features_of(replayed, replayed.inputs["train"])[chosen]
        return probe_held_out(work, features, targets, folds), features
    except HfSftError:
        return None, None


def in_words(advice: Advice | None, tuning: Tuning) -> list[str]:
    """One note: what would suit better, or that the recipe's strategy suits."""
    if advice is None:
        return []
    if agrees(tuning.model_dump(), advice):
        return [f"advice: strategy {tuning.strategy} suits these data: {advice.reason}"]
    return [f"advice: {advice} may do better than strategy {tuning.strategy}: {advice.reason}"]
