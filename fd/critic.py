"""The critic ensemble: its temporal-difference target and loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fd.nets import StackedMLP


def values(critic: StackedMLP, obs: Tensor, act: Tensor, *, constant: bool = False) -> Tensor:
    """Q(s, a) of both critics, [S, E, B], for obs [S, B, O] and act [S, B, A]; `constant`: no gradient reaches the critics."""
    out: Tensor = critic(obs, act, constant=constant)
    return out.squeeze(-1)


@torch.no_grad()
def target_values(
    target: StackedMLP, next_obs: Tensor, next_act: Tensor, *, reward: Tensor, mask: Tensor, discount: float, q_agg: str
) -> Tensor:
    """y = r + discount * mask * agg_E Q_target(s', a'), [S, B].

    Args:
        target: target critics.
        next_obs: [S, B, O].
        next_act: actions of the current policy, [S, B, A].
        reward: [S, B].
        mask: [S, B], 0 where the transition reached a success.
        discount: in [0, 1).
        q_agg: `mean` or `min` over the ensemble.
    """
    q = values(target, next_obs, next_act)
    q = q.mean(dim=1) if q_agg == "mean" else q.amin(dim=1)
    return reward + discount * mask * q


def critic_loss(critic: StackedMLP, obs: Tensor, act: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of (Q - y)^2 over batch and ensemble, [S], and Q itself, [S, E, B]."""
    q = values(critic, obs, act)
    return (q - y.unsqueeze(1)).square().mean(dim=(-2, -1)), q.detach()
