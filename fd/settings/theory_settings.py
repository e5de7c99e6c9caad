"""Section `theory` of params.yaml: the demonstrations on distributions that are known in closed form."""

from __future__ import annotations

from typing import Annotated

from fd.method.bounds import Positive, Rate, Share, Widths, Within
from fd.settings.fields import DISTINCT, Count, Seeds, Strict


class TheorySchedule(Strict):
    """How a stack of networks is trained; the rate falls to zero along half a cosine."""

    hidden: Widths
    steps: Count
    batch_size: Annotated[int, Within(ge=1, le=4096)]
    learning_rate: Rate


class Theory(Strict):
    """The demonstrations."""

    seeds: Seeds
    flow: TheorySchedule
    refine: TheorySchedule  # critics, policies and displacements
    flow_steps: Annotated[int, Within(ge=1, le=1000)]
    times: Annotated[tuple[Share, ...], Within(min_length=1), DISTINCT]  # at which the optimality gap is trained
    fisher_samples: Annotated[
        int, Within(ge=8192, le=10**6)
    ]  # K of the optimality gap; its batches are drawn from these scores
    budget: Positive  # of every refinement of the bandit's table and figure
    budgets: Annotated[tuple[Positive, ...], Within(min_length=2, max_length=64), DISTINCT]  # of value against KL
    t_eps: Share  # at which the scores of the bandit are computed
    alpha: Positive  # of FQL in the bandit
