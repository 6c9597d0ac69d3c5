"""How the tasks are spoken of and asked, in cards and summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TaskWords:
    """thing: what the model is given; example: one, as Python; options: what pipeline() needs besides.

    verb: what it does, the name of the pipeline in examples.
    """

    thing: str
    example: str
    options: Mapping[str, object] = field(default_factory=dict)
    verb: str = "classify"

    @property
    def of_images(self) -> bool:
        """Whether the model is given images: its processor is one of images, and it knows no language."""
        return self.thing == "an image"

    def call(self) -> str:
        """The options as arguments of a call, each after a comma."""
        return "".join(
            f', {name}="{value}"' if isinstance(value, str) else f", {name}={value}"
            for name, value in self.options.items()
        )


WORDS: dict[str, TaskWords] = {
    "text-classification": TaskWords(thing="a text", example='"a text"', options={"truncation": True}),
    "image-classification": TaskWords(thing="an image", example='"path/to/image.png"'),
    "image-segmentation": TaskWords(thing="an image", example='"path/to/image.png"', verb="segment"),
    "object-detection": TaskWords(
        thing="an image", example='"path/to/image.png"', options={"threshold": 0.5}, verb="detect"
    ),
    "token-classification": TaskWords(
        thing="a text", example='"Ada Lovelace lived in London."', options={"aggregation_strategy": "first"}
    ),
}
