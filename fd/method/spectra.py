"""The shape of the behaviour policy, read off its flow: widths along the axes of a metric, condition numbers, and modes.

A policy of several dimensions can be narrow along one axis and wide along another. The condition number k of a metric is the ratio of
its largest to its smallest eigenvalue, which is the ratio of variances along the widest and the narrowest axis. With k = 1 the metric
is isotropic, and a Fisher trust region is the same as an isotropic one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fd.method.fisher import CURVATURE_FLOOR, unsmoothed
from fd.method.flow import velocity
from fd.networks.mlp import StackedMLP

ASCENT = 200  # most steps of an action towards its mode
STILL = 0.01  # an action has arrived when a step moves it by less than this; lengths are in units of the kernel's width 1 - t
NEAR = (
    0.2,
    0.6,
)  # actions that arrive within this distance of each other share a mode; a count is told if both distances agree on it
MASS = 0.05  # least share of a state's actions that a mode attracts
TOLD = 0.9  # share of a state's actions that must arrive at such modes; else their number is not told


def axis_variances(precisions: Tensor, t: float, *, desmooth: bool) -> Tensor:
    """Variances along the axes of a metric with these eigenvalues, [..., A] each, in units of an action.

    Absolute values count, at least CURVATURE_FLOOR: see `fd.method.fisher.curvature`.

    Args:
        precisions: eigenvalues of the metric at time t.
        t: time, within (0, 1).
        desmooth: return the variances of the policy itself, at least VARIANCE_FLOOR, instead of those of the policy that the path smooths,
            x_t / t: a kernel adds (1 - t)^2 / t^2 to each.
    """
    precisions = precisions.abs().clamp_min(CURVATURE_FLOOR)
    return unsmoothed(1 / precisions.clamp_max(1 / (1 - t) ** 2), t) if desmooth else 1 / (precisions * t**2)


def chance_condition(precisions: Tensor, scores: int, t: float, *, desmooth: bool, draws: int = 200) -> float:
    """Median condition number that F from K scores has by chance alone, where the policy is an isotropic Gaussian of the same width.

    Args:
        precisions: eigenvalues of F at time t, [N, A], whose geometric mean is the width.
        scores: K.
        t, desmooth: see `axis_variances`.
        draws: simulated states.
    """
    width, level = precisions.shape[-1], precisions.double().log().mean().exp()
    drawn = torch.randn(draws, scores, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variances = axis_variances(torch.linalg.eigvalsh(drawn.mT @ drawn / scores) * level.cpu(), t, desmooth=desmooth)
    return float((variances.amax(dim=-1) / variances.amin(dim=-1)).median())


@torch.no_grad()
def count_modes(flow: StackedMLP, obs: Tensor, actions: Tensor, t: float) -> Tensor:
    """Number of modes of the policy in each state, smoothed by the path at time t, [S, B]; 0 where it cannot be told.

    Every base action climbs the smoothed density by mean-shift: x -> t E[x1 | x_t = x] = x + (1 - t)^2 g(x), which for the exact velocity
    never falls. Places where actions come to rest, closer to each other than NEAR, are one mode; it counts if it attracts a share
    of at least MASS. Modes closer than about twice the kernel's width, (1 - t) / t in units of an action, merge, so this is a lower
    bound. It is not told if less than a share TOLD of the actions comes to rest at such modes within ASCENT steps, as on a flat
    ridge, or if the number depends on the distance within which modes count as one.

    Args:
        flow: velocity network.
        obs: [S, B, O], encoded if they are images.
        actions: M base actions of each state, [S, B, M, A].
        t: time, within (0, 1).
    """
    seeds, batch, samples, _ = actions.shape
    states, x = obs.repeat_interleave(samples, dim=1), t * actions.flatten(1, 2)
    times = torch.full_like(x[..., :1], t)
    for _ in range(ASCENT):
        before = x
        x = t * (x + (1 - t) * velocity(flow, states, x, times))
        still = (x - before).norm(dim=-1) < STILL * (1 - t)
        if still.all():
            break
    ends, still = x.view(seeds, batch, samples, -1), still.view(seeds, batch, samples)
    counts, shares = zip(*(_clusters(ends, still, radius * (1 - t)) for radius in NEAR), strict=True)
    told = (counts[0] == counts[1]) & (torch.stack(shares).amin(dim=0) >= TOLD)
    number: Tensor = counts[0] * told
    return number


def _clusters(points: Tensor, counted: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Number of clusters with a share of at least MASS of the points, and the share of points in them, [S, B] each.

    Points [S, B, M, A] that count, [S, B, M], are in one cluster if a chain of such points joins them with steps below the radius.
    """
    samples = points.shape[2]
    joined = (torch.cdist(points, points) < radius) & counted.unsqueeze(-1) & counted.unsqueeze(-2)
    for _ in range(samples.bit_length()):  # each doubles the length of the chains
        joined = (joined.float() @ joined.float()) > 0
    sizes = joined.sum(dim=-1)
    large = sizes >= MASS * samples
    number = torch.where(large, 1 / sizes.clamp_min(1), 0.0).sum(dim=-1).round().long()
    return number, large.float().mean(dim=-1)
