"""Checks values against a model; an error is one line: the path in the file, the value, what is allowed."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from fd.errors import FdError

T = TypeVar("T")

_SHAPES = {
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
}
_UNIONS = ("data", "generate", "train")
_TAGS = {
    "generate",
    "ogbench",
    "minari",
    "d4rl",
    "play",
    "navigate",
    "waypoint",
    "push",
}  # of the unions, not keys of the file
_TAGS |= {"flow", "onestep", "residual", "gaussian", "deterministic"}


def known(name: str, names: Collection[str], place: str) -> None:
    """Check that a name is one of those at a place; FdError when it is not."""
    if name not in names:
        raise FdError(f"{place}: {name!r} does not exist, allowed: {', '.join(names) or 'none yet'}")


def validated(kind: type[T] | TypeAdapter[T], value: Any, *place: str) -> T:
    """The value as an instance of `kind`.

    Raises:
        FdError: it is invalid; the message names the first error or, if that is a missing key, all missing keys beside it.
    """
    try:
        return (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).validate_python(_tuples(value))
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        absent = [
            str(e["loc"][-1])
            for e in others
            if e["type"] == "missing" == first["type"] and e["loc"][:-1] == first["loc"][:-1]
        ]
        raise FdError(_told(first, place) + "".join(f", {key} too" for key in absent)) from None


def _told(error: ErrorDetails, place: tuple[str, ...]) -> str:
    """One line on a violation at or below a place."""
    pairs = itertools.pairwise(("", *place, *error["loc"]))
    keys = [str(key) for before, key in pairs if key != "[key]" and not (before in _UNIONS and key in _TAGS)]
    kind, context = error["type"], error.get("ctx", {})
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "missing":
        message = "is missing"
    elif kind == "union_tag_not_found":
        message = f"the key {context['discriminator']} is missing"
    elif kind == "union_tag_invalid":
        keys.append(str(context["discriminator"]).strip("'"))
        message = f"{context['tag']!r}, allowed: {context['expected_tags']}"
    elif kind != "value_error":
        message = message.split(" after validation")[0].split("should have ")[-1].replace("String should", "text to")
        message = f"{_shown(error['input'])}, allowed: {_SHAPES.get(kind, message)}"
    return ": ".join(part for part in (".".join(keys), message) if part)


def _shown(value: Any) -> str:
    """A value as in the file, shortened if it is long."""
    shown = repr(list(value) if isinstance(value, tuple) else value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _tuples(value: Any) -> Any:
    """The value with every list as a tuple, as strict models require."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
