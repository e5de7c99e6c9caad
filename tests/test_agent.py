"""Agents of every committed method: seeds are independent, gradients reach what is trained, targets lag, clipping is per seed."""

from __future__ import annotations

import pytest
import torch
from agents import METHODS, TRAINED, agent_of, base_of, drawn, gradients

from fd.method.acting import act, displace
from fd.method.agent import Agent, update
from fd.method.fisher import score
from fd.method.flow import base_actions
from fd.method.objective import LOG_DUAL_LIMIT
from fd.networks.adam import Optimiser


def train(agent: Agent, steps: int, *seeds: int) -> dict[str, torch.Tensor]:
    adam = agent.optimiser()
    for at in range(steps):
        batch, noise = drawn(agent.spec, at, *seeds)
        metrics = update(agent, adam, batch, base_of(agent, batch, noise), noise)
    return metrics


@pytest.mark.parametrize("method", TRAINED)
def test_a_seed_alone_is_the_seed_among_others(method: str) -> None:
    """To the bit, wherever in a vector of the processor the numbers of its odd shapes come to lie."""
    seeds = (7, 6, 5, 4, 3, 2, 0, 1)
    all_, alone = agent_of(method, *seeds), agent_of(method, 1)
    among, own = train(all_, 20, *seeds), train(alone, 20, 1)
    assert among.keys() == own.keys()
    for name, value in own.items():
        assert torch.equal(among[name][-1:], value), name
    for name, parameter in alone.state_dict().items():
        assert torch.equal(all_.state_dict()[name][-parameter.shape[0] :], parameter), name


MOVED = {
    "ifql": {"critic", "value"},
    "fql": {"policy", "critic"},
    "iql": {"policy", "critic", "value"},
    "rebrac": {"policy", "critic"},
    "fidec": {"policy", "critic", "log_dual"},
    "deflow": {"policy", "critic", "log_dual"},
    "fidec-stein": {"policy", "critic", "log_dual"},
    "fidec-official": {"flow", "policy", "critic", "log_dual"},
}


@pytest.mark.parametrize("method", TRAINED)
def test_one_update_moves_what_is_trained_and_nothing_else(method: str) -> None:
    """The targets start as copies, from before the step."""
    agent = agent_of(method, 0, 1)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    train(agent, 1, 0, 1)
    moved = {name.split(".")[0] for name, value in agent.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == MOVED[method]


@pytest.mark.parametrize("method", TRAINED)
def test_targets_follow_their_networks_from_before_the_step(method: str) -> None:
    agent = agent_of(method, 0, 1)
    train(agent, 1, 0, 1)  # now critic and target differ
    nets = [(agent.target, agent.critic)]
    if method == "rebrac":
        assert agent.target_policy is not None
        nets.append((agent.target_policy, agent.policy))
    tau = agent.spec.tau
    pairs = [pair for target, net in nets for pair in zip(target.parameters(), net.parameters(), strict=True)]
    expected = [((1 - tau) * target + tau * online).clone() for target, online in pairs]
    assert any(not torch.equal(target, wanted) for (target, _), wanted in zip(pairs, expected, strict=True))
    adam = Optimiser(agent.trained(), 1e-3)
    batch, noise = drawn(agent.spec, 1, 0, 1)
    update(agent, adam, batch, base_of(agent, batch, noise), noise)
    for (target, _), wanted in zip(pairs, expected, strict=True):
        torch.testing.assert_close(target.data, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_policies_act_within_bounds(method: str) -> None:
    agent = agent_of(method, 0, 1)
    found = agent.act(torch.randn(2, 50, 5), 3 * torch.randn(2, 50, 3))
    assert found.shape == (2, 50, 3) and found.abs().max() <= 1 and not found.requires_grad


def test_bc_trains_nothing_and_acts_as_its_flow() -> None:
    agent, obs, noise = agent_of("bc", 0, 1), torch.randn(2, 9, 5), torch.randn(2, 9, 3)
    assert agent.trained() == {}
    assert torch.equal(agent.act(obs, noise), base_actions(agent.flow, obs, noise, steps=agent.spec.flow_steps))


@pytest.mark.parametrize("method", ["iql", "rebrac"])
def test_policies_without_a_flow_act_by_their_mean(method: str) -> None:
    agent, obs = agent_of(method, 0, 1), torch.randn(2, 9, 5)
    agent.policy.biases[-1].data += torch.linspace(-3, 3, 3)  # beyond the bounds
    mean = agent.policy(obs).detach()
    found = agent.act(obs, torch.randn(2, 9, 3))
    torch.testing.assert_close(found, mean.tanh() if method == "rebrac" else mean.clamp(-1, 1))


@pytest.mark.parametrize("method", ["iql", "rebrac"])
def test_policies_without_a_flow_start_near_zero(method: str) -> None:
    """Their last layer is Xavier uniform times 0.1, that of the others is not."""
    bound = (6 / (16 + 3)) ** 0.5
    assert 0.09 * bound < agent_of(method, 0, 1).policy.weights[-1].abs().max() <= 0.1 * bound
    assert 0.9 * bound < agent_of("fidec", 0, 1).policy.weights[-1].abs().max() <= bound


def test_a_residual_is_applied_as_often_as_asked() -> None:
    agent, obs, noise = agent_of("fidec", 0, 1), torch.randn(2, 9, 5), torch.randn(2, 9, 3)
    action = base_actions(agent.flow, obs, noise, steps=agent.spec.flow_steps)
    for times in (1, 2, 3):
        action = displace(agent.policy, obs, action)[0].detach()
        assert torch.equal(act(agent.spec, agent.flow, agent.policy, obs, noise, refinements=times), action)
        once = agent.act(obs, noise)
        assert torch.equal(once, action) == (times == 1)


@pytest.mark.parametrize("metric", ["action", "stein"])
def test_base_actions_have_their_own_scores(metric: str) -> None:
    agent = agent_of("fidec-stein", 0, 1, metric=metric)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    base = agent.base(batch, noise)
    assert noise.fisher_t is not None and base.scores is not None
    expected = score(agent.flow, batch.obs, base.act, noise.fisher_t[..., 0], formula="exact")
    assert base.scores.shape == (2, 8, 1, 3)
    torch.testing.assert_close(base.scores[:, :, 0], expected)


@pytest.mark.parametrize("width", [8, 9])
def test_the_divergence_is_estimated_above_eight_dimensions_alone(width: int) -> None:
    agent = agent_of("fidec-stein", 0, 1, act_dim=width)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    assert (noise.probes is None) == (width == 8)
    assert noise.probes is None or noise.probes.shape == (2, 2, 8, width)
    loss, metrics = agent(batch, agent.base(batch, noise), noise)
    assert loss.isfinite().all() and (metrics["penalty"] != 0).all()


def test_a_fixed_dual_stays() -> None:
    agent = agent_of("fidec", 0, 1, dual="fixed")
    train(agent, 3, 0, 1)
    torch.testing.assert_close(agent.log_dual.exp().detach(), torch.full((2,), agent.spec.dual_init))


@pytest.mark.parametrize(("budget", "sign"), [(1e-9, 1), (1e9, -1)])
def test_the_dual_stays_within_its_limit(budget: float, sign: int) -> None:
    """A multiplier beyond what float32 can square would end in infinity times zero."""
    agent = agent_of("fidec", 0, 1, target_divergence=budget)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    update(agent, Optimiser(agent.trained(), 1e6), batch, agent.base(batch, noise), noise)
    assert agent.log_dual.tolist() == [sign * LOG_DUAL_LIMIT] * 2
    assert agent.log_dual.dtype == torch.float32 and agent.log_dual.exp().square().isfinite().all()
    assert (agent.log_dual.exp().square() > 0).all()


@pytest.mark.parametrize(
    ("method", "factor"), [("fql", 1), ("fidec", 1), ("fidec-stein", 1), ("iql", 2), ("rebrac", 1)]
)
def test_critic_gradient_is_that_of_its_own_loss(method: str, factor: int) -> None:
    """Total loss and critic loss give the critics the same gradient: the other losses give them none. IQL sums over the ensemble."""
    agent = agent_of(method, 0, 1)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    base = base_of(agent, batch, noise)
    total, metrics = agent(batch, base, noise)
    y = agent.target_values(batch, base, noise)
    q = agent.critic(batch.obs, batch.act).squeeze(-1)
    own = factor * (q - y.unsqueeze(1)).square().mean(dim=(1, 2))
    torch.testing.assert_close(own.detach(), metrics["critic_loss"])
    critics = list(agent.critic.parameters())
    gradients = [torch.autograd.grad(loss.sum(), critics) for loss in (total, own)]
    for whole, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, alone)


def test_metrics_tell_the_spread_of_the_values() -> None:
    agent = agent_of("iql", 0, 1)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    metrics = agent(batch, None, noise)[1]
    assert agent.value is not None
    q, v = agent.critic(batch.obs, batch.act).detach(), agent.value(batch.obs).detach()
    for name, numbers in (("q", q), ("v", v)):
        flat = numbers.flatten(1)
        torch.testing.assert_close(metrics[f"{name}_mean"], flat.mean(dim=1))
        assert torch.equal(metrics[f"{name}_min"], flat.amin(dim=1))
        assert torch.equal(metrics[f"{name}_max"], flat.amax(dim=1))


def test_clipping_is_per_seed() -> None:
    """Seed 0 stays under the bound and keeps its gradient, seed 1 is scaled to it."""
    first, second = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4, 1))
    adam = Optimiser({"first": first, "second": second}, 1.0)
    slopes = torch.tensor([0.1, 100.0])
    norms = adam.descend(slopes * (first.sum(dim=1) + 2 * second.view(2, 2).sum(dim=1)), clip=5.0)
    true = slopes * (3 + 2 * 4) ** 0.5
    torch.testing.assert_close(norms, true)
    scale = torch.tensor([1.0, 5.0 / true[1]])
    first_grad, second_grad = gradients(adam)
    torch.testing.assert_close(first_grad, (slopes * scale).view(2, 1).expand(2, 3))
    torch.testing.assert_close(second_grad, (2 * slopes * scale).view(2, 1).repeat_interleave(2, dim=0))
