"""WikiANN English, MiniLM: our run beside a plain Trainer with the same rows, epochs, batch size and learning rate.

`HF_SFT_REAL_DATA=... python -m benchmarks.tokens [SEED ...]` prints one line per seed. Both sides evaluate after each
epoch and predict the test rows at the end; the plain side keeps the last weights and pads a batch to its longest row.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from seqeval.metrics import f1_score
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    set_seed,
)

from benchmarks.real_data import plain_arguments
from hf_sft import Recipe, fine_tune
from hf_sft.packages import locate_in_package

RECIPE = Path(__file__).parent / "recipes" / "wikiann_en.yaml"
IGNORED = -100


def compare(seed: int, folder: Path) -> str:
    """Our run and the plain Trainer -> a line of the table."""
    started = time.perf_counter()
    record = fine_tune(Recipe.load(RECIPE, [f"seed={seed}", f"output_dir={folder / 'ours'}"]))
    ours = time.perf_counter() - started
    resolved = Recipe.load(folder / "ours" / "recipe.yaml")
    started = time.perf_counter()
    plain = plain_trainer(resolved, folder / "plain", bf16=record.environment["precision"] == "bf16")
    seconds = time.perf_counter() - started
    mine, (low, high) = record.metrics["test"]["entity_f1"], record.intervals["test"]["entity_f1"]
    return f"| {seed} | {mine:.4f} | {low:.4f} to {high:.4f} | {ours:.0f} s | {plain:.4f} | {seconds:.0f} s |"


def plain_trainer(recipe: Recipe, folder: Path, *, bf16: bool) -> float:
    """The usual script: words cut by the tokeniser, the first piece of each labelled; entity F1 on test by seqeval."""
    set_seed(recipe.seed)
    source = Path(os.environ["HF_SFT_REAL_DATA"]) / "wikiann_en"
    files = {role: str(source / f"{role}.jsonl") for role in ("train", "validation", "test")}
    rows = datasets.load_dataset("json", data_files=files)
    names = sorted({tag for tags in rows["train"]["ner_tags"] for tag in tags})
    checkpoint = locate_in_package(recipe.model.name, "model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        inputs = tokenizer(
            batch["tokens"], is_split_into_words=True, truncation=True, max_length=recipe.processor.max_length
        )
        labels = []
        for number, tags in enumerate(batch["ner_tags"]):
            words = inputs.word_ids(number)
            first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
            labels.append([names.index(tags[w]) if new else IGNORED for w, new in zip(words, first, strict=True)])
        return {**inputs, "labels": labels}

    data = rows.map(encode, batched=True, remove_columns=rows["train"].column_names)
    model = AutoModelForTokenClassification.from_pretrained(
        checkpoint, num_labels=len(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )

    def measured(found: Any) -> dict[str, float]:
        answers = np.asarray(found.predictions).argmax(-1)
        kept = [row != IGNORED for row in found.label_ids]
        said = [[names[i] for i in row[mask]] for row, mask in zip(answers, kept, strict=True)]
        truth = [[names[i] for i in row[mask]] for row, mask in zip(found.label_ids, kept, strict=True)]
        return {"entity_f1": float(f1_score(truth, said))}

    trainer = Trainer(
        model=model,
        args=plain_arguments(recipe, folder, bf16=bf16, eval_strategy="epoch"),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=measured,
    )
    trainer.train()
    return float(trainer.predict(data["test"]).metrics["test_entity_f1"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[1, 2, 3])
    chosen = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| seed | ours, test F1 | 95 % | time | plain Trainer | time |\n|---|---|---|---|---|---|")
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as folder:
            print(compare(seed, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
