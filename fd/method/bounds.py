"""Limits of a setting, stated in its type, so that the dataclasses of the agent and the sections of params.yaml share one declaration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, kw_only=True)
class Within:
    """Limits of a number, or of the length of a text, list or mapping; put it right after the type in `Annotated`.

    pydantic finds the limits by the method below, so this module and the modules that use it need no pydantic.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The schema of the type, with these limits."""
        return handler(source) | {limit: value for limit, value in vars(self).items() if value is not None}


Positive = Annotated[float, Within(gt=0, lt=float("inf"))]
NotNegative = Annotated[float, Within(ge=0, lt=float("inf"))]
Share = Annotated[float, Within(gt=0, lt=1)]
Rate = Annotated[float, Within(gt=0, le=1e30)]  # ten times this, Adam's first step, is finite in float32
Widths = Annotated[tuple[Annotated[int, Within(ge=1, le=8192)], ...], Within(min_length=1, max_length=8)]
