"""The critic ensemble: its temporal-difference target and loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fd.networks.mlp import StackedMLP


def values(critic: StackedMLP, obs: Tensor, act: Tensor, *, constant: bool = False) -> Tensor:
    """Q(s, a) of both critics, [S, E, B], for obs [S, B, O] and act [S, B, A]; `constant`: no gradient reaches the critics."""
    out: Tensor = critic(obs, act, constant=constant)
    return out.squeeze(-1)


@torch.no_grad()
def aggregated_values(critic: StackedMLP, obs: Tensor, act: Tensor, *, q_agg: str) -> Tensor:
    """agg_E Q(s, a), [S, B], without gradients.

    Args:
        critic: critics, or target critics.
        obs: [S, B, O].
        act: [S, B, A].
        q_agg: `mean` or `min` over the ensemble.
    """
    q = values(critic, obs, act)
    return q.mean(dim=1) if q_agg == "mean" else q.amin(dim=1)


def critic_loss(critic: StackedMLP, obs: Tensor, act: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of (Q - y)^2 over batch and ensemble, [S], and Q itself, [S, E, B].

    Args:
        critic: Q.
        obs: [S, B, O].
        act: [S, B, A].
        y: r + discount * mask * value of the next state, constant, [S, B].
    """
    q = values(critic, obs, act)
    return (q - y.unsqueeze(1)).square().mean(dim=(-2, -1)), q.detach()
