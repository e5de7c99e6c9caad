"""Section `geometry` of params.yaml: how the stage `geometry` measures the behaviour flow."""

from __future__ import annotations

from typing import Annotated

from fd.method.bounds import Share, Within
from fd.settings.fields import Strict


class Geometry(Strict):
    """Sample of the geometry of the behaviour."""

    time: Share  # t of curvatures, scores and modes
    states: Annotated[int, Within(ge=1, le=10**5)]
    actions: Annotated[int, Within(ge=20, le=1000)]  # base actions a state, for curvatures and modes
    scores: Annotated[int, Within(ge=100, le=10**5)]  # K, scores that span F of a state, each of its own base action
