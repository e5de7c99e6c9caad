"""Error of the score that is computed from a velocity field: zero up to rounding for an exact field, against t for a learned one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fd.method.fisher import score
from fd.networks.mlp import StackedMLP
from fd.theory.distributions import ExactFlow, Mixture
from fd.theory.fit import members_of, nothing

EXACT_TIMES = (0.0, 0.2, 0.5, 0.8, 0.9, 0.99)
TIMES = (
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.75,
    0.8,
    0.85,
    0.88,
    0.9,
    0.92,
    0.94,
    0.95,
    0.96,
    0.97,
    0.975,
    0.98,
    0.985,
    0.99,
    0.995,
)
POINTS = 4096


@dataclass(frozen=True)
class Curve:
    """Errors of one target's scores at TIMES, relative root mean squares at actions of the target.

    Attributes:
        total: learned score against the target's own score, one list per seed.
        noise: learned score against the score of the path marginal at the same t, one list per seed.
        smoothing: score of that marginal against the target's own, the error that remains with an exact velocity.
    """

    target: str
    total: list[list[float]]
    noise: list[list[float]]
    smoothing: list[float]

    @property
    def best(self) -> float:
        """The time of TIMES at which the mean over seeds of `total` is least."""
        mean = torch.tensor(self.total).mean(dim=0)
        return TIMES[int(mean.argmin())]

    @property
    def each(self) -> list[float]:
        """The time of TIMES at which `total` is least, for each seed."""
        return [TIMES[int(torch.tensor(run).argmin())] for run in self.total]


def formula_errors(targets: Mapping[str, Mixture]) -> dict[tuple[str, str], list[float]]:
    """Relative root-mean-square error of both formulas at EXACT_TIMES on the exact velocity, at points of the path."""
    found = {}
    for name, target in targets.items():
        flow = ExactFlow(target)
        generator = torch.Generator().manual_seed(0)
        x1 = target.sample(POINTS, generator)
        x0 = torch.randn(x1.shape, generator=generator, dtype=x1.dtype)
        for formula in ("exact", "velocity"):
            errors = []
            for t in EXACT_TIMES:
                x = ((1 - t) * x0 + t * x1).unsqueeze(0)
                read = score(flow, nothing(x), x, torch.full_like(x[..., :1], t), formula=formula)
                errors.append(float(_relative(read, target.score(x, t), target.score(x, t))))
            found[name, formula] = errors
    return found


def curve(name: str, target: Mixture, flow: StackedMLP, first: int, seeds: Sequence[int]) -> Curve:
    """Errors of the members first, ... of a stack of learned flows, one per seed, at fresh actions of their target."""
    learned = members_of(flow, range(first, first + len(seeds)))
    x = target.sample(POINTS, torch.Generator().manual_seed(1)).unsqueeze(0)
    own = target.score(x)
    wide = x.float().expand(len(seeds), -1, -1)
    total, noise, smoothing = [], [], []
    for t in TIMES:
        read = score(learned, nothing(wide), wide, torch.full_like(wide[..., :1], t), formula="exact").double()
        smooth = target.score(x, t)
        total.append(_relative(read, own, own))
        noise.append(_relative(read, smooth, own))
        smoothing.append(float(_relative(smooth, own, own)))
    return Curve(name, torch.stack(total, dim=1).tolist(), torch.stack(noise, dim=1).tolist(), smoothing)


def _relative(found: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """Root mean square of found - true over that of `scale`, [S]."""
    return ((found - true).square().mean(dim=(-2, -1)) / scale.square().mean(dim=(-2, -1))).sqrt()
