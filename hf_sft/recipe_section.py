"""What all sections of a recipe have in common."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo


def expanded(folder: str) -> str:
    """A folder with ~ and $VARIABLES replaced."""
    return os.path.expanduser(os.path.expandvars(folder))


def _empty_of(field: FieldInfo) -> Any:
    """The empty section or list that a key of that kind may be; None for other kinds."""
    if field.is_required():
        return {} if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None
    default = field.get_default()
    return default if isinstance(default, (BaseModel, dict, list)) else None


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, numbers written as text too, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_empty_sections(cls, content: Any) -> Any:
        """`processor:` with nothing after it (its keys commented out, say) is an empty section; so with lists."""
        if not isinstance(content, dict):
            return content
        unset = [key for key, value in content.items() if value is None and key in cls.model_fields]
        filled = {key: _empty_of(cls.model_fields[key]) for key in unset}
        return content | {key: value for key, value in filled.items() if value is not None}
