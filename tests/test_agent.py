"""Agents of every committed method: seeds are independent, gradients reach what is trained, targets lag, clipping is per seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fd.agent import Agent, Noise, update
from fd.optim import optimiser, step
from fd.params import load
from fd.replay import Batch
from fd.spec import Spec
from fd.streams import generator

PARAMS = load(Path(__file__).parent / "tiny.yaml")
METHODS = tuple(PARAMS.methods)
TRAINED = tuple(name for name, method in PARAMS.methods.items() if method.policy != "flow")
SHAPE = {"obs_dim": 5, "act_dim": 3}
SIZE = 8


def agent_of(method: str, *seeds: int, **changes: object) -> Agent:
    sections = (PARAMS.network, PARAMS.refine, PARAMS.methods[method])
    spec = Spec.of(*(section.model_dump() for section in sections), SHAPE, changes)
    return Agent(spec, [generator(seed, "weights", 0) for seed in seeds])


def drawn(spec: Spec, at: int, *seeds: int) -> tuple[Batch, Noise]:
    """Batch and noise of update `at`, seed by seed."""
    streams = [generator(seed, "refine", at) for seed in seeds]

    def normal(*shape: int) -> torch.Tensor:
        return torch.stack([torch.randn(SIZE, *shape, generator=g) for g in streams])

    def uniform(*shape: int) -> torch.Tensor:
        return torch.stack([torch.rand(SIZE, *shape, generator=g) for g in streams])

    o, a, k = spec.obs_dim, spec.act_dim, spec.fisher_samples
    batch = Batch(normal(o), uniform(a) * 2 - 1, normal(), (uniform() > 0.2).float(), normal(o))
    times = 0.7 + 0.2 * uniform(k, 1)
    return batch, Noise(normal(a), normal(a), normal(k, a), normal(k, a), times, normal(a), uniform(1))


def train(agent: Agent, steps: int, *seeds: int) -> dict[str, torch.Tensor]:
    adam = optimiser(agent.trained(), agent.spec.learning_rate)
    for at in range(steps):
        batch, noise = drawn(agent.spec, at, *seeds)
        metrics = update(agent, adam, batch, agent.base(batch, noise), noise)
    return metrics


@pytest.mark.parametrize("method", TRAINED)
def test_a_seed_alone_is_the_seed_among_others(method: str) -> None:
    both, alone = agent_of(method, 0, 1), agent_of(method, 1)
    among, own = train(both, 20, 0, 1), train(alone, 20, 1)
    for name, value in own.items():
        torch.testing.assert_close(among[name][1:], value, rtol=1e-4, atol=1e-5)
    for name, parameter in alone.state_dict().items():
        torch.testing.assert_close(both.state_dict()[name][parameter.shape[0] :], parameter, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", TRAINED)
def test_one_update_moves_what_is_trained_and_nothing_else(method: str) -> None:
    agent = agent_of(method, 0, 1)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    train(agent, 1, 0, 1)
    moved = {name.split(".")[0] for name, value in agent.state_dict().items() if not torch.equal(value, before[name])}
    expected = {"policy", "critic"}  # the target starts as a copy of the critic, from before the step
    expected |= {"flow"} if agent.spec.behaviour == "joint" else set()
    expected |= {"log_dual"} if agent.spec.policy == "residual" else set()
    assert moved == expected


@pytest.mark.parametrize("method", TRAINED)
def test_target_follows_the_critic_from_before_the_step(method: str) -> None:
    agent = agent_of(method, 0, 1)
    train(agent, 1, 0, 1)  # now critic and target differ
    tau = agent.spec.tau
    pairs = zip(agent.target.parameters(), agent.critic.parameters(), strict=True)
    expected = [((1 - tau) * target + tau * critic).clone() for target, critic in pairs]
    adam = optimiser(agent.trained(), 1e-3)
    batch, noise = drawn(agent.spec, 1, 0, 1)
    update(agent, adam, batch, agent.base(batch, noise), noise)
    for target, wanted in zip(agent.target.parameters(), expected, strict=True):
        torch.testing.assert_close(target.data, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_policies_act_within_bounds(method: str) -> None:
    agent = agent_of(method, 0, 1)
    found = agent.act(torch.randn(2, 50, 5), 3 * torch.randn(2, 50, 3))
    assert found.shape == (2, 50, 3) and found.abs().max() <= 1 and not found.requires_grad


def test_bc_trains_nothing_and_acts_as_its_flow() -> None:
    agent = agent_of("bc", 0, 1)
    assert agent.trained() == []


def test_a_fixed_dual_stays() -> None:
    agent = agent_of("fidec", 0, 1, dual="fixed")
    train(agent, 3, 0, 1)
    torch.testing.assert_close(agent.log_dual.exp().detach(), torch.full((2,), agent.spec.dual_init))


def test_critic_gradient_is_that_of_its_own_loss() -> None:
    """Total loss and critic loss give the critics the same gradient: the policy's loss gives them none."""
    gradients = []
    for zeroed in (False, True):
        agent = agent_of("fidec", 0, 1)
        batch, noise = drawn(agent.spec, 0, 0, 1)
        base = agent.base(batch, noise)
        total, metrics = agent.losses(batch, base, noise)
        critics = list(agent.critic.parameters())
        if zeroed:
            y = batch.reward + agent.spec.discount * batch.mask * agent.target(
                batch.next_obs, (base.next_act + agent.policy(batch.next_obs, base.next_act)).clamp(-1, 1)
            ).squeeze(-1).mean(dim=1)
            q = agent.critic(batch.obs, batch.act).squeeze(-1)
            total = (q - y.detach().unsqueeze(1)).square().mean(dim=(1, 2))
            torch.testing.assert_close(total.detach(), metrics["critic_loss"])
        gradients.append(torch.autograd.grad(total.sum(), critics))
    for whole, own in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, own)


def test_clipping_is_per_seed() -> None:
    """Seed 0 stays under the bound and keeps its gradient, seed 1 is scaled to it."""
    first, second = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4, 1))
    slopes = torch.tensor([0.1, 100.0])
    loss = slopes * (first.sum(dim=1) + 2 * second.view(2, 2).sum(dim=1))
    norms = step(torch.optim.SGD([first, second], lr=1.0), loss, [first, second], clip=5.0)  # type: ignore[arg-type]
    true = slopes * (3 + 2 * 4) ** 0.5
    torch.testing.assert_close(norms, true)
    scale = torch.tensor([1.0, 5.0 / true[1]])
    torch.testing.assert_close(first.data, -(slopes * scale).view(2, 1).expand(2, 3))
    torch.testing.assert_close(second.data, -(2 * slopes * scale).repeat_interleave(2).view(4, 1))
