"""The behaviour flow: its velocity field, its matching loss and its base actions.

The path is x_t = (1 - t) x0 + t x1 from noise x0 ~ N(0, I) to an action x1 of the data; v(t, s, x) = E[x1 - x0 | x_t = x].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import gelu

from fd.networks.affine import affine
from fd.networks.mlp import StackedMLP


def velocity(flow: StackedMLP, obs: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """v(t, s, x), [S, B, A], for obs [S, B, O], x [S, B, A] and t [S, B, 1] in [0, 1]."""
    out: Tensor = flow(obs, x, t)
    return out


def matching_loss(flow: StackedMLP, obs: Tensor, act: Tensor, *, x0: Tensor, t: Tensor) -> Tensor:
    """E |v(t, s, x_t) - (x1 - x0)|^2 over batch and action axes, [S].

    Args:
        flow: velocity network.
        obs: [S, B, O].
        act: x1, actions of the data, [S, B, A].
        x0: standard normal noise, [S, B, A].
        t: uniform in [0, 1], [S, B, 1].

    Source: arXiv 2502.02538, flow-matching loss of the behaviour policy.
    """
    x_t = (1 - t) * x0 + t * act
    return (velocity(flow, obs, x_t, t) - (act - x0)).square().mean(dim=(-2, -1))


@torch.no_grad()
def base_actions(flow: StackedMLP, obs: Tensor, noise: Tensor, *, steps: int, solver: str = "euler") -> Tensor:
    """Base actions a_b [S, B, A]: the flow integrated from noise [S, B, A], clipped to [-1, 1].

    Args:
        flow: velocity network.
        obs: [S, B, O], or images, which are encoded once.
        noise: standard normal, [S, B, A].
        steps: at least 1.
        solver: `euler`, or `midpoint`, of second order, which evaluates the velocity twice a step.

    Base actions are constants of every loss, so they have no gradient. Acting and building a bank spend most of their time in this loop,
    so it computes the layers of `velocity` itself: terms that do not change along the path are computed once. After k steps, x contains
    k / steps b of the last layer's bias b; the loop leaves it out (y = x - k / steps b), so that a velocity takes one product per layer.
    """
    obs = flow.features(obs)
    width = obs.shape[-1]
    (first, *hidden), (bias, *shifts) = flow.weights, flow.biases
    last, drift = hidden.pop(), shifts.pop()
    from_x, from_t = first[:, width:-1], first[:, -1:]
    start = affine(bias, obs, first[:, :width])
    slope = affine(from_t, drift, from_x) / steps  # of the first layer's input in k

    def moved(y: Tensor, point: Tensor, start: Tensor, duration: float) -> Tensor:
        """y moved for a duration with the velocity at a point."""
        h = _activated(affine(start, point, from_x))
        for weight, shift in zip(hidden, shifts, strict=True):
            h = _activated(affine(shift, h, weight))
        return affine(y, h, last, scale=duration)

    y = noise
    for _ in range(steps):
        if solver == "midpoint":
            y = moved(y, moved(y, y, start, 0.5 / steps), start + 0.5 * slope, 1 / steps)
        else:
            y = moved(y, y, start, 1 / steps)
        start = start + slope
    action: Tensor = y + drift
    return action.clamp(-1, 1)


def _activated(x: Tensor) -> Tensor:
    """GELU (tanh form), x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), without a gradient.

    On a CPU, torch's tanh takes over three times as long as its sigmoid; with it, GELU would take a quarter of an integration.
    """
    if x.is_cuda:
        return gelu(x, approximate="tanh")
    slope = math.sqrt(8 / math.pi)
    return torch.addcmul(x.new_tensor(slope), x, x, value=0.044715 * slope).mul_(x).sigmoid_().mul_(x)
