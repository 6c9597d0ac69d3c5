"""Tiny models of every family, built from their configs and saved to a folder, and tiny data to train them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL.Image import fromarray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["good", "bad", "fine", "poor", "film", "book", "meal", "room", "not", "very", "and", "but", "the", "a", "was"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = 32  # pixels


def save_tokenizer(folder: Path, *, pad: bool = True, token_types: bool = False) -> None:
    """A word-level tokenizer with BERT's special tokens; without pad the end-of-sequence token has to do.

    token_types: it tells the model which text of a pair a token stands in.
    """
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    names |= {"pad_token": "[PAD]"} if pad else {"eos_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)


def _text_configs() -> dict[str, Callable[[], tuple[Any, str]]]:
    vocab = len(SPECIAL) + len(WORDS)
    small = {"vocab_size": vocab, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = {**small, "intermediate_size": 32, "max_position_embeddings": 64}
    return {
        "bert": lambda: (transformers.BertConfig(**bert), "BertModel"),
        "distilbert": lambda: (
            transformers.DistilBertConfig(
                vocab_size=vocab, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64
            ),
            "DistilBertModel",
        ),
        "roberta": lambda: (transformers.RobertaConfig(**bert, pad_token_id=0), "RobertaModel"),
        "modernbert": lambda: (
            transformers.ModernBertConfig(
                **{**small, "intermediate_size": 32},
                max_position_embeddings=64,
                pad_token_id=0,
                bos_token_id=2,
                eos_token_id=3,
                cls_token_id=2,
                sep_token_id=3,
            ),
            "ModernBertModel",
        ),
        "gpt2": lambda: (
            transformers.GPT2Config(
                vocab_size=vocab, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
            ),
            "GPT2Model",
        ),
    }


TEXT_FAMILIES = tuple(_text_configs())


def save_text_model(
    family: str, folder: Path, *, seed: int = 0, labels: Sequence[str] = (), head: str = "ForSequenceClassification"
) -> Path:
    """A pretrained-looking backbone of that family (random weights) with its tokenizer; a classifier for `labels`."""
    torch.manual_seed(seed)
    config, class_name = _text_configs()[family]()
    if labels:
        name_labels(config, labels)
        class_name = class_name.removesuffix("Model") + head
    getattr(transformers, class_name)(config).save_pretrained(folder)
    save_tokenizer(folder, pad=family != "gpt2", token_types=family == "bert")
    return folder


def name_labels(config: Any, labels: Sequence[str]) -> None:
    """Give a config these label names."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}


def _image_configs() -> dict[str, Callable[[], tuple[Any, str]]]:
    return {
        "resnet": lambda: (
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
            "ResNetForImageClassification",
        ),
        "vit": lambda: (
            transformers.ViTConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=SIZE,
                patch_size=8,
            ),
            "ViTForImageClassification",
        ),
        "convnext": lambda: (
            transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], patch_size=2),
            "ConvNextForImageClassification",
        ),
        "swin": lambda: (
            transformers.SwinConfig(
                image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
            ),
            "SwinForImageClassification",
        ),
        "deit": lambda: (
            transformers.DeiTConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=SIZE,
                patch_size=8,
            ),
            "DeiTForImageClassification",
        ),
    }


TRANSFORMERS_IMAGE_FAMILIES = tuple(_image_configs())
TIMM_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {  # family -> (architecture, arguments)
    "timm_resnet": ("test_resnet", {}),
    "timm_efficientnet": ("test_efficientnet", {}),
    "timm_vit": ("test_vit", {"img_size": SIZE}),
    "timm_deit": ("deit_tiny_distilled_patch16_224", {"img_size": SIZE, "depth": 2, "embed_dim": 24}),
    "timm_vgg": ("vgg11", {"mlp_ratio": 0.01}),
}
IMAGE_FAMILIES = ("resnet", "vit", "convnext", "swin", "timm_resnet")
OTHER_IMAGE_FAMILIES = ("deit", "timm_efficientnet", "timm_vit", "timm_deit", "timm_vgg")
PRETRAINED_CFG = {
    "input_size": (3, SIZE, SIZE),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


def save_image_model(
    family: str, folder: Path, *, seed: int = 0, num_labels: int = 7, labels: Sequence[str] = ()
) -> Path:
    """A model of that family (random weights) with its image processor; its labels are placeholders unless named."""
    torch.manual_seed(seed)
    labels = labels or [f"LABEL_{index}" for index in range(num_labels)]
    if family in TIMM_ARCHITECTURES:
        architecture, arguments = TIMM_ARCHITECTURES[family]
        config = transformers.TimmWrapperConfig(
            architecture=architecture, num_labels=len(labels), model_args=arguments or None
        )
        config.pretrained_cfg = dict(PRETRAINED_CFG)
        config.label_names = list(labels)
        transformers.TimmWrapperForImageClassification(config).save_pretrained(folder)
        return folder
    config, class_name = _image_configs()[family]()
    name_labels(config, labels)
    getattr(transformers, class_name)(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def _detection_configs() -> dict[str, Callable[[], tuple[Any, str]]]:
    stages = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    three = {**stages, "out_features": ["stage2", "stage3", "stage4"]}
    real_time = {
        "encoder_in_channels": [16, 16, 16],
        "encoder_hidden_dim": 16,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "d_model": 16,
        "num_queries": 10,
        "decoder_in_channels": [16, 16, 16],
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
    }
    plain = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 10,
        "dropout": 0.0,
    }
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

    def resnet(settings: dict[str, Any]) -> Any:
        return transformers.ResNetConfig(**settings)

    return {
        "rt_detr": lambda: (
            transformers.RTDetrConfig(backbone_config=transformers.RTDetrResNetConfig(**three), **real_time),
            "RTDetrForObjectDetection",
        ),
        "rt_detr_v2": lambda: (
            transformers.RTDetrV2Config(backbone_config=transformers.RTDetrResNetConfig(**three), **real_time),
            "RTDetrV2ForObjectDetection",
        ),
        "d_fine": lambda: (
            transformers.DFineConfig(backbone_config=transformers.RTDetrResNetConfig(**three), **real_time),
            "DFineForObjectDetection",
        ),
        "yolos": lambda: (
            transformers.YolosConfig(**small, image_size=[64, 64], patch_size=16, num_detection_tokens=10),
            "YolosForObjectDetection",
        ),
        "detr": lambda: (
            transformers.DetrConfig(backbone_config=resnet({**stages, "out_features": ["stage4"]}), **plain),
            "DetrForObjectDetection",
        ),
        "conditional_detr": lambda: (
            transformers.ConditionalDetrConfig(backbone_config=resnet({**stages, "out_features": ["stage4"]}), **plain),
            "ConditionalDetrForObjectDetection",
        ),
        "deformable_detr": lambda: (
            transformers.DeformableDetrConfig(
                backbone_config=resnet(three), **{**plain, "d_model": 32}, num_feature_levels=3
            ),
            "DeformableDetrForObjectDetection",
        ),
    }


DETECTION_FAMILIES = tuple(_detection_configs())


def save_detector(family: str, folder: Path, *, seed: int = 0, labels: Sequence[str] = ("a", "b")) -> Path:
    """A detector of that family (random weights) with its image processor for images of 64 x 64."""
    torch.manual_seed(seed)
    config, class_name = _detection_configs()[family]()
    name_labels(config, labels)
    getattr(transformers, class_name)(config).save_pretrained(folder)
    transformers.RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def drawn(number: int = 8, *, seed: int = 0) -> Dataset:
    """Drawings of 64 x 64 pixels with one to three shapes: image, objects {bbox: xywh, category}."""
    from hf_sft.data.shapes import SHAPES, draw_shapes, with_boxes

    objects = {"bbox": List(List(Value("float64"))), "category": List(ClassLabel(names=list(SHAPES)))}
    rows = [with_boxes(draw_shapes(seed, index, size=64)) for index in range(number)]
    return Dataset.from_list(rows, features=Features({"image": Image(), "objects": objects}))


def texts(number: int = 48, *, seed: int = 0) -> Dataset:
    """Ragged texts; label positive where "good" stands in the text, else negative."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        words = list(generator.choice(WORDS[4:], size=int(generator.integers(2, 14))))
        positive = index % 2 == 0
        words.insert(int(generator.integers(0, len(words))), "good" if positive else "bad")
        rows.append({"text": " ".join(words), "label": "positive" if positive else "negative"})
    return Dataset.from_list(rows)


TAGS = ("O", "B-PLACE", "I-PLACE", "B-THING")


def tagged(number: int = 48, *, seed: int = 0, most: int = 12) -> Dataset:
    """Ragged lists of words; "meal" and "room" are places (with the word after, where that is one), "book" a thing."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        words = [str(word) for word in generator.choice(WORDS, size=int(generator.integers(1, most)))]
        tags = ["B-THING" if word == "book" else "O" for word in words]
        for place, word in enumerate(words):
            if word in ("meal", "room"):
                tags[place] = "I-PLACE" if place and tags[place - 1] == "B-PLACE" else "B-PLACE"
        rows.append({"tokens": words, "ner_tags": tags})
    return Dataset.from_list(rows)


def images(number: int = 24, *, seed: int = 0) -> Dataset:
    """Noise with a bright upper half (label "up") or lower half ("down"), RGB, 32 x 32."""
    generator = np.random.default_rng(seed)
    pictures, labels = [], []
    for index in range(number):
        pixels = generator.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
        half = slice(0, SIZE // 2) if index % 2 == 0 else slice(SIZE // 2, SIZE)
        pixels[half] += 150
        pictures.append(fromarray(pixels))
        labels.append(index % 2)
    features = Features({"image": Image(), "label": ClassLabel(names=["up", "down"])})
    return Dataset.from_dict({"image": pictures, "label": labels}, features=features)


SEGMENTATION_FAMILIES = ("segformer",)
CLASSES = ("floor", "lamp", "shelf")


def save_segmentation_model(family: str, folder: Path, *, seed: int = 0, labels: Sequence[str] = ()) -> Path:
    """A pretrained-looking backbone (random weights) with its image processor; a whole model for `labels`."""
    torch.manual_seed(seed)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        mlp_ratios=[2, 2, 2, 2],
        drop_path_rate=0.0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
    )
    name_labels(config, labels or ["LABEL_0", "LABEL_1"])
    head = "ForSemanticSegmentation" if labels else "ForImageClassification"
    getattr(transformers, f"Segformer{head}")(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def masked(number: int = 24, *, seed: int = 0, ignored: int | None = None) -> Dataset:
    """Dark noise with a bright block (id 1) and a red band (id 2), of several sizes; `ignored` rings the block."""
    generator = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"image": [], "mask": []}
    for index in range(number):
        height, width = SIZE + 4 * (index % 3), SIZE + 8 * (index % 2)
        pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
        ids = np.zeros((height, width), dtype=np.uint8)
        top, left = generator.integers(2, 12, 2)
        if ignored is not None:
            ids[top - 2 : top + 14, left - 2 : left + 14] = ignored
        ids[top : top + 12, left : left + 12] = 1
        pixels[ids == 1] += 180
        if index % 2 == 0:
            ids[-6:] = 2
            pixels[-6:, :, 0] = 220
        rows["image"].append(fromarray(pixels))
        rows["mask"].append(fromarray(ids))
    return Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image()}))
