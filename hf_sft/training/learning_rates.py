"""Where a recipe names no learning rate: a literal table by family and strategy, for AdamW at batch size 32.

Sources. BERT: Devlin et al. 2019, A.3 (2e-5 to 5e-5). RoBERTa: Liu et al. 2019, table 10 (1e-5 to 3e-5).
DistilBERT: Sanh et al. 2019 (5e-5). ModernBERT: Warner et al. 2024 (1e-5 to 8e-5). GPT-2: Radford et al. 2018, 4.1
(6.25e-5). Small encoders (hidden size below 512): Turc et al. 2019 (1e-4 to 3e-4). ViT, DeiT, Swin, ConvNeXt with
AdamW: Steiner et al. 2022; Liu et al. 2021, 2022 (5e-5 to 1e-4). Convolutional networks with AdamW: Wightman et al.
2021 (1e-4 to 1e-3). SegFormer: Xie et al. 2021 (6e-5); UperNet on ConvNeXt: Liu et al. 2022 (1e-4). New heads on
frozen features: Kumar et al. 2022 (1e-3 to 1e-2). With layer decay the
rate is that of the head, above those of all other layers: Clark et al. 2020 (1e-4 with 0.8 for a base model).
Adapters: Hu et al. 2021, table 9 (RoBERTa base: 4e-4 to 5e-4); Schulman et al. 2025, "LoRA without regret" (10 times
the rate of full fine-tuning); never above that of a new head, which trains with them.
"""

from __future__ import annotations

from typing import Any

TEXT = {
    "bert": 3e-5, "electra": 3e-5, "deberta-v2": 2e-5, "mpnet": 3e-5, "albert": 2e-5,
    "roberta": 2e-5, "xlm-roberta": 2e-5, "camembert": 2e-5,
    "distilbert": 5e-5, "modernbert": 5e-5, "gpt2": 6.25e-5,
}  # fmt: skip
VISION = {
    "vit": 5e-5, "deit": 5e-5, "beit": 5e-5, "dinov2": 2e-5, "swin": 5e-5, "swinv2": 5e-5,
    "convnext": 1e-4, "convnextv2": 1e-4, "segformer": 6e-5, "upernet": 1e-4,
    "resnet": 5e-4, "regnet": 5e-4, "efficientnet": 5e-4, "mobilenet_v2": 5e-4, "timm_wrapper": 5e-4,
    "rt_detr": 1e-4, "rt_detr_v2": 1e-4, "d_fine": 1e-4, "deformable_detr": 1e-4, "conditional_detr": 1e-4,
    "detr": 1e-4, "table-transformer": 1e-4, "yolos": 5e-5,
}  # fmt: skip
TRAINED = {  # strategy -> what trains; the rates are those of full fine-tuning
    "top_layers": "its last layers", "first_layers": "its first layers", "layer_decay": "falling from layer to layer",
    "gradual": "from the head down", "rules": "scaled by the rules", "lora": "adapters",
}  # fmt: skip
SMALL_ENCODER = 1e-4  # text, hidden size below 512
TIMM_TRANSFORMER = 5e-5
RANDOM = 5e-4  # trained from scratch
OTHER = 3e-5
HEAD = 1e-3
LAYER_DECAY_FACTOR = 2  # the rates of most layers are below the recipe's
LORA_FACTOR = 10
SGD_FACTOR = 20  # SGD with momentum moves by the gradient, AdamW by its sign: about 1e-3 to 1e-2 against 5e-4


def default_learning_rate(config: Any, strategy: str, *, random: bool, optimizer: str) -> tuple[float, str]:
    """(learning rate, why) for a model's config, a strategy and an optimizer."""
    family, trained = config.model_type, TRAINED.get(strategy, "all weights")
    if strategy == "head":
        rate, why = HEAD, "a new head on frozen features"
    elif random:
        rate, why = RANDOM, "random weights"
    elif family == "timm_wrapper" and any(word in config.architecture for word in ("vit", "deit", "beit", "swin")):
        rate, why = TIMM_TRANSFORMER, f"a timm vision transformer, {trained}"
    elif family in TEXT and config.hidden_size < 512:
        rate, why = SMALL_ENCODER, f"a small {family}, {trained}"
    else:
        rate, why = (TEXT | VISION).get(family, OTHER), f"{family}, {trained}"
    if strategy == "layer_decay":
        rate *= LAYER_DECAY_FACTOR
    if strategy == "lora":
        rate = min(rate * LORA_FACTOR, HEAD)
    if optimizer == "sgd":
        rate *= SGD_FACTOR
    return rate, why
