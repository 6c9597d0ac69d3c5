"""How the model of a finished run is loaded, as lines of Python."""

from __future__ import annotations

import json

from hf_sft.record import RunRecord
from hf_sft.task_words import WORDS

AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "object-detection": "AutoModelForObjectDetection",
}


def holds_adapters_alone(record: RunRecord) -> bool:
    """Whether model/ holds adapters and a head, to be put on the base model."""
    settings = (record.recipe.get("tuning") or {}).get("lora")
    return settings is not None and not settings.get("merge", True)


def loading_lines(record: RunRecord, folder: str) -> list[str]:
    """Imports, an empty line, and what makes the pipeline, under the task's verb. folder: as a Python literal."""
    task = record.recipe["task"]
    name, image = json.dumps(task), WORDS[task].of_images
    options, verb = WORDS[task].call(), WORDS[task].verb
    if not holds_adapters_alone(record):
        return ["from transformers import pipeline", "", f"{verb} = pipeline({name}, model={folder}{options})"]
    auto = AUTO_CLASSES[task]
    read_processor = ['processor = AutoImageProcessor.from_pretrained(folder, subfolder="config")'] if image else []
    processor = "image_processor=processor" if image else "tokenizer=folder"
    return [
        f"from transformers import AutoConfig, {'AutoImageProcessor, ' * image}{auto}, pipeline  # needs peft",
        "",
        f"folder = {folder}",
        'config = AutoConfig.from_pretrained(folder, subfolder="config")',
        f"model = {auto}.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)",
        *read_processor,
        f"{verb} = pipeline({name}, model, {processor}{options})",
    ]
