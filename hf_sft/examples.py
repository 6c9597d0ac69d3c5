"""A few rows of validation for the model's card: what visitors of its page on the Hub can try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_sft.data.columns import columns_of, joined
from hf_sft.data.words import read_words

if TYPE_CHECKING:
    from hf_sft.job import Job

FOLDER = "examples"  # of the pictures, in model/
LONGEST, LOOKED_AT, SIDE = 400, 200, 512  # characters of a text, rows, pixels of a picture


def pick_examples(job: Job, folder: Path) -> list[dict[str, str]]:
    """As many rows as hub.examples says, of as many labels as can be: {"text": ...} or {"src": a file in `folder`}.

    None where the recipe names no repository, of pairs of texts (the Hub has no form for them), of texts too long.
    """
    number = job.recipe.hub.examples if job.recipe.hub else 0
    inputs = job.inputs.get("validation")
    if not number or inputs is None or inputs.source is None or "text_pair" in job.recipe.dataset.columns:
        return []
    found: list[dict[str, str]] = []
    for position in _of_all_labels(inputs.targets, min(LOOKED_AT, len(inputs.source))):
        example = _example(job, inputs.source, position, len(found) + 1, folder)
        if example is not None and len(found) < number:
            found.append(example)
    return found


def _of_all_labels(targets: Any, number: int) -> list[int]:
    """Positions of the first rows: one of each label, then the others, each in the order of the data."""
    seen: set[Any] = set()
    firsts = []
    for position in range(number):
        label = str(targets[position]) if targets is not None else ""
        if label not in seen:
            firsts.append(position)
        seen.add(label)
    return firsts + [position for position in range(number) if position not in set(firsts)]


def _example(job: Job, source: Any, position: int, place: int, folder: Path) -> dict[str, str] | None:
    settings = job.recipe.dataset
    if "image" in job.task.columns:
        picture = job.task.opened(source[position][columns_of(settings, "image")[0]])
        picture.thumbnail((SIDE, SIDE))
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        picture.save(folder / FOLDER / f"{place}.png")
        return {"src": f"{FOLDER}/{place}.png"}
    rows = source[[position]]
    if "tokens" in job.task.columns:
        text = read_words(rows, settings)[0].text
    else:
        text = joined(rows, [name for name in columns_of(settings, "text") if name in rows])[0]
    return {"text": text} if text.strip() and len(text) <= LONGEST else None
