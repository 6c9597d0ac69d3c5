"""The section `inspect:` of a recipe: what a run keeps for those who look inside it later."""

from __future__ import annotations

from pydantic import Field

from hf_sft.recipe_section import Section


class Inspect(Section):
    """What `hf-sft inspect` cannot find out afterwards. Off, a run keeps and costs nothing more."""

    record: bool = Field(
        False,
        description="keep, while training, the gradient norm of each block and how each training row fared in each "
        "epoch (report/recorded/)",
    )
