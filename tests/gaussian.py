"""A Gaussian behaviour policy, whose velocity and scores are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from fd.networks.mlp import StackedMLP


class GaussianFlow(StackedMLP):
    """The exact velocity field of the path from N(0, I) to N(mean, covariance), in place of a trained network."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__((1,), (1, 1), norm=False, generators=[torch.Generator()])
        self.mean, self.covariance = mean, covariance

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [..., A] and covariance [..., A, A] of x_t, for t [..., 1]."""
        eye = torch.eye(len(self.mean), dtype=self.mean.dtype)
        t2 = t.unsqueeze(-1)
        return t * self.mean, t2**2 * self.covariance + (1 - t2) ** 2 * eye

    def forward(self, *inputs: Tensor, constant: bool = False) -> Tensor:
        """E[x1 - x0 | x_t = x] for obs (unused), x [..., A] and t [..., 1]."""
        _, x, t = inputs
        mean, covariance = self.marginal(t)
        eye = torch.eye(len(self.mean), dtype=self.mean.dtype)
        t2 = t.unsqueeze(-1)
        slope = (t2 * self.covariance - (1 - t2) * eye) @ covariance.inverse()
        return self.mean + (slope @ (x - mean).unsqueeze(-1)).squeeze(-1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad_x log p_t(x)."""
        mean, covariance = self.marginal(t)
        return -(covariance.inverse() @ (x - mean).unsqueeze(-1)).squeeze(-1)


def gaussian(width: int = 3) -> GaussianFlow:
    """Standard deviations from 0.05 to 0.3 along rotated axes, in float64."""
    g = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]
    deviations = torch.linspace(0.05, 0.3, width, dtype=torch.float64)
    mean = torch.linspace(-0.2, 0.3, width, dtype=torch.float64)
    return GaussianFlow(mean, rotation @ torch.diag(deviations**2) @ rotation.T)
