"""Scores of the behaviour flow and the Fisher metric that they span.

With K scores g_k of one state, F(s) = mean_k g_k g_k' + damping I. F itself is never built: delta' F delta is a mean of squared
projections plus damping |delta|^2, and tr F a mean of squared norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fd.flow import velocity
from fd.nets import StackedMLP

TRACE_FLOOR = 1e-6  # of tr F / A, so that normalisation never divides by zero
TIME_FLOOR = 1e-6  # of 1 - t, likewise


@dataclass(frozen=True)
class Metric:
    """How a displacement is measured.

    Attributes:
        kind: `identity`, mean_A(delta^2), or `state`, delta' F(s) delta / A.
        damping: added to the diagonal of F, at least 0.
        normalise: F is divided by tr F / A of the `state`, by its mean over the `batch`, or not (`none`).
    """

    kind: str
    damping: float
    normalise: str


@torch.no_grad()
def score(flow: StackedMLP, obs: Tensor, x: Tensor, t: Tensor, *, formula: str) -> Tensor:
    """Score g = grad_x log p_t(x | s) of the path marginal, [S, B, A].

    `exact` is (t v - x) / (1 - t): x0 given x_t has mean x - t v, and g = -E[x0 | x_t] / (1 - t).
    `velocity` is v / (1 - t), which the official code uses in its place; it is not the score.

    Args:
        flow: velocity network.
        obs: [S, B, O].
        x: points on the path at time t, [S, B, A].
        t: [S, B, 1], below 1.
        formula: `exact` or `velocity`.

    Source: arXiv 2604.17919; https://github.com/ARC0127/Fisher-Decorator for `velocity`.
    """
    v = velocity(flow, obs, x, t)
    numerator = t * v - x if formula == "exact" else v
    return numerator / (1 - t).clamp_min(TIME_FLOOR)


@torch.no_grad()
def state_scores(flow: StackedMLP, obs: Tensor, actions: Tensor, *, x0: Tensor, t: Tensor, formula: str) -> Tensor:
    """K scores of each state, [S, B, K, A], at x_k = (1 - t) x0_k + t a_k.

    Args:
        flow: velocity network.
        obs: [S, B, O].
        actions: K base actions a_k of each state, [S, B, K, A].
        x0: standard normal noise, [S, B, K, A].
        t: [S, B, K, 1].
        formula: see `score`.
    """
    seeds, batch, samples, _ = actions.shape
    flat_obs = obs.unsqueeze(2).expand(-1, -1, samples, -1).reshape(seeds, batch * samples, -1)
    x = ((1 - t) * x0 + t * actions).flatten(1, 2)
    return score(flow, flat_obs, x, t.flatten(1, 2), formula=formula).view_as(actions)


def penalty(delta: Tensor, scores: Tensor | None, metric: Metric) -> Tensor:
    """c(s, a_b), the penalty of a displacement, [S, B].

    An isotropic F gives mean_A(delta^2) under `state` normalisation, so a budget means the same under every metric.

    Args:
        delta: displacements, [S, B, A].
        scores: K scores of each state, [S, B, K, A]; None for the identity.
        metric: see `Metric`.

    Source: arXiv 2604.17919 (Fisher form); arXiv 2601.10471 (identity).
    """
    if scores is None:
        return delta.square().mean(dim=-1)
    width = delta.shape[-1]
    projections = (scores @ delta.unsqueeze(-1)).squeeze(-1)  # [S, B, K]
    form = (projections.square().mean(dim=-1) + metric.damping * delta.square().sum(dim=-1)) / width
    if metric.normalise == "none":
        return form
    trace = scores.square().sum(dim=-1).mean(dim=-1) / width + metric.damping  # tr F / A, [S, B]
    if metric.normalise == "batch":
        trace = trace.mean(dim=-1, keepdim=True)
    return form / trace.clamp_min(TRACE_FLOOR)
