"""KL(T#p || p) of a displaced policy T(a) = a + delta(a), to rounding: the change of variables, integrated on a grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fd.theory.distributions import Mixture

Field = Callable[[Tensor], Tensor]  # [S, B, A] -> [S, B, A], each row independently

REACH = 8.0  # standard deviations of the outermost components: mass below 1e-14 lies beyond
FOLDED = 1e-10
TINY = 1e-12  # of a determinant


def grid(target: Mixture, nodes: int) -> tuple[Tensor, Tensor]:
    """Points [N, A] and weights [N], N = nodes^A, of the trapezoidal rule for means under the target.

    It converges exponentially for a smooth integrand that vanishes at the borders. The grid lies along the principal axes of the
    whole target.
    """
    mean = target.weights @ target.means
    centred = target.means - mean
    spread = torch.einsum(
        "m,mab->ab", target.weights, target.covariances + centred.unsqueeze(-1) * centred.unsqueeze(-2)
    )
    axes = torch.linalg.eigh(spread)[1]
    deviation = (axes.mT @ target.covariances @ axes).diagonal(dim1=-2, dim2=-1).sqrt()
    centre = centred @ axes
    low, high = (centre - REACH * deviation).amin(dim=0), (centre + REACH * deviation).amax(dim=0)
    ticks = [torch.linspace(float(a), float(b), nodes, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    points = torch.cartesian_prod(*ticks) @ axes.mT + mean
    cell = ((high - low) / (nodes - 1)).prod()
    return points, target.log_density(points).exp() * cell


def kl(target: Mixture, field: Field, *, nodes: int) -> tuple[Tensor, Tensor]:
    """KL(T#p || p) = E_p[log p(a) - log det(I + grad delta(a)) - log p(a + delta(a))], [S], and whether T folds the plane, [S].

    Args:
        target: p.
        field: delta, in float64.
        nodes: of the grid, per dimension.

    T folds if det(I + grad delta) <= 0 on more than FOLDED of the mass; the change of variables then fails, and the KL is meaningless.
    """
    points, weights = grid(target, nodes)
    x = points.unsqueeze(0)
    moved, volume = _transported(field, x)
    folded: Tensor = (volume <= 0).to(x.dtype) @ weights
    gained = target.log_density(x) - volume.clamp_min(TINY).log() - target.log_density(moved)
    found: Tensor = gained @ weights
    return found, folded > FOLDED


def _transported(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """T(x) of every member, [S, B, A], and det grad T, [S, B], for x [1, B, A]."""
    members = field(x).shape[0]
    with torch.enable_grad():
        each = x.expand(members, -1, -1).clone().requires_grad_()
        moved = each + field(each)
        rows = [torch.autograd.grad(part.sum(), each, retain_graph=True)[0] for part in moved.unbind(dim=-1)]
    return moved.detach(), torch.linalg.det(torch.stack(rows, dim=-2))
