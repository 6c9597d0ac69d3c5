"""The thin wrapper around the HF Trainer: our loss, our order of rows, our groups, our evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hf_sft.data.labels import Labels
from hf_sft.data.rows import Rows as RowSet
from hf_sft.errors import EnvironmentProblem, Finding, RecipeError
from hf_sft.evaluation import Evaluator, model_inputs
from hf_sft.modeling.parameter_groups import parameter_groups
from hf_sft.modeling.tuning import Rule
from hf_sft.recipe import Recipe
from hf_sft.recipe_tuning import Gradual
from hf_sft.tasks.task import BESIDE_INPUTS, Penalty, Problem
from hf_sft.training import averaging
from hf_sft.training.arguments import DROPS_OPTIM_ARGS, make_optimizer, read_optim_args
from hf_sft.training.callbacks import EpochLog
from hf_sft.training.checkpoints import mark_complete, newest_complete
from hf_sft.training.gradual import Turns
from hf_sft.training.order import EpochOrder, classes_to_balance
from hf_sft.training.recording import ROW, Recorder
from hf_sft.training_keys import OPTIMIZERS


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The split that chooses: its rows, their lengths and targets."""

    rows: RowSet
    lengths: NDArray
    targets: NDArray


def measure(evaluator: Evaluator, model: Any, split: Validation, labels: Labels) -> dict[str, float]:
    """Loss and metrics of a model on the split, thresholds chosen on it first where the problem has them."""
    rows = evaluator.predict(model, split.rows, split.lengths, labels, keep_scores=evaluator.reads_scores)
    if evaluator.problem.calibrate is not None:
        labels = evaluator.problem.calibrate(rows["scores"], split.targets, labels)
    return evaluator.measure(rows, split.targets, labels)


def refuse_sharded(recipe: Recipe) -> None:
    """Raises RecipeError for settings that need all weights on every process, which FSDP and DeepSpeed share out."""
    tuning = recipe.tuning
    wanted = {"ema": tuning.ema is not None, "wise_ft": tuning.wise_ft, "strategy": tuning.strategy == "gradual"}
    expected, fix = "whole weights on every process", "leave it out, or run without FSDP and DeepSpeed"
    places = [f"tuning.{key}" for key, asked in wanted.items() if asked]
    places += ["inspect.record"] if recipe.inspect.record else []
    findings = [Finding(place=place, expected=expected, found="weights in shards", fix=fix) for place in places]
    if findings:
        raise RecipeError(findings)


class LossNotFinite(EnvironmentProblem):
    """The training loss became infinite or no number. positions: rows of train in the optimizer step that did it."""

    def __init__(self, loss: float, trainer: SftTrainer):
        self.step = trainer.state.global_step + 1
        self.loss = loss
        self.learning_rate = trainer.optimizer.param_groups[0]["lr"] if trainer.optimizer else math.nan
        self.positions = [] if trainer.order is None else trainer.order.rows_of_step(trainer.state.global_step)
        super().__init__(
            Finding(
                place=f"step {self.step}",
                expected="a finite training loss",
                found=f"{loss} at learning rate {self.learning_rate:.2e}",
                fix="lower training.learning_rate, set training.max_grad_norm: 1.0, or run.precision: fp32",
            )
        )


class SftTrainer(Trainer):
    """transformers.Trainer, told how a Problem is trained and read.

    - The loss is the sum of item losses over the number of items (with class weights: the sum of their weights) of the
      whole optimizer step: over micro-batches, ragged ones too, and over processes (transformers#47688).
    - Rows come in `EpochOrder`, so that a resumed epoch sees the rows it has not seen.
    - Evaluation is ours: by length, in the order of the data, the same on any number of processes.
    - Checkpoints hold the model's own parameter names, so that they reload whole (transformers#43701).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        arguments: TrainingArguments,
        recipe: Recipe,
        problem: Problem,
        penalty: Penalty,
        labels: Labels,
        rules: Mapping[str, Rule],
        frozen: Sequence[nn.Module],
        train_rows: Any,
        train_lengths: NDArray | None,
        collate: Callable[[Sequence[Any]], dict[str, Any]],
        evaluator: Evaluator,
        validation: Validation | None,
        callbacks: Sequence[Any],
        recorder: Recorder | None = None,
    ):
        self.recipe = recipe
        self.problem = problem
        self.penalty = penalty
        self.labels = labels
        self.rules = rules
        self.evaluator = evaluator
        self.validation = validation
        self.recorder = recorder
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=train_rows,
            eval_dataset=validation.rows if validation else None,
            callbacks=list(callbacks),
        )
        classes = classes_to_balance(recipe, train_rows)
        self.order = None if train_lengths is None else self._order(train_lengths, classes)
        self.add_callback(EpochLog(self.order))
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            refuse_sharded(recipe)
        several = arguments.world_size > 1
        unit = (recipe.tuning.gradual or Gradual()).unit
        self.turns = Turns(model, rules, frozen, unit=unit, several=several)
        self.add_callback(self.turns)
        self.average: averaging.WeightAverage | None = None
        if recipe.tuning.ema is not None:
            self.average = averaging.WeightAverage(model, rules, setting=recipe.tuning.ema, several=several)
            self.add_callback(self.average)
        self.losses = torch.zeros(2, device=self.args.device)  # sum of item losses and items since the last log
        self.loss_is_scaled_for_ga = True  # compute_loss has divided by the items of the whole step

    # rows

    def _order(self, lengths: NDArray, classes: NDArray | None = None) -> EpochOrder:
        processes = self.args.world_size
        batch = self.args.per_device_train_batch_size * processes
        return EpochOrder(
            lengths,
            global_batch_size=batch * self.args.gradient_accumulation_steps,
            round_size=batch if processes > 1 else 1,
            seed=self.recipe.seed,
            classes=classes,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder | None:
        return self.order

    def _run_epoch(self, *arguments: Any, **settings: Any) -> None:
        """Skipped where a resumed run had come to its end: the Trainer would go on until its next check."""
        saved: Any = self.state.stateful_callbacks  # class name -> state, as the checkpoint holds it
        if saved["TrainerControl"]["args"]["should_training_stop"] and self.recipe.resume != "extend":
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **settings)

    # loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        items = sum((self.problem.count(batch, self.penalty) for batch in batch_samples), torch.zeros(())).to(device)
        items = self.accelerator.reduce(items) if self.args.world_size > 1 else items
        return torch.where(items > 0, items, torch.ones_like(items))  # of masks all may be cropped away

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        for module in self.turns.frozen:
            module.training = False
        batch = {name: inputs.pop(name) for name in BESIDE_INPUTS if name in inputs}
        positions = inputs.pop(ROW, None)
        outputs = model(**model_inputs(inputs, self.args.device, self.evaluator.channels_last))
        total, items = self.problem.objective(outputs, batch, self.penalty)
        if self.recorder and self.order is not None:
            self.recorder.see_rows(self.order.epoch, positions, outputs, batch)
        self.losses = self.losses + torch.stack([total.detach(), items.to(total)])
        if not torch.isfinite(total):
            raise LossNotFinite(float(total.detach()), self)
        loss = total / num_items_in_batch * self.args.world_size  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *arguments: Any, **settings: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **settings)
        self.turns.drop_gradients()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The training loss is the mean over the items since the last log, not over steps of which one is ragged."""
        if "loss" in logs:
            total, items = self.accelerator.reduce(self.losses).tolist()
            logs = {**logs, "loss": total / items if items else math.nan, "items": items}
            self.losses = torch.zeros_like(self.losses)
            if self.recorder:
                self.recorder.norms.keep(self.state.global_step, float(self.state.epoch or 0))
        super().log(logs, start_time)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called once a step, when all its gradients are there, unscaled and clipped."""
        total = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.recorder:
            self.recorder.norms.see(total)
        return total

    # optimizer

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        target: Any = self.model if model is None else model
        groups = parameter_groups(
            target, self.rules, learning_rate=self.args.learning_rate, weight_decay=self.args.weight_decay
        )
        name, optim_args = self.recipe.training.get("optim"), self.recipe.training.get("optim_args")
        if name in OPTIMIZERS:
            self.optimizer = make_optimizer(name, optim_args, groups, self.args)
        else:
            try:
                kind, settings = self.get_optimizer_cls_and_kwargs(self.args, target)
                if self.args.optim in DROPS_OPTIM_ARGS:
                    settings |= read_optim_args(optim_args)
                self.optimizer = kind(groups, **settings)
            except (ImportError, TypeError, ValueError) as error:
                expected = "an optimizer that is installed, and settings it takes"
                raise RecipeError(Finding(place="training.optim", expected=expected, found=str(error))) from error
        return self.optimizer

    # evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the validation split, thresholds chosen on it first where the problem has them."""
        assert self.validation is not None
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        with self.average.in_place() if self.average else nullcontext():
            values = measure(self.evaluator, model, self.validation, self.labels)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of two checkpoints that are equal in the first metric, the one with the lower validation loss is better.

        The best is saved, also where saving is rarer than evaluating: the Trainer would go back to an earlier one.
        """
        better = super()._determine_best_metric(metrics, trial) or self._breaks_the_tie(metrics)
        self.control.should_save = self.control.should_save or (better and self.args.load_best_model_at_end)
        return better

    def _breaks_the_tie(self, metrics: dict[str, float]) -> bool:
        name, best_step = self.args.metric_for_best_model, self.state.best_global_step
        if name is None or best_step is None or metrics[f"eval_{name}"] != self.state.best_metric:
            return False
        losses = {entry["step"]: entry["eval_loss"] for entry in self.state.log_history if "eval_loss" in entry}
        if metrics["eval_loss"] >= losses.get(best_step, float("-inf")):
            return False
        self.state.best_global_step = self.state.global_step
        return True

    # checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        state = model.state_dict() if state_dict is None else state_dict
        state = {name: value.contiguous() for name, value in state.items()}
        model.save_pretrained(output_dir, state_dict=state, save_original_format=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Older checkpoints go when this one is complete, on every process."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        folder = Path(str(self.args.output_dir))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        if self.average and self.args.should_save:
            self.average.save(checkpoint)
        if self.recorder:
            self.recorder.save(checkpoint, self.gather, writes=self.args.should_save)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder, checkpoint, limit=limit, best=self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average:
            self.average.load(Path(resume_from_checkpoint))
        if self.recorder:
            self.recorder.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average:
            self.average.load(Path(str(self.state.best_model_checkpoint)))

    def _load_callback_state(self) -> None:
        """A run that is extended has the patience of its recipe, counted from here, not that of the checkpoint."""
        super()._load_callback_state()
        settings = self.recipe.early_stopping
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and settings and self.recipe.resume == "extend":
                callback.early_stopping_patience = settings.patience
                callback.early_stopping_threshold = settings.threshold
                callback.early_stopping_patience_counter = 0

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[processes * N, ...]: the tensors [N, ...] of all processes, one after another."""
        found: torch.Tensor = self.accelerator.gather(tensor)
        return found

    def newest_checkpoint(self) -> str | None:
        """The last complete checkpoint, as the main process sees it."""
        found = [newest_complete(Path(str(self.args.output_dir))) if self.args.should_save else None]
        return broadcast_object_list(found)[0]
