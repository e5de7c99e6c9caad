"""Gaussian mixtures: density, score and velocity of their path from N(0, I) in closed form, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from fd.networks.mlp import StackedMLP


@dataclass(frozen=True)
class Mixture:
    """A mixture of M Gaussians on R^A; M = 1 is a single Gaussian.

    Attributes:
        weights: [M], summing to one.
        means: [M, A].
        axes: principal axes of each component, the columns of [M, A, A].
        deviations: standard deviations along them, [M, A].
    """

    weights: Tensor
    means: Tensor
    axes: Tensor
    deviations: Tensor

    @property
    def covariances(self) -> Tensor:
        """[M, A, A]."""
        return (self.axes * self.deviations.square().unsqueeze(-2)) @ self.axes.mT

    def log_density(self, x: Tensor, t: Tensor | float = 1.0) -> Tensor:
        """log p_t(x), [...], of the path's marginal at time t ([..., 1], or one for all) for x [..., A]."""
        return self._log_components(x, t).logsumexp(dim=-1)

    def score(self, x: Tensor, t: Tensor | float = 1.0) -> Tensor:
        """grad_x log p_t(x), [..., A]: a mean of -C_m^-1 (x - t mu_m), C_m = t^2 Sigma_m + (1 - t)^2 I."""
        inner, variance = self._projected(x, t)
        each = torch.einsum("mab,...mb->...ma", self.axes, -inner / variance)
        return (self.responsibilities(x, t).unsqueeze(-1) * each).sum(dim=-2)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """v(t, x) = E[x1 - x0 | x_t = x], [..., A]: a mean of mu_m + (t Sigma_m - (1 - t) I) C_m^-1 (x - t mu_m)."""
        inner, variance = self._projected(x, t)
        slope = (_column(t) * self.deviations.square() - (1 - _column(t))) / variance
        each = self.means + torch.einsum("mab,...mb->...ma", self.axes, slope * inner)
        return (self.responsibilities(x, t).unsqueeze(-1) * each).sum(dim=-2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws, [count, A]."""
        drawn = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[-1], generator=generator, dtype=self.means.dtype)
        return self.means[drawn] + (self.axes[drawn] @ (self.deviations[drawn] * noise).unsqueeze(-1)).squeeze(-1)

    def responsibilities(self, x: Tensor, t: Tensor | float = 1.0) -> Tensor:
        """Probability of each component given x, [..., M]."""
        return self._log_components(x, t).softmax(dim=-1)

    def _projected(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """x - t mu_m in the axes of component m, and the variances of x_t along them, both [..., M, A]."""
        centred = x.unsqueeze(-2) - _column(t) * self.means
        variance = _column(t) ** 2 * self.deviations.square() + (1 - _column(t)) ** 2
        return torch.einsum("mab,...ma->...mb", self.axes, centred), variance

    def _log_components(self, x: Tensor, t: Tensor | float) -> Tensor:
        inner, variance = self._projected(x, t)
        exponent = (inner.square() / variance + variance.log() + math.log(2 * math.pi)).sum(dim=-1)
        return self.weights.log() - exponent / 2


def _column(t: Tensor | float) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64).unsqueeze(-1)


def planar(
    means: Sequence[Sequence[float]],
    *,
    deviations: Sequence[Sequence[float]],
    degrees: Sequence[float],
    weights: Sequence[float] | None = None,
) -> Mixture:
    """A mixture in the plane, with equal weights by default; `degrees` turns the first axis of each component."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    cos, sin = angles.cos(), angles.sin()
    axes = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
    shares = torch.tensor(weights or [1 / len(means)] * len(means), dtype=torch.float64)
    return Mixture(
        shares, torch.tensor(means, dtype=torch.float64), axes, torch.tensor(deviations, dtype=torch.float64)
    )


class ExactFlow(StackedMLP):
    """The exact velocity of a mixture's path, in place of a trained network; it ignores the observation."""

    def __init__(self, target: Mixture) -> None:
        super().__init__((1,), (1, 1), norm=False, generators=[torch.Generator()])
        self.target = target

    def forward(self, *inputs: Tensor, constant: bool = False) -> Tensor:
        """v(t, x) for (obs, x, t)."""
        _, x, t = inputs
        return self.target.velocity(x, t)

    def jvp(self, *inputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """v(t, x) for (obs, [x, t]) and its slopes; see `StackedMLP.jvp`."""

        def field(last: Tensor) -> Tensor:
            return self.target.velocity(last[..., :-1], last[..., -1:])

        slopes = [jvp(field, (inputs[1],), (along.expand_as(inputs[1]),))[1] for along in directions.unbind(dim=1)]
        return field(inputs[1]), torch.stack(slopes, dim=1)
