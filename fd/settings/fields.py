"""Base class and field types of all sections of params.yaml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, BaseModel, model_validator
from pydantic_core import core_schema

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


@dataclass(frozen=True)
class Form:
    """Form of a text: a regular expression, and the words that a message says instead; put it right after `str` in `Annotated`."""

    pattern: str
    words: str
    longest: int | None = None  # characters

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], core_schema.StringSchema]
    ) -> core_schema.CoreSchema:
        """The schema of the type with this pattern and length; whatever else is given, the message is `words`."""
        schema: Any = handler(source) | {"pattern": self.pattern}
        words = self.words
        if self.longest is not None:
            schema, words = schema | {"max_length": self.longest}, f"{words}, at most {self.longest} characters"
        return core_schema.custom_error_schema(schema, custom_error_type="form", custom_error_message=words)


Slug = Annotated[str, Form(r"^[a-z0-9][a-z0-9-]*$", "lower-case letters, digits and -, like antmaze-large", longest=64)]
Count = Annotated[int, Within(ge=1, le=10**9)]
Rows = Annotated[int, Within(ge=1, le=10**6)]  # number of episodes, or of steps of an episode
Seed = Annotated[int, Within(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Within(min_length=1), DISTINCT]
