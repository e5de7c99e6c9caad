"""Scores of the behaviour flow and the quadratic forms that they span: how far a displacement moves the policy.

With K scores g_k of one state, F(s) = mean_k g_k g_k' + damping I. F itself is never built: delta' F delta is a mean of squared
projections plus damping |delta|^2, and tr F a mean of squared norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from fd.method.flow import velocity
from fd.networks.mlp import StackedMLP

TRACE_FLOOR = 1e-6  # of tr F / A, so that normalisation never divides by zero
TIME_FLOOR = 1e-6  # of 1 - t, likewise
VARIANCE_FLOOR = 1e-4  # of a desmoothed covariance: standard deviations below 0.01 count as 0.01
CURVATURE_FLOOR = 1e-2  # of a curvature's eigenvalues: standard deviations above 10 count as 10
EIGH = 16384  # matrices whose eigenvalues are computed by one call
EXACT_DIVERGENCE = 8  # widest action whose divergence is exact; above, Hutchinson's estimate
LEADING = (
    8  # eigenpairs that are kept of the curvature at an action; those of a wider action beyond them count as their mean
)


@dataclass(frozen=True)
class Metric:
    """How a displacement is measured.

    Attributes:
        kind: `identity`, mean_A(delta^2); `state`, delta' F(s) delta / A; `action`, the same with the one score at the base action;
            `curvature`, the same with the curvature of -log p at the base action; `stein`, (g . delta + div delta)^2 / A.
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
    `velocity` is v / (1 - t), which the official code uses instead; it is not the score.

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
def state_scores(
    flow: StackedMLP, obs: Tensor, actions: Tensor, *, x0: Tensor | None, t: Tensor, formula: str
) -> Tensor:
    """K scores of each state, [S, B, K, A], at x_k = (1 - t) x0_k + t a_k, or at the actions a_k themselves.

    Args:
        flow: velocity network.
        obs: [S, B, O], or images, which are encoded once.
        actions: K base actions a_k of each state, [S, B, K, A].
        x0: standard normal noise, [S, B, K, A]; None for the scores at the actions.
        t: [S, B, K, 1].
        formula: see `score`.
    """
    seeds, batch, samples, _ = actions.shape
    flat_obs = flow.features(obs).unsqueeze(2).expand(-1, -1, samples, -1).reshape(seeds, batch * samples, -1)
    x = actions if x0 is None else (1 - t) * x0 + t * actions
    return score(flow, flat_obs, x.flatten(1, 2), t.flatten(1, 2), formula=formula).view_as(actions)


@torch.no_grad()
def desmoothed(scores: Tensor, t: float) -> Tensor:
    """A vectors of each state with the mean outer product F_1 = Sigma_hat^-1, [..., A, A], from K scores at time t, [..., K, A].

    F_t is the Fisher information of the policy smoothed by the path, C_t = t^2 Sigma + (1 - t)^2 I for a Gaussian policy. This
    function undoes the smoothing, Sigma_hat = (F_t^-1 - (1 - t)^2 I) / t^2, exactly for a Gaussian. Eigenvalues of F_t are clamped to
    at most 1 / (1 - t)^2, which only estimates exceed, and those of Sigma_hat to at least VARIANCE_FLOOR.
    """
    samples, width = scores.shape[-2:]
    values, vectors = eigh(scores.mT @ scores / samples)
    variance = unsmoothed(1 / values.clamp(min=TRACE_FLOOR, max=1 / (1 - t) ** 2), t)
    factor: Tensor = vectors * (width / variance).sqrt().unsqueeze(-2)
    return factor.mT.contiguous()


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., A], ascending, and eigenvectors, as columns [..., A, A], of symmetric matrices [..., A, A].

    At most EIGH matrices go into one call: from about 32,000 on, the batched routine of cuSOLVER fails.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    if len(flat) <= EIGH:
        found: tuple[Tensor, Tensor] = torch.linalg.eigh(matrices)
        return found
    values, vectors = flat.new_empty(flat.shape[:-1]), torch.empty_like(flat).mT
    for low in range(0, len(flat), EIGH):
        values[low : low + EIGH], vectors[low : low + EIGH] = torch.linalg.eigh(flat[low : low + EIGH])
    return values.view(matrices.shape[:-1]), vectors.mT.view(matrices.shape).mT


def eigvalsh(matrices: Tensor) -> Tensor:
    """The eigenvalues alone; see `eigh`."""
    parts = torch.split(matrices.reshape(-1, *matrices.shape[-2:]), EIGH)
    return torch.cat([torch.linalg.eigvalsh(part) for part in parts]).view(matrices.shape[:-1])


def unsmoothed(variance: Tensor, t: float | Tensor) -> Tensor:
    """Variances of the policy from those of its path marginal at time t, of the same shape, at least VARIANCE_FLOOR."""
    return ((variance - (1 - t) ** 2) / t**2).clamp_min(VARIANCE_FLOOR)


@torch.no_grad()
def hessian(flow: StackedMLP, obs: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """-grad_x g, the matrix of second derivatives of -log p_t, [S, B, A, A], symmetric, from A slopes of the velocity.

    Args:
        flow, obs, x, t: see `score`.
    """
    eye = basis(x)
    slopes = flow.jvp(obs, torch.cat((x, t), dim=-1), directions=pad(eye, (0, 1)))[1]  # none along t
    matrix = (eye - t.unsqueeze(1) * slopes).movedim(1, -1) / (1 - t).clamp_min(TIME_FLOOR).unsqueeze(-1)
    return (matrix + matrix.mT) / 2


@torch.no_grad()
def curvature(
    flow: StackedMLP, obs: Tensor, actions: Tensor, t: Tensor, *, desmooth: bool
) -> tuple[Tensor, Tensor | None]:
    """The curvature H = -grad g of -log p_t at x = t a_b: the inverse covariance, locally, of the mode that a base action lies in.

    By the information identity, its mean over actions is the Fisher information, E[g g'] = E[-grad g]. Unlike g g' it has full rank at
    every single action, and unlike a state's F it does not average over modes. Between two modes an eigenvalue is negative; its absolute
    value counts, as in saddle-free Newton steps, because otherwise a displacement there would cost nothing.

    Args:
        flow: velocity network.
        obs: [S, B, O].
        actions: base actions a_b, [S, B, A].
        t: [S, B, 1], below 1.
        desmooth: undo the smoothing by the path, as `desmoothed` does, but for each action by itself.

    Returns:
        K = min(A, LEADING) vectors [S, B, K, A] and numbers r [S, B] with H = mean_k g_k g_k' + r I. For A <= LEADING this is exact and
        r is None, for 0. For wider actions the K largest eigenvalues are exact, and r is the mean of the others.
    """
    values, vectors = eigh(hessian(flow, obs, t * actions, t))
    values = values.abs().clamp_min(CURVATURE_FLOOR)
    if desmooth:
        values = 1 / unsmoothed(1 / values.minimum(1 / (1 - t) ** 2), t)
    rest = None
    if actions.shape[-1] > LEADING:
        values, order = values.sort(dim=-1, descending=True)
        vectors = vectors.gather(-1, order[..., None, :LEADING].expand(*vectors.shape[:-1], -1))
        rest, values = values[..., LEADING:].mean(dim=-1), values[..., :LEADING]
        values = values - rest.unsqueeze(-1)
    factor: Tensor = vectors * (values.shape[-1] * values).sqrt().unsqueeze(-2)
    return factor.mT.contiguous(), rest


def basis(x: Tensor) -> Tensor:
    """The A directions along which the slopes of a field at x [..., A] give its exact divergence, [1, A, 1, A]."""
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[None, :, None]


def divergence(slopes: Tensor, probes: Tensor | None) -> Tensor:
    """Divergence [S, B, P] of a field [S, B, A] that treats every row independently, from its slopes J v, [S, P, B, A].

    Without probes, the slopes are along the `basis` and the divergence is exact, P = 1. With slopes along Rademacher probes v
    [S, P, B, A], the result is P independent unbiased estimates v . (J v) (Hutchinson).
    """
    if probes is None:
        return (slopes * basis(slopes)).sum(dim=(1, -1)).unsqueeze(-1)
    return (slopes * probes).sum(dim=-1).movedim(1, -1)


def penalty(
    delta: Tensor, scores: Tensor | None, metric: Metric, div: Tensor | None = None, rest: Tensor | None = None
) -> Tensor:
    """c(s, a_b), the penalty of a displacement, [S, B].

    An isotropic F gives mean_A(delta^2) under `state` normalisation, so a budget means the same under every metric. The Stein form is,
    without normalisation and damping, 2 / A times the KL to second order.

    Args:
        delta: displacements, [S, B, A].
        scores: K scores of each state, [S, B, K, A] (K = 1 at a base action); None for the identity.
        metric: see `Metric`.
        div: div delta, [S, B, P], for `stein`. Two estimates (P = 2) make the square unbiased as well.
        rest: isotropic part of `curvature`, [S, B]; see `curvature`.

    Source: arXiv 2604.17919 (Fisher form); arXiv 2601.10471 (identity). Deviation: `stein`, `curvature` and `desmooth` are this project's
    own.
    """
    if scores is None:
        return delta.square().mean(dim=-1)
    width = delta.shape[-1]
    # [S, B, K]; K last, because a compiled sum over an axis before one as short as A starts all threads for every state.
    projections = (scores.mT.contiguous() * delta.unsqueeze(-1)).sum(dim=-2)
    if div is None:
        form = projections.square().mean(dim=-1)
    else:
        form = (projections[..., 0] + div[..., 0]) * (projections[..., 0] + div[..., -1])
    isotropic = metric.damping if rest is None else metric.damping + rest
    form = (form + isotropic * delta.square().sum(dim=-1)) / width
    if metric.normalise == "none":
        return form
    trace = mean_trace(scores, metric, rest)
    if metric.normalise == "batch":
        trace = trace.mean(dim=-1, keepdim=True)
    return form / trace.clamp_min(TRACE_FLOOR)


def mean_trace(scores: Tensor, metric: Metric, rest: Tensor | None = None) -> Tensor:
    """tr F / A, the mean eigenvalue of the Fisher information, [S, B], for scores [S, B, K, A]; see `penalty`."""
    trace = scores.square().mean(dim=(-2, -1)) + metric.damping
    return trace if rest is None else trace + rest
