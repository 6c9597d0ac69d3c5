"""A moving average of the weights: it is evaluated and kept, while training goes on with the raw weights.

After step t the average is moved towards the weights by 1 - d(t), with d(t) = min(decay, (1 + t) / (10 + t)), as
TensorFlow's ExponentialMovingAverage warms up, so that the first weights are soon forgotten. `auto` makes the average
as long as a fixed share of the run, as Karras et al. 2024 measure it: decay = 1 - 1 / (steps / 10), at most 0.9999.
BatchNorm's running statistics are averaged alike, for they belong to the averaged weights and not to the raw ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_sft.modeling.learned_state import learned_state, running_statistics
from hf_sft.modeling.rules import Rule
from hf_sft.training.checkpoints import save_tensors

SHARE = 10  # of the run's steps, a tenth: the length of an average whose decay is auto
MOST = 0.9999
FILE = "averaged.safetensors"


def decay_of(setting: float | str, steps: int) -> float:
    """The decay of a run of so many optimizer steps; of ten or fewer the last weights are kept (0)."""
    return min(MOST, 1 - 1 / max(1.0, steps / SHARE)) if isinstance(setting, str) else setting


class WeightAverage(TrainerCallback):
    """Averages of the parameters that train and of BatchNorm's statistics, on their own device.

    All processes hold the same weights and so the same averages; of statistics the main process's are those that count,
    as in DistributedDataParallel.
    """

    def __init__(self, model: nn.Module, rules: Mapping[str, Rule], *, setting: float | str, several: bool):
        self.model = model
        self.rules = rules
        self.setting = setting
        self.several = several
        self.averages = {name: value.clone() for name, value in self._live().items()}

    def _live(self) -> dict[str, torch.Tensor]:
        """What is averaged, as the model has it now: buffers are others once DistributedDataParallel wraps it."""
        return {name: value.detach() for name, value in learned_state(self.model, self.rules).items()}

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step + 1
        decay = min(decay_of(self.setting, state.max_steps), (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self._live().values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averages meanwhile."""
        self._agree()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _agree(self) -> None:
        for name in running_statistics(self.model) if self.several else ():
            torch.distributed.broadcast(self.averages[name], src=0)

    def _exchange(self) -> None:
        """Values change places, storages stay: gradients and optimizers know their parameters by them."""
        for name, value in self._live().items():
            before = value.clone()
            value.copy_(self.averages[name])
            self.averages[name].copy_(before)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The model keeps the averages: the last ones, or those of the best checkpoint where that was read."""
        self._agree()
        for name, value in self._live().items():
            value.copy_(self.averages[name])

    def save(self, checkpoint: Path) -> None:
        """Beside the raw weights, from which training goes on."""
        save_tensors(self.averages, checkpoint / FILE)

    def load(self, checkpoint: Path) -> None:
        """Those of a checkpoint, to the last bit."""
        saved = load_file(checkpoint / FILE)
        for name, average in self.averages.items():
            average.copy_(saved[name])
