"""The section `hub:` of a recipe: where on the Hub the finished model goes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from hf_sft.recipe_section import Section

NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+", re.ASCII)
LONGEST_NAME = 96  # characters, as the Hub counts them


def _repo_id(name: str) -> str:
    parts = name.split("/")
    odd = any(part[:1] in ("-", ".") or part[-1:] in ("-", ".") for part in parts) or name.endswith(".git")
    if not NAME.fullmatch(name) or odd or "--" in name or ".." in name or len(name) > LONGEST_NAME:
        expected = "the name of a repository on the Hub, as me/my-model or my-model"
        fix = f"letters, digits, - _ and . (at most {LONGEST_NAME}), no -- or .., neither - nor . at an end"
        raise PydanticCustomError("recipe", "{expected}", {"expected": expected, "found": name[:200], "fix": fix})
    return name


RepoId = Annotated[str, AfterValidator(_repo_id)]


class Hub(Section):
    """Where the model is pushed to. What is checked and created before training stands in docs/hub.md."""

    repo_id: RepoId = Field(description="me/my-model; without an owner it is the account that is logged in")
    private: bool | None = Field(
        None, description="absent: a new repository is private, an existing one stays as it is"
    )
    every: Literal["end", "checkpoint"] = Field(
        "end", description="checkpoint: the weights of each checkpoint too, on the branch `checkpoints`"
    )
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None = Field(
        None, description="the Hub's word for it, as apache-2.0; absent: that of the pretrained model"
    )
    examples: int = Field(
        3, ge=0, le=10, description="rows of validation that the model's page offers to try, published with it"
    )
