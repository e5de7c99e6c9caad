"""The behaviour flow on a Gaussian policy, where its velocity, its loss and its base actions are known."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian import GaussianFlow

from fd.method.flow import base_actions, matching_loss, velocity
from fd.networks.mlp import StackedMLP


def test_loss_is_the_mean_squared_error_of_the_velocity() -> None:
    flow = StackedMLP((2,), (4, 8, 2), norm=False, generators=[torch.Generator().manual_seed(s) for s in range(2)])
    obs, act, x0, t = torch.randn(2, 5, 1), torch.randn(2, 5, 2), torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    errors = velocity(flow, obs, (1 - t) * x0 + t * act, t) - (act - x0)
    torch.testing.assert_close(
        matching_loss(flow, obs, act, x0=x0, t=t), torch.stack([errors[0].square().mean(), errors[1].square().mean()])
    )


def test_loss_of_the_exact_velocity_is_the_conditional_variance() -> None:
    """Var[x1 - x0 | x_t] = (sigma / sqrt(C_t))^2 in one dimension, C_t = t^2 sigma^2 + (1 - t)^2."""
    sigma, t0 = 0.5, 0.6
    flow = GaussianFlow(torch.zeros(1, dtype=torch.float64), torch.full((1, 1), sigma**2, dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 1, 200_000, 1, generator=g, dtype=torch.float64)
    act, t, obs = sigma * z, torch.full_like(z, t0), torch.zeros_like(z)
    expected = sigma**2 / (t0**2 * sigma**2 + (1 - t0) ** 2)
    assert matching_loss(flow, obs, act, x0=x0, t=t).item() == pytest.approx(expected, rel=0.02)


def linear_flow(slope: float, time: float, shift: float) -> StackedMLP:
    """A network that is v(t, s, x) = slope x + time t + shift exactly: far right, GELU is the identity."""
    flow = StackedMLP((1,), (4, 2, 2), norm=False, generators=[torch.Generator().manual_seed(0)]).double()
    first = torch.cat([torch.zeros(1, 2), slope * torch.eye(2), torch.full((1, 2), time)])
    flow.weights[0].data[0], flow.biases[0].data[0] = first.double(), 50.0 + shift
    flow.weights[1].data[0], flow.biases[1].data[0] = torch.eye(2).double(), -50.0
    return flow


def test_base_actions_follow_the_ode() -> None:
    """dx/dt = m - x takes z to m + (z - m) / e; the error of Euler steps is linear in their size."""
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 9, 1).expand(1, 9, 2)
    errors = []
    for steps in (200, 400):
        found = base_actions(linear_flow(-1.0, 0.0, 0.2), torch.zeros(1, 9, 1).double(), noise, steps=steps)
        errors.append((found - (0.2 + (noise - 0.2) / math.e)).abs().max().item())
    assert errors[0] < 0.01
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.02)


def test_the_error_of_midpoint_steps_is_quadratic() -> None:
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 9, 1).expand(1, 9, 2)
    errors = []
    for steps in (10, 20):
        flow, obs = linear_flow(-1.0, 0.0, 0.2), torch.zeros(1, 9, 1).double()
        found = base_actions(flow, obs, noise, steps=steps, solver="midpoint")
        errors.append((found - (0.2 + (noise - 0.2) / math.e)).abs().max().item())
    assert errors[0] < 0.005
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.1)


def test_time_runs_from_zero_to_one() -> None:
    """dx/dt = t: four steps see t = 0, 1/4, 1/2, 3/4, whose mean is 3/8."""
    found = base_actions(
        linear_flow(0.0, 1.0, 0.0), torch.zeros(1, 3, 1).double(), torch.zeros(1, 3, 2).double(), steps=4
    )
    torch.testing.assert_close(found, torch.full_like(found, 3 / 8))


def test_base_actions_are_euler_steps_of_the_velocity() -> None:
    flow = StackedMLP((2,), (5, 8, 8, 2), norm=False, generators=[torch.Generator().manual_seed(s) for s in range(2)])
    obs, noise = torch.randn(2, 6, 2), 0.1 * torch.randn(2, 6, 2)
    x = noise
    for step in range(3):
        x = x + velocity(flow, obs, x, torch.full((2, 6, 1), step / 3)) / 3
    torch.testing.assert_close(base_actions(flow, obs, noise, steps=3), x.detach().clamp(-1, 1))


def test_base_actions_are_midpoint_steps_of_the_velocity() -> None:
    flow = StackedMLP((2,), (5, 8, 8, 2), norm=False, generators=[torch.Generator().manual_seed(s) for s in range(2)])
    for bias in flow.biases:
        bias.data.normal_()
    obs, noise = torch.randn(2, 6, 2), 0.1 * torch.randn(2, 6, 2)
    x = noise
    for step in range(3):
        middle = x + velocity(flow, obs, x, torch.full((2, 6, 1), step / 3)) / 6
        x = x + velocity(flow, obs, middle, torch.full((2, 6, 1), (step + 0.5) / 3)) / 3
    found = base_actions(flow, obs, noise, steps=3, solver="midpoint")
    torch.testing.assert_close(found, x.detach().clamp(-1, 1))


def test_base_actions_are_clipped_constants() -> None:
    flow = StackedMLP((1,), (4, 8, 2), norm=False, generators=[torch.Generator().manual_seed(0)])
    noise = 5 * torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(1))
    found = base_actions(flow, torch.randn(1, 50, 1), noise, steps=1)
    assert found.abs().max() == 1 and not found.requires_grad
