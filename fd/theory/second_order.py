"""The true KL of a displaced policy against the quadratic forms that approximate it, as the displacement shrinks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vmap

from fd.method.fisher import Metric, basis, divergence, penalty
from fd.theory.distributions import Mixture, planar
from fd.theory.kl import Field, grid, kl

NODES = 160  # of the grid, per dimension
SCALES = tuple(0.5**power for power in range(2, 8))  # factors on a displacement field
ROUNDING = 1e-11  # differences below this are errors of quadrature and rounding
FORMS = ("identity", "state", "score", "curvature", "stein")
DROPPED = "dropped"  # what `stein` has and `curvature` has not


@dataclass(frozen=True)
class Case:
    """A target, a field, and at each of SCALES the root mean square of the displacement, the KL, each form and DROPPED, nats."""

    target: str
    field: str
    lengths: list[float]
    kl: list[float]
    forms: dict[str, list[float]]

    def errors(self, form: str) -> list[float]:
        """|KL - form| at each scale."""
        return [abs(true - value) for true, value in zip(self.kl, self.forms[form], strict=True)]

    def slope(self, form: str) -> float | None:
        """Order in |delta| at which |KL - form| falls, a least-squares fit of logarithms; None where the form is exact."""
        errors = self.errors(form)
        if max(errors) < ROUNDING:
            return None
        x, y = torch.tensor(self.lengths).log(), torch.tensor(errors).log()
        return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def targets() -> dict[str, Mixture]:
    """A Gaussian and an asymmetric mixture of three."""
    return {
        "Gaussian": planar([(0.2, -0.1)], deviations=[(0.5, 0.2)], degrees=[30]),
        "mixture": planar(
            [(-0.5, 0.3), (0.4, 0.4), (0.2, -0.5)],
            deviations=[(0.35, 0.2), (0.25, 0.2), (0.4, 0.22)],
            degrees=[20, -50, 70],
            weights=[0.5, 0.3, 0.2],
        ),
    }


def fields() -> Mapping[str, Field]:
    """Displacement fields without symmetry, of order 0.1 before they are scaled."""
    shift = torch.tensor([0.10, 0.06], dtype=torch.float64)
    matrix = torch.tensor([[-0.25, 0.10], [0.05, -0.15]], dtype=torch.float64)

    def swirl(x: Tensor) -> Tensor:
        first, second = x.unbind(dim=-1)
        return 0.1 * torch.stack(
            [(2 * second + first).sin() + 0.5 * first, (1.5 * first).cos() * second.tanh()], dim=-1
        )

    return {"constant": shift.expand_as, "linear": lambda x: x @ matrix.T, "non-linear": swirl}


def forms(target: Mixture, field: Field) -> dict[str, float]:
    """The second-order forms of one field, nats, and DROPPED, on the grid.

    `identity` has its best scale, the mean eigenvalue of the Fisher information; `state` is 1/2 E[delta' F delta] with F = E[g g'];
    `score` is 1/2 E[(g . delta)^2] and `stein` 1/2 E[(g . delta + div delta)^2]. These are A / 2 times the mean penalty of
    `fd.method.fisher`, unnormalised. `curvature` is 1/2 E[delta' H delta] with H = -grad g, whose eigenvalues keep their signs here.
    Integration by parts gives stein = curvature + 1/2 E[tr (grad delta)^2]; the last term is DROPPED.
    """
    points, weights = grid(target, NODES)
    x, delta = points.unsqueeze(0), field(points.unsqueeze(0))
    scores = target.score(x).unsqueeze(-2)
    slopes, bends = _slopes(field, x), _slopes(target.score, x)
    half = points.shape[-1] / 2
    fisher = torch.einsum("n,na,nb->ab", weights, scores[0, :, 0], scores[0, :, 0])
    spanned = torch.linalg.cholesky(fisher * points.shape[-1]).mT

    def mean(vectors: Tensor | None, kind: str, div: Tensor | None = None) -> float:
        return float(half * (penalty(delta, vectors, Metric(kind, 0.0, "none"), div) @ weights))

    return {
        "identity": mean(None, "identity") * float(fisher.trace()) / points.shape[-1],
        "state": mean(spanned.expand(1, 1, -1, -1), "state"),
        "score": mean(scores, "action"),
        "curvature": float(-torch.einsum("sna,sanb,snb->sn", delta, bends, delta) @ weights) / 2,
        "stein": mean(scores, "stein", divergence(slopes, None)),
        DROPPED: float(torch.einsum("sanb,sbna->sn", slopes, slopes) @ weights) / 2,
    }


def _slopes(field: Field, x: Tensor) -> Tensor:
    """Derivatives of a field at x [S, B, A] along every axis, [S, A, B, A], the axis first."""
    found: Tensor = vmap(lambda v: jvp(field, (x,), (v.expand_as(x),))[1], in_dims=1, out_dims=1)(basis(x))
    return found


def cases() -> list[Case]:
    """Every target and field at every scale."""
    found = []
    for target_name, target in targets().items():
        points, weights = grid(target, NODES)
        for field_name, field in fields().items():
            length = math.sqrt(float(field(points).square().sum(dim=-1) @ weights))
            unscaled = forms(target, field)
            divergences = [float(kl(target, _scaled(field, scale), nodes=NODES)[0]) for scale in SCALES]
            values = {name: [value * scale**2 for scale in SCALES] for name, value in unscaled.items()}
            found.append(Case(target_name, field_name, [length * s for s in SCALES], divergences, values))
    return found


def _scaled(field: Field, scale: float) -> Field:
    return lambda x: scale * field(x)
