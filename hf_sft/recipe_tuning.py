"""The section `tuning` of a recipe: which weights learn, how fast, from where, and which are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hf_sft.recipe_section import Section, expanded

StrategyName = Literal["full", "head", "top_layers", "first_layers", "layer_decay", "gradual", "rules", "lora"]
STRATEGY_KEYS = {  # the key of `tuning` that a strategy needs; no other strategy takes it
    "top_layers": "layers", "first_layers": "layers", "layer_decay": "layer_decay", "rules": "rules",
}  # fmt: skip
OPTIONAL_STRATEGY_KEYS: dict[str, tuple[str, ...]] = {  # those that it may be given
    "gradual": ("gradual",), "lora": ("lora", "layers"),
}  # fmt: skip


class TuningRule(Section):
    """How fast the parameters that a pattern matches learn."""

    pattern: str = Field(
        min_length=1,
        description="a glob over whole names of parameters (bert.embeddings.*) or of blocks: embeddings, block.0, "
        "block.1, ..., final, head",
    )
    lr_scale: float = Field(1.0, ge=0, description="times training.learning_rate; 0 freezes")
    weight_decay: float | None = Field(None, ge=0, description="in place of training.weight_decay")


class Gradual(Section):
    """When the blocks join, from the top down, while the head trains."""

    every: int = Field(1, gt=0, description="epochs or steps after which the next layers join")
    unit: Literal["epochs", "steps"] = Field("epochs", description="of every: epochs, or steps of the optimizer")
    layers: Literal["all"] | Annotated[int, Field(gt=0)] = Field(
        1, description="how many layers join at a time; all: everything at once"
    )


class WiseFt(Section):
    """Weights between those before and those after training (Wortsman et al. 2022)."""

    alpha: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="0: the weights before training, 1: those after; auto: the best on validation",
    )


class Lora(Section):
    """Low-rank adapters on frozen layers: Hu et al. 2021."""

    rank: int = Field(8, gt=0, description="of the two matrices of each adapter")
    alpha: float = Field(16.0, gt=0, description="what an adapter adds is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the inputs of the adapters")
    targets: Literal["auto"] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        "auto",
        description="auto: all linear layers and plain convolutions of the model's layers; or globs over names of "
        "modules, as ['*.query', '*.value']",
    )
    merge: bool = Field(True, description="true: model/ is a plain model; false: it holds the adapters alone")


def _null_as_none(value: Any) -> Any:
    """YAML's null says what the word does."""
    return "none" if value is None else value


class Tuning(Section):
    """Which weights learn, and how fast."""

    strategy: StrategyName = Field(
        "full",
        description="full: everything trains; head: only the new head; top_layers, first_layers: so many layers and "
        "the head; layer_decay: the further from the head, the slower; gradual: the head first, then layer by layer; "
        "rules: as they say; lora: adapters and the head",
    )
    layers: int | None = Field(
        None, gt=0, description="how many, for top_layers and first_layers; for lora: the last so many carry adapters"
    )
    layer_decay: float | None = Field(
        None, gt=0, lt=1, description="for layer_decay: the learning rate of a layer over that of the next one"
    )
    gradual: Gradual | None = Field(None, description="for gradual; absent: one layer more each epoch")
    rules: list[TuningRule] = Field([], description="for rules, in order: the first that matches a parameter wins")
    head_lr_scale: float = Field(1.0, gt=0, description="times the learning rate that the strategy gives the head")
    lora: Lora | None = Field(None, description="for lora: its adapters")
    cache: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether what the frozen layers give is recorded once and replayed; auto: where that saves work",
    )
    cache_dir: Annotated[str, AfterValidator(expanded)] | None = Field(
        None, description="where it is kept, from the working directory; absent: under the Hugging Face cache"
    )
    cache_dtype: Literal["float32", "float16"] = Field("float32", description="float16 takes half the room")
    cache_views: int | None = Field(
        None, gt=0, description="with augment: so many augmented passes are recorded, of which each epoch draws"
    )
    solver: Literal["gradient", "logistic"] = Field(
        "gradient",
        description="for strategy head; gradient: trained step by step; logistic: solved on the frozen features",
    )
    warm_start: Annotated[Literal["auto", "linear_probe", "none"], BeforeValidator(_null_as_none)] = Field(
        "auto",
        description="linear_probe: the head is solved before the first step (LP-FT, Kumar et al. 2022); auto: with "
        "strategy full, where a pretrained model gets a new head and solving it takes little",
    )
    batch_norm: Literal["auto", "train", "frozen"] = Field(
        "auto",
        description="of layers that train; frozen: it normalises by its pretrained statistics, while its scales learn; "
        "auto: frozen in a run of fewer than 1,000 steps",
    )
    reinit_layers: int | None = Field(
        None, gt=0, description="so many of the last layers are drawn anew before training (Zhang et al. 2021)"
    )
    ema: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="evaluate and keep a moving average of the weights, with this decay; auto: by the steps"
    )
    wise_ft: WiseFt | None = Field(None, description="after training, go back part of the way to the first weights")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_lora(cls, content: Any) -> Any:
        """A recipe with adapters says which, as all defaults are written out."""
        if isinstance(content, dict) and content.get("strategy") == "lora" and content.get("lora") is None:
            return content | {"lora": {}}
        return content
