"""KL(T#p || p) of a displaced policy T(a) = a + delta(a), to rounding: the change of variables, integrated on a grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import jvp, vmap

from fd.theory.distributions import Mixture

Field = Callable[[Tensor], Tensor]  # [S, B, A] -> [S, B, A], every row by itself

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
    return points, target.density(points).exp() * cell


def kl(target: Mixture, field: Field, *, nodes: int) -> Tensor:
    """KL(T#p || p) = E_p[log p(a) - log det(I + grad delta(a)) - log p(a + delta(a))], [S].

    Args:
        target: p.
        field: delta, in float64.
        nodes: of the grid, per dimension.

    A member whose T folds the plane on more than FOLDED of the mass is NaN: its density is not this one.
    """
    points, weights = grid(target, nodes)
    x = points.unsqueeze(0)
    delta = field(x)
    volume = torch.linalg.det(torch.eye(x.shape[-1], dtype=x.dtype) + jacobian(field, x))
    folded = (volume <= 0).to(x.dtype) @ weights
    gained = target.density(x) - volume.clamp_min(TINY).log() - target.density(x + delta)
    return (gained @ weights).masked_fill(folded > FOLDED, float("nan"))


def jacobian(field: Field, x: Tensor) -> Tensor:
    """d delta_i / d a_j, [S, B, A, A], at x [1, B, A] or [S, B, A]."""
    width = x.shape[-1]
    basis = torch.eye(width, dtype=x.dtype).view(width, 1, 1, width).expand(-1, *x.shape)
    columns: Tensor = vmap(partial(_along, field, x))(basis)
    return columns.movedim(0, -1)


def _along(field: Field, x: Tensor, direction: Tensor) -> Tensor:
    out: Tensor = jvp(field, (x,), (direction,))[1]
    return out
