"""Section `evaluate` of params.yaml, and how the policy of a method acts."""

from __future__ import annotations

from typing import Annotated

from fd.method.bounds import Positive, Within
from fd.settings.fields import Count, Rows, Strict


class Evaluate(Strict):
    """Episodes in the simulator at every evaluated step."""

    episodes: Rows  # per seed and evaluated step
    environments: Annotated[int, Within(ge=1, le=4096)]  # simulators alive in a process, shared by the seeds
    timeout: Positive  # seconds without progress (for example a step) after which a simulator counts as hung
    final_evaluations: Count  # the score is the mean over the last ones


class Act(Strict):
    """How a trained policy acts in a simulator."""

    best_of: Annotated[int, Within(ge=1, le=1024)]  # actions drawn per state; the one with the highest Q is taken
    refinements: Annotated[int, Within(ge=1, le=64)]  # times that the residual is applied
