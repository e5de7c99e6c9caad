"""The temporal-difference targets and the critics' loss by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from agents import agent_of, base_of, drawn

from fd.method.critic import aggregated_values, critic_loss, values
from fd.networks.mlp import StackedMLP

CRITIC = StackedMLP((2, 2), (5, 8, 1), norm=True, generators=[torch.Generator().manual_seed(s) for s in range(2)])
OBS, ACT = torch.randn(2, 6, 3), torch.randn(2, 6, 2)
BASED = ("fql", "deflow", "fidec", "fidec-stein", "fidec-official")


@pytest.mark.parametrize(("q_agg", "aggregate"), [("mean", torch.mean), ("min", torch.amin)])
def test_aggregated_values_aggregate_the_ensemble(q_agg: str, aggregate: object) -> None:
    found = aggregated_values(CRITIC, OBS, ACT, q_agg=q_agg)
    q = values(CRITIC, OBS, ACT)
    assert q.shape == (2, 2, 6) and q.requires_grad
    torch.testing.assert_close(found, aggregate(q, dim=1).detach())  # type: ignore[operator]
    assert not found.requires_grad


@pytest.mark.parametrize(("q_agg", "aggregate"), [("mean", torch.mean), ("min", torch.amin)])
@pytest.mark.parametrize("method", BASED)
def test_target_is_that_of_the_policy_at_the_next_state(method: str, q_agg: str, aggregate: object) -> None:
    """y = r + discount * mask * agg_E Q_target(s', pi(s')), with the target critics."""
    agent = agent_of(method, 0, 1, q_agg=q_agg)
    for parameter in agent.target.parameters():  # away from the critics
        parameter += 0.1 * torch.randn_like(parameter)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    base = agent.base(batch, noise)
    if method == "fql":
        act = agent.policy(batch.next_obs, noise.next_base)
    else:
        act = base.next_act + agent.policy(batch.next_obs, base.next_act)
    q = aggregate(agent.target(batch.next_obs, act.clamp(-1, 1)).squeeze(-1), dim=1)  # type: ignore[operator]
    y = agent.target_values(batch, base, noise)
    torch.testing.assert_close(y, (batch.reward + agent.spec.discount * batch.mask * q).detach())
    assert not y.requires_grad


@pytest.mark.parametrize("method", ["ifql", "iql"])
def test_target_of_iql_is_its_value_of_the_next_state(method: str) -> None:
    agent = agent_of(method, 0, 1)
    assert agent.value is not None
    batch, noise = drawn(agent.spec, 0, 0, 1)
    y = agent.target_values(batch, None, noise)
    expected = batch.reward + agent.spec.discount * batch.mask * agent.value(batch.next_obs).squeeze(-1)
    torch.testing.assert_close(y, expected.detach())
    assert not y.requires_grad


@pytest.mark.parametrize("method", [*BASED, "ifql", "iql", "rebrac"])
def test_a_success_is_not_bootstrapped(method: str) -> None:
    agent = agent_of(method, 0, 1)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    ended = replace(batch, mask=torch.zeros_like(batch.mask))
    assert torch.equal(agent.target_values(ended, base_of(agent, batch, noise), noise), batch.reward)


def test_loss_is_the_mean_over_batch_and_ensemble_of_each_seed() -> None:
    y = torch.randn(2, 6)
    loss, q = critic_loss(CRITIC, OBS, ACT, y)
    expected = [sum((q[s, e] - y[s]).square().sum() for e in range(2)) / 12 for s in range(2)]
    torch.testing.assert_close(loss, torch.stack(expected))
    assert loss.requires_grad and not q.requires_grad
