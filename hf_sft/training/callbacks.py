"""What happens beside training: the bar, one line per epoch, and a log that resuming can rely on."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import IntervalStrategy

from hf_sft.console import hides_bars, say
from hf_sft.training.history import epoch_entries


class EpochLog(TrainerCallback):
    """Tells the order of rows its epoch; logs at every epoch's end and before every checkpoint, and saves at an epoch's

    end after it was evaluated, so that resuming loses no step's loss and no evaluation.
    """

    def __init__(self, order: Any):
        self.order = order
        self.save_after_epoch = False

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.order is not None:
            self.order.epoch = int(state.epoch or 0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log = control.should_log or control.should_save or control.should_evaluate
        ends = control.should_training_stop or float(state.epoch or 0).is_integer()
        self.save_after_epoch = control.should_save and ends and args.eval_strategy == IntervalStrategy.EPOCH
        control.should_save = control.should_save and not self.save_after_epoch

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log = True
        control.should_save = control.should_save or self.save_after_epoch


class Progress(TrainerCallback):
    """A bar while training and one line per epoch, on the main process. metric: None where nothing is evaluated."""

    def __init__(self, metric: str | None):
        self.metric = metric
        self.bar: Any = None
        self.printed = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.printed = len(self._entries(state))
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                leave=False,
                disable=hides_bars(),
            )

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if self.bar is None:
            return
        if logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}")
        entries = self._entries(state)
        for entry in entries[self.printed :]:
            say(self._line(entry, args), bar=self.bar)
        self.printed = len(entries)

    def _entries(self, state: TrainerState) -> list[dict[str, Any]]:
        return epoch_entries(state.log_history, evaluated=self.metric is not None)

    def _line(self, entry: dict[str, Any], args: Any) -> str:
        epochs = f"epoch {entry['epoch']:.4g}/{args.num_train_epochs:g}"
        where = f"step {entry['step']}/{args.max_steps}" if args.max_steps > 0 else epochs
        parts = [where, f"train loss {entry['train_loss']:.4f}"]
        if entry["validation_loss"] is not None:
            parts.append(f"validation loss {entry['validation_loss']:.4f}")
        if self.metric and self.metric in entry:
            parts.append(f"{self.metric} {entry[self.metric]:.4f}")
        return "  ".join(parts)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
