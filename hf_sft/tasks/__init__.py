"""The tasks by the name the Hub gives them."""

from __future__ import annotations

from hf_sft.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_sft.tasks.object_detection import OBJECT_DETECTION
from hf_sft.tasks.semantic_segmentation import SEMANTIC_SEGMENTATION
from hf_sft.tasks.task import Task
from hf_sft.tasks.text_classification import TEXT_CLASSIFICATION
from hf_sft.tasks.token_classification import TOKEN_CLASSIFICATION

TASKS: dict[str, Task] = {
    "text-classification": TEXT_CLASSIFICATION,
    "image-classification": IMAGE_CLASSIFICATION,
    "token-classification": TOKEN_CLASSIFICATION,
    "image-segmentation": SEMANTIC_SEGMENTATION,
    "object-detection": OBJECT_DETECTION,
}
