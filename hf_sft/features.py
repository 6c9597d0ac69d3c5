"""What reaches the last layer of a model: one pass over the rows of a split, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from hf_sft.data.labels import Labels
from hf_sft.errors import Finding, ModelError
from hf_sft.evaluation import Evaluator
from hf_sft.modeling.anatomy import output_layers
from hf_sft.tasks.classification import PROBLEMS
from hf_sft.tasks.task import Batch, Rows

NO_LABELS = Labels(problem="regression", names=())
AS_FAR = 1e-3  # of the largest logit: more than rounding between the last layer and what the model answers


def extract_features(
    model: Any,
    rows: Any,
    lengths: NDArray,
    collate: Callable[[Sequence[Any]], dict[str, Any]],
    *,
    batch_size: int,
    workers: int = 0,
    channels_last: bool = False,
) -> NDArray:
    """[N, D], the input of the output layer for every row, in the order of `rows`, on every process.

    Where the layer sees every token [B, T, H] it is what it sees of the token whose outputs the model answers with; of
    two output layers, whose mean is the answer, the inputs side by side. Raises ModelError for other heads.
    """
    with _watched(model) as seen:
        reader = replace(PROBLEMS["regression"], decode=seen.read, calibrate=None)
        evaluator = Evaluator(
            problem=reader,
            collate=collate,
            metrics=(),
            batch_size=batch_size,
            workers=workers,
            channels_last=channels_last,
        )
        return evaluator.predict(model, rows, lengths, NO_LABELS)["features"]


class _Seen:
    """Inputs and outputs of the output layers in the last forward pass.

    Outputs of a layer that sees every token are replaced by numbers that tell the tokens apart: the model's answer then
    says which it took.
    """

    def __init__(self, names: Sequence[str]):
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.names = names

    def take(self, name: str, inputs: tuple[Any, ...]) -> None:
        if not inputs or name in self.inputs:
            raise _unsuitable(f"{name} is called " + ("more than once" if inputs else "with named arguments"))
        self.inputs[name] = inputs[0].detach()

    def mark(self, name: str, output: torch.Tensor) -> torch.Tensor | None:
        self.outputs[name] = output.detach()
        if output.ndim != 3:
            return None
        return _codes(output.shape[1]).to(output)[None, :, None].expand_as(output)

    def read(self, outputs: Any, batch: Batch, labels: Labels) -> Rows:
        """The features of a batch; forgets it."""
        logits: torch.Tensor = outputs["logits"]
        if set(self.inputs) != set(self.names):
            raise _unsuitable(f"{', '.join(set(self.names) - set(self.inputs))} is not called")
        tokens = [output.shape[1] for output in self.outputs.values() if output.ndim == 3]
        if tokens and (len(self.names) > 1 or logits.ndim != 2):
            raise _unsuitable("outputs for every token, and not one of them taken")
        if tokens:
            (features,) = self.inputs.values()
            found = _of_taken_tokens(features.cpu(), logits)
        else:
            answers = [output.flatten(1).to(logits) for output in self.outputs.values()]
            _check_is_answer(answers, logits)
            found = torch.cat([features.flatten(1).cpu() for features in self.inputs.values()], dim=1)
        self.inputs, self.outputs = {}, {}
        return {"features": (found if found.dtype == torch.float64 else found.float()).numpy()}


@contextmanager
def _watched(model: Any) -> Iterator[_Seen]:
    layers = output_layers(model, model.config.num_labels)
    seen, hooks = _Seen(list(layers)), []
    for name, layer in layers.items():
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.take(name, inputs)))
        hooks.append(layer.register_forward_hook(lambda _, inputs, output, name=name: seen.mark(name, output)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _codes(tokens: int) -> torch.Tensor:
    """float32 [T]: the position and a fraction of its own, so that no mean of several is taken for one."""
    fractions = torch.rand(tokens, generator=torch.Generator().manual_seed(0))
    return torch.arange(tokens, dtype=torch.float32) + 0.25 + fractions / 2


def _of_taken_tokens(features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """[B, H] of [B, T, H]: of the tokens whose codes the logits are."""
    codes = _codes(features.shape[1])
    taken = logits[:, 0].floor().long()
    if len(logits) != len(features) or not ((taken >= 0) & (taken < len(codes))).all():
        raise _unsuitable("outputs for every token, and an answer that is that of none")
    if not torch.equal(codes[taken].to(logits)[:, None].expand_as(logits), logits):
        raise _unsuitable("outputs for every token, and an answer that is that of none")
    return features[torch.arange(len(features)), taken]


def _check_is_answer(answers: Sequence[torch.Tensor], logits: torch.Tensor) -> None:
    """Raises ModelError where the model's answer is not the (mean) output of its last layer."""
    shapes = {answer.shape for answer in answers}
    if shapes != {logits.shape}:
        raise _unsuitable(f"outputs of shape {list(answers[0].shape)} for an answer of {list(logits.shape)}")
    mean = torch.stack([*answers]).mean(0)
    if (mean - logits).abs().max() > AS_FAR * max(1.0, float(logits.abs().max())):
        raise _unsuitable("an answer that is not the output of the last layer")


def _unsuitable(found: str) -> ModelError:
    expected = "a model whose answer for a row is the output of its last layer"
    fix = "leave out tuning.solver: logistic, tuning.warm_start and --with-probe"
    return ModelError(Finding(place="head", expected=expected, found=found, fix=fix))
