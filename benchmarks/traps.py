"""What a plain Trainer does without a word, in figures: `python -m benchmarks.traps` (tiny models, a minute on a CPU).

The figures of the README's and docs/correctness.md's first rows; with other versions of the libraries they may change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

PIXELS = 32
BERT = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
VIT = ViTConfig(
    image_size=PIXELS, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)
SWIN = SwinConfig(image_size=PIXELS, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)


def accumulation(folder: Path) -> str:
    """Loss and gradient norm of the first step: 2 rows x 4 accumulated over 8 x 1."""
    rows = [{"input_ids": torch.arange(number, number + 6) % 50, "labels": number % 2} for number in range(8)]
    logged = {}
    for steps in (1, 4):
        set_seed(0)
        trainer = _trainer(
            BertForSequenceClassification(BERT), rows, folder / str(steps),
            per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps, max_steps=1, logging_steps=1,
        )  # fmt: skip
        trainer.train()
        logged[steps] = trainer.state.log_history[0]
    loss, norm = (float(logged[4][key]) / float(logged[1][key]) for key in ("loss", "grad_norm"))
    return f"BERT, 2 rows x 4 accumulated instead of 8 x 1: loss {loss:.2f} times, gradient norm {norm:.2f} times"


def best_checkpoint(folder: Path, model: Any) -> str:
    """How many tensors keep their last values when the first of two epochs was the better one."""
    set_seed(0)
    rows = [{"pixel_values": torch.rand(3, PIXELS, PIXELS), "labels": number % 2} for number in range(8)]
    scores = iter((1.0, 0.0))
    trainer = _trainer(
        model, rows, folder / type(model).__name__, eval_dataset=rows,
        compute_metrics=lambda _: {"score": next(scores)},
        per_device_train_batch_size=4, num_train_epochs=2, learning_rate=1e-2, eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True,
    )  # fmt: skip
    last: dict[str, torch.Tensor] = {}
    trainer.add_callback(_AtEachStep(lambda: last.update({n: v.clone() for n, v in model.state_dict().items()})))
    trainer.train()
    best = type(model).from_pretrained(trainer.state.best_model_checkpoint).state_dict()
    learned = [name for name, _ in model.named_parameters() if not torch.equal(best[name], last[name])]
    kept = [name for name in learned if torch.equal(model.state_dict()[name], last[name])]
    kind = type(model).__name__
    return f"{kind}, best checkpoint restored: {len(kept)} of {len(learned)} tensors keep their last values"


def rows_lost(folder: Path) -> str:
    """How many of 40 rows the second epoch never sees, interrupted after 5 of its 10 steps, with group_by_length."""
    rows = [
        {"input_ids": torch.ones(3 + number % 17, dtype=torch.long), "labels": 0, "row": number} for number in range(40)
    ]
    seen: dict[str, list[int]] = {"first": [], "second": []}

    def run(part: str, resumed: bool) -> None:
        def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            seen[part] += [feature["row"] for feature in features]
            ids = torch.nn.utils.rnn.pad_sequence([feature["input_ids"] for feature in features], batch_first=True)
            return {"input_ids": ids, "labels": torch.zeros(len(features), dtype=torch.long)}

        set_seed(0)
        trainer = _trainer(
            BertForSequenceClassification(BERT), rows, folder / "resumed", data_collator=collate,
            per_device_train_batch_size=4, num_train_epochs=2, train_sampling_strategy="group_by_length",
            remove_unused_columns=False, save_strategy="steps", save_steps=5,
        )  # fmt: skip
        if not resumed:
            trainer.add_callback(_StopAt(15))
        trainer.train(resume_from_checkpoint=resumed)

    run("first", False)
    run("second", True)
    used = seen["first"][40:60] + seen["second"][-20:]
    return f"group_by_length, resumed inside an epoch: {40 - len(set(used))} of 40 rows are never seen"


class _AtEachStep(TrainerCallback):  # type: ignore[misc]
    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.action()


class _StopAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def _trainer(
    model: Any, rows: list[dict[str, Any]], folder: Path, *, eval_dataset: Any = None, compute_metrics: Any = None,
    data_collator: Any = None, **arguments: Any,
) -> Trainer:  # fmt: skip
    settings = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 0, "log_level": "error"}
    settings = {"save_strategy": "no", **settings, **arguments}
    return Trainer(
        model=model, args=TrainingArguments(output_dir=str(folder), **settings), train_dataset=rows,
        eval_dataset=eval_dataset, compute_metrics=compute_metrics, data_collator=data_collator,
    )  # fmt: skip


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(accumulation(folder))
        for model in (ViTForImageClassification(VIT), SwinForImageClassification(SWIN)):
            print(best_checkpoint(folder, model))
        print(rows_lost(folder))


if __name__ == "__main__":
    main()
