"""Blocks that wait for their turn: frozen until the step at which they join, whatever the number of processes.

All that ever trains is known to the optimizer and to DistributedDataParallel from the start: what is added later they
would leave out without a word. Waiting means no gradient: optimizers then neither move a parameter, nor let it decay,
nor begin its momentum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_sft.errors import Finding, RecipeError
from hf_sft.modeling.parameter_groups import modules_within
from hf_sft.modeling.rules import Rule
from hf_sft.recipe_tuning import Gradual, Tuning

MOST_SHOWN = 4  # turns in a line


class Turns(TrainerCallback):
    """What trains at which step: a pure function of steps and epochs done, so that a resumed run needs no memory of it.

    frozen: the modules that are in eval mode now: those given, and those that wait.
    several: in several processes gradients of what waits are computed and thrown away, since all processes have to
    reduce the same ones; in one they are not computed.
    """

    def __init__(
        self, model: nn.Module, rules: Mapping[str, Rule], frozen: Sequence[nn.Module], *, unit: str, several: bool
    ):
        self.model = model
        self.rules = rules
        self.always = list(frozen)
        self.unit = unit
        self.several = several
        self.parameters = {name: value for name, value in model.named_parameters() if rules[name].after}
        self.frozen = list(frozen)
        self.waiting: list[nn.Parameter] = []

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        done = state.global_step if self.unit == "steps" else float(state.epoch or 0)
        waiting = {name: value for name, value in self.parameters.items() if self.rules[name].after > done}
        if len(waiting) == len(self.waiting):
            return  # they only ever become fewer, and at the first step there were none
        self.waiting = list(waiting.values())
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(self.several or name not in waiting)
        self.frozen = [*self.always, *modules_within(self.model, self.waiting)]

    def drop_gradients(self) -> None:
        """After each backward pass, before gradients are clipped by their norm."""
        for parameter in self.waiting:
            parameter.grad = None

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.waiting, self.frozen = [], self.always


def describe_turns(rules: Mapping[str, Rule], tuning: Tuning, *, steps: int | None, epochs: float | None) -> list[str]:
    """What a run of so many steps and epochs (None: not known) does of the schedule, in words.

    Raises RecipeError where it ends before anything joins, or begins with nothing that trains.
    """
    turns: dict[int, list[str]] = {}
    for rule in reversed(list(rules.values())):  # from the top of the model
        if rule.after and rule.pattern not in turns.setdefault(rule.after, []):
            turns[rule.after].append(rule.pattern)
    if not turns:
        return []
    plan = tuning.gradual or Gradual()
    length = steps if plan.unit == "steps" else epochs
    if not any(rule.lr_scale and not rule.after for rule in rules.values()):
        expected, found = "a model with a head, which trains first", "none"
        raise RecipeError(Finding(place="tuning.strategy", expected=expected, found=found, fix="set strategy: full"))
    if length is not None and plan.every >= length:
        expected = f"fewer than the {length:g} {plan.unit} of the run, so that something joins the head"
        fix = "lower it, count in unit: steps, train for longer, or set strategy: head"
        raise RecipeError(Finding(place="tuning.gradual.every", expected=expected, found=str(plan.every), fix=fix))
    word = plan.unit.removesuffix("s")
    joining = [f"from {word} {after + 1} {', '.join(turns[after])}" for after in sorted(turns)]
    shown = joining if len(joining) <= MOST_SHOWN else [*joining[: MOST_SHOWN - 1], "...", joining[-1]]
    lines = ["the head trains first; " + "; ".join(shown)]
    late = [name for after in sorted(turns) if length is not None and after >= length for name in turns[after]]
    if late:
        lines.append(
            f"the run of {length:g} {plan.unit} ends before {', '.join(late)} would join: they stay as they are "
            "(tuning.gradual: {unit: steps}, a lower every or more layers at a time brings them in)"
        )
    return lines
