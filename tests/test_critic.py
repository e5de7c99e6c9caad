"""The temporal-difference target and the critics' loss by hand."""

from __future__ import annotations

import pytest
import torch

from fd.critic import critic_loss, target_values, values
from fd.nets import StackedMLP

CRITIC = StackedMLP((2, 2), (5, 8, 1), norm=True, generators=[torch.Generator().manual_seed(s) for s in range(2)])
OBS, ACT = torch.randn(2, 6, 3), torch.randn(2, 6, 2)
REWARD, MASK = torch.randn(2, 6), (torch.arange(12).view(2, 6) % 3 > 0).float()


@pytest.mark.parametrize(("q_agg", "aggregate"), [("mean", torch.mean), ("min", torch.amin)])
def test_target_aggregates_the_ensemble(q_agg: str, aggregate: object) -> None:
    y = target_values(CRITIC, OBS, ACT, reward=REWARD, mask=MASK, discount=0.9, q_agg=q_agg)
    q = values(CRITIC, OBS, ACT)
    assert q.shape == (2, 2, 6)
    torch.testing.assert_close(y, (REWARD + 0.9 * MASK * aggregate(q, dim=1)).detach())  # type: ignore[operator]
    assert not y.requires_grad


def test_a_success_is_not_bootstrapped() -> None:
    y = target_values(CRITIC, OBS, ACT, reward=REWARD, mask=torch.zeros(2, 6), discount=0.9, q_agg="mean")
    assert torch.equal(y, REWARD)


def test_loss_is_the_mean_over_batch_and_ensemble_of_each_seed() -> None:
    y = torch.randn(2, 6)
    loss, q = critic_loss(CRITIC, OBS, ACT, y)
    expected = [sum((q[s, e] - y[s]).square().sum() for e in range(2)) / 12 for s in range(2)]
    torch.testing.assert_close(loss, torch.stack(expected))
    assert loss.requires_grad and not q.requires_grad
