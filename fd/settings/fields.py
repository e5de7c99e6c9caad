"""Base class and field types of all sections of params.yaml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, BaseModel, StringConstraints, model_validator

from fd.method.bounds import Within

T = TypeVar("T", bound=Collection[Any])


@dataclass_transform(
    kw_only_default=True, frozen_default=True
)  # so that mypy lets a section inherit fields of fd.method.spec
class Strict(BaseModel, extra="forbid", frozen=True, strict=True):
    """A section of params.yaml: unknown keys and wrong types are errors."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        unknown = [key for key in raw if key not in cls.model_fields] if isinstance(raw, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}, allowed: {', '.join(cls.model_fields)}")
        return raw


def _each_once(items: T) -> T:
    """The items, or the mapping with these items as values; ValueError if two are equal."""
    found = Counter(items.values() if isinstance(items, Mapping) else items)
    twice = [item for item, times in found.items() if times > 1]
    if twice:
        raise ValueError(f"duplicate {twice[0]!r}, allowed: each once")
    return items


DISTINCT = AfterValidator(_each_once)

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Count = Annotated[int, Within(ge=1, le=10**9)]
Rows = Annotated[int, Within(ge=1, le=10**6)]  # number of episodes, or of steps of an episode
Seed = Annotated[int, Within(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Within(min_length=1), DISTINCT]
