"""The metrics by name, and those that are computed where a recipe names none."""

from __future__ import annotations

from functools import partial

from hf_sft.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    expected_calibration_error,
    f1,
    log_loss,
    matthews,
    precision,
    recall,
)
from hf_sft.metrics.detection import average_precision as box_precision
from hf_sft.metrics.detection import average_recall
from hf_sft.metrics.entities import (
    entity_f1,
    entity_precision,
    entity_recall,
    invalid_sequences,
    token_accuracy,
)
from hf_sft.metrics.metric import Metric
from hf_sft.metrics.regression import mae, mse, pearson, r2, spearman
from hf_sft.metrics.segmentation import mean_dice, mean_iou, pixel_accuracy
from hf_sft.recipe import ProblemName

SINGLE: tuple[ProblemName, ...] = ("single_label",)
BOTH: tuple[ProblemName, ...] = ("single_label", "multi_label")
NUMBER: tuple[ProblemName, ...] = ("regression",)
TAGS: tuple[ProblemName, ...] = ("tags",)
PIXELS: tuple[ProblemName, ...] = ("pixels",)
BOXES: tuple[ProblemName, ...] = ("boxes",)

METRICS: dict[str, Metric] = {
    "accuracy": Metric(name="accuracy", compute=accuracy, problems=BOTH),
    "macro_f1": Metric(name="macro_f1", compute=partial(f1, average="macro"), problems=BOTH),
    "micro_f1": Metric(name="micro_f1", compute=partial(f1, average="micro"), problems=BOTH),
    "weighted_f1": Metric(name="weighted_f1", compute=partial(f1, average="weighted"), problems=BOTH),
    "macro_precision": Metric(name="macro_precision", compute=partial(precision, average="macro"), problems=BOTH),
    "macro_recall": Metric(name="macro_recall", compute=partial(recall, average="macro"), problems=BOTH),
    "micro_precision": Metric(name="micro_precision", compute=partial(precision, average="micro"), problems=BOTH),
    "micro_recall": Metric(name="micro_recall", compute=partial(recall, average="micro"), problems=BOTH),
    "weighted_precision": Metric(
        name="weighted_precision", compute=partial(precision, average="weighted"), problems=BOTH
    ),
    "weighted_recall": Metric(name="weighted_recall", compute=partial(recall, average="weighted"), problems=BOTH),
    "matthews": Metric(name="matthews", compute=matthews, problems=SINGLE, unit_interval=False),
    "auroc": Metric(name="auroc", compute=auroc, problems=BOTH, reads_scores=True),
    "average_precision": Metric(name="average_precision", compute=average_precision, problems=BOTH, reads_scores=True),
    "log_loss": Metric(
        name="log_loss",
        compute=log_loss,
        problems=BOTH,
        greater_is_better=False,
        unit_interval=False,
        reads_scores=True,
    ),
    "expected_calibration_error": Metric(
        name="expected_calibration_error",
        compute=expected_calibration_error,
        problems=BOTH,
        greater_is_better=False,
        reads_scores=True,
    ),
    "mse": Metric(name="mse", compute=mse, problems=NUMBER, greater_is_better=False, unit_interval=False),
    "mae": Metric(name="mae", compute=mae, problems=NUMBER, greater_is_better=False, unit_interval=False),
    "pearson": Metric(name="pearson", compute=pearson, problems=NUMBER, unit_interval=False),
    "spearman": Metric(name="spearman", compute=spearman, problems=NUMBER, unit_interval=False),
    "r2": Metric(name="r2", compute=r2, problems=NUMBER, unit_interval=False),
    "entity_f1": Metric(name="entity_f1", compute=partial(entity_f1, average="micro"), problems=TAGS),
    "entity_precision": Metric(
        name="entity_precision", compute=partial(entity_precision, average="micro"), problems=TAGS
    ),
    "entity_recall": Metric(name="entity_recall", compute=partial(entity_recall, average="micro"), problems=TAGS),
    "macro_entity_f1": Metric(name="macro_entity_f1", compute=partial(entity_f1, average="macro"), problems=TAGS),
    "macro_entity_precision": Metric(
        name="macro_entity_precision", compute=partial(entity_precision, average="macro"), problems=TAGS
    ),
    "macro_entity_recall": Metric(
        name="macro_entity_recall", compute=partial(entity_recall, average="macro"), problems=TAGS
    ),
    "strict_entity_f1": Metric(
        name="strict_entity_f1", compute=partial(entity_f1, average="micro", strict=True), problems=TAGS
    ),
    "token_accuracy": Metric(name="token_accuracy", compute=token_accuracy, problems=TAGS),
    "invalid_sequences": Metric(
        name="invalid_sequences", compute=invalid_sequences, problems=TAGS, greater_is_better=False
    ),
    "mean_iou": Metric(name="mean_iou", compute=mean_iou, problems=PIXELS),
    "mean_dice": Metric(name="mean_dice", compute=mean_dice, problems=PIXELS),
    "pixel_accuracy": Metric(name="pixel_accuracy", compute=pixel_accuracy, problems=PIXELS),
    "map": Metric(name="map", compute=box_precision, problems=BOXES),
    "map_50": Metric(name="map_50", compute=partial(box_precision, threshold=0.5), problems=BOXES),
    "map_75": Metric(name="map_75", compute=partial(box_precision, threshold=0.75), problems=BOXES),
    "map_small": Metric(name="map_small", compute=partial(box_precision, size="small"), problems=BOXES),
    "map_medium": Metric(name="map_medium", compute=partial(box_precision, size="medium"), problems=BOXES),
    "map_large": Metric(name="map_large", compute=partial(box_precision, size="large"), problems=BOXES),
    "mar_100": Metric(name="mar_100", compute=average_recall, problems=BOXES),
}

DEFAULTS: dict[ProblemName, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1"),
    "multi_label": ("macro_f1", "micro_f1", "average_precision"),
    "regression": ("pearson", "spearman", "mse"),
    "tags": (
        "entity_f1",
        "entity_precision",
        "entity_recall",
        "macro_entity_f1",
        "token_accuracy",
        "invalid_sequences",
    ),
    "pixels": ("mean_iou", "mean_dice", "pixel_accuracy"),
    "boxes": ("map", "map_50", "map_75", "mar_100"),
}
