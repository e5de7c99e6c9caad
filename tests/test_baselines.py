"""The baselines' losses by hand: their values, where their gradients go and where they stop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from agents import agent_of, drawn, gradients
from torch import Tensor

from fd.method.agent import update
from fd.method.baselines import awr_loss, ddpgbc_loss, distillation_loss, expectile_loss, rebrac_loss
from fd.networks.adam import Optimiser
from fd.networks.mlp import StackedMLP

S, B, O, A = 2, 6, 3, 2


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OBS, ACT = normal(S, B, O, seed=0), normal(S, B, A, seed=1).clamp(-1, 1)


def net(*widths: int, lead: tuple[int, ...] = (S,), norm: bool = False) -> StackedMLP:
    generators = [torch.Generator().manual_seed(seed) for seed in range(S)]
    return StackedMLP(lead, widths, norm=norm, generators=generators)


def critics() -> StackedMLP:
    return net(O + A, 8, 1, lead=(S, 2), norm=True)


def constant(value: float, width: int) -> StackedMLP:
    """A network of one seed that gives `value` everywhere; its last bias is all that matters."""
    stack = StackedMLP((1,), (O, 4, width), norm=False, generators=[torch.Generator()])
    stack.weights[1].data.zero_()
    stack.biases[1].data.fill_(value)
    return stack


def test_expectile_loss_by_hand() -> None:
    """V = 1 against q = 3, 0, 1, -1: 0.9 * 4, 0.1 * 1, 0, 0.1 * 4, whose mean is 1.025."""
    q = torch.tensor([[3.0, 0.0, 1.0, -1.0]])
    loss, v = expectile_loss(constant(1.0, 1), torch.zeros(1, 4, O), q, expectile=0.9)
    torch.testing.assert_close(loss, torch.tensor([1.025]))
    assert v.tolist() == [[1.0] * 4] and not v.requires_grad


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_expectile_of_a_sample_minimises_its_loss(expectile: float) -> None:
    """It balances the weighted distances above and below: 0.5 is the mean, more is higher."""
    sample = normal(101, seed=3).double().exp()
    low, high = sample.min().item(), sample.max().item()
    for _ in range(80):
        middle = (low + high) / 2
        above, below = (sample - middle).clamp_min(0).sum(), (middle - sample).clamp_min(0).sum()
        low, high = (middle, high) if expectile * above > (1 - expectile) * below else (low, middle)
    if expectile == 0.5:
        assert low == pytest.approx(sample.mean().item())

    def at(value: float) -> tuple[float, float]:
        stack = constant(0.0, 1).double()
        stack.biases[1].data.fill_(value)
        loss, _ = expectile_loss(stack, torch.zeros(1, 101, O).double(), sample.unsqueeze(0), expectile=expectile)
        (gradient,) = torch.autograd.grad(loss.sum(), [stack.biases[1]])
        return loss.item(), gradient.item()

    least, slope = at(low)
    assert abs(slope) < 1e-6  # the two weights are rounded to float32
    assert all(at(low + step)[0] > least for step in (-0.1, 0.1))


def log_likelihood(mean: Tensor, act: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, 1.0).log_prob(act).sum(dim=-1)


def test_weights_of_awr_are_exponentials_capped_at_one_hundred() -> None:
    """exp(3 * 1) = 20.1, exp(3 * 2) = 403 is cut to 100, exp(-3) = 0.05, and an advantage beyond float32's range is 100, too."""
    policy, advantage = constant(0.0, A), torch.tensor([[1.0, 2.0, -1.0, 1e6]])
    act = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]])
    loss, told = awr_loss(policy, torch.zeros(1, 4, O), act, advantage, alpha=3.0)
    likelihood = -math.log(2 * math.pi) - 0.5 * torch.tensor([0.0, 1.0, 2.0, 4.0])
    weights = torch.tensor([math.exp(3), 100.0, math.exp(-3), 100.0])
    torch.testing.assert_close(loss, -(weights * likelihood).mean().view(1))
    torch.testing.assert_close(told["log_likelihood"], likelihood.mean().view(1))
    torch.testing.assert_close(told["mse"], torch.tensor([7 / 8]))
    torch.testing.assert_close(told["advantage"], advantage.mean(dim=1))
    (gradient,) = torch.autograd.grad(loss.sum(), [policy.biases[1]])  # of the mean: minus the weighted distance
    torch.testing.assert_close(gradient.view(A), -(weights.unsqueeze(1) * act[0]).mean(dim=0))


def test_advantage_is_the_smaller_value_above_the_states() -> None:
    """Of the critics themselves, not of their targets."""
    agent = agent_of("iql", 0, 1)
    for parameter in agent.target.parameters():
        parameter += 1.0
    batch, noise = drawn(agent.spec, 0, 0, 1)
    assert agent.value is not None
    told = agent(batch, None, noise)[1]
    q, v = agent.critic(batch.obs, batch.act).squeeze(-1).amin(dim=1), agent.value(batch.obs).squeeze(-1)
    torch.testing.assert_close(told["advantage"], (q - v).mean(dim=1).detach())


@pytest.mark.parametrize("method", ["iql", "ifql"])
def test_value_follows_the_smaller_target_at_the_data(method: str) -> None:
    agent = agent_of(method, 0, 1)
    for parameter in agent.target.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    assert agent.value is not None
    total, told = agent(batch, None, noise)
    q = agent.target(batch.obs, batch.act).squeeze(-1).amin(dim=1)
    v = agent.value(batch.obs).squeeze(-1)
    weight = (agent.spec.expectile - (q < v).float()).abs()
    own = (weight * (q - v).square()).mean(dim=1)
    torch.testing.assert_close(told["value_loss"], own.detach())
    values = list(agent.value.parameters())
    gradients = [torch.autograd.grad(loss.sum(), values) for loss in (total, own)]
    for whole, alone in zip(*gradients, strict=True):  # nothing from the critics' loss, whose target it makes
        torch.testing.assert_close(whole, alone)


def gradients_agree(loss: Tensor, expected: Tensor, policy: StackedMLP) -> None:
    """Both losses, and what they ask of the policy, are the same."""
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(of.sum(), list(policy.parameters())) for of in (loss, expected))
    assert any(gradient.abs().sum() > 0 for gradient in wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def smaller(critic: StackedMLP, act: Tensor) -> Tensor:
    return critic(OBS, act).squeeze(-1).amin(dim=1)


def test_ddpgbc_is_its_formula() -> None:
    """-E min_E Q / E |min_E Q| - alpha E log N(a; mu, I); the mean is clipped for the critics alone."""
    policy, critic = net(O, 8, A), critics()
    policy.biases[1].data += torch.tensor([0.9, 0.0])  # some means are out of bounds, some are not
    loss, told = ddpgbc_loss(policy, critic, OBS, ACT, alpha=0.3)
    mean = policy(OBS)
    assert 0 < (mean > 1).sum() < mean.numel()
    q = smaller(critic, mean.clamp(-1, 1))
    improve = -q.mean(dim=1) / q.abs().mean(dim=1).detach()
    likelihood = log_likelihood(mean, ACT).mean(dim=1)
    gradients_agree(loss, improve - 0.3 * likelihood, policy)
    torch.testing.assert_close(told["q"], q.mean(dim=1).detach())
    torch.testing.assert_close(told["q_loss"], improve.detach())
    torch.testing.assert_close(told["log_likelihood"], likelihood.detach())
    torch.testing.assert_close(told["mse"], (mean - ACT).square().mean(dim=(1, 2)).detach())


def test_rebrac_is_its_formula() -> None:
    """-E min_E Q / E |min_E Q| + alpha E |mu - a|^2, the distance summed over the action's axes, and mu = tanh(net)."""
    policy, critic = net(O, 8, A), critics()
    policy.biases[1].data += 1.0
    loss, told = rebrac_loss(policy, critic, OBS, ACT, alpha=0.3)
    mean = policy(OBS).tanh()
    q = smaller(critic, mean)
    improve = -q.mean(dim=1) / q.abs().mean(dim=1).detach()
    distance = (mean - ACT).square().sum(dim=-1).mean(dim=1)
    gradients_agree(loss, improve + 0.3 * distance, policy)
    torch.testing.assert_close(told["q"], q.mean(dim=1).detach())
    torch.testing.assert_close(told["q_loss"], improve.detach())
    torch.testing.assert_close(told["mse"] * A, distance.detach())


def test_distillation_pulls_to_the_base_action_unclipped() -> None:
    policy, critic, base = net(O + A, 8, A), critics(), normal(S, B, A, seed=2).clamp(-1, 1)
    policy.biases[1].data += 3.0  # far outside the bounds, where only the distillation term has a gradient
    noise = normal(S, B, A, seed=3)
    loss, told = distillation_loss(policy, critic, OBS, noise, base, alpha=5.0, normalize_q=False)
    act = policy(OBS, noise)
    assert act.min() > 1
    distill = (act - base).square().mean(dim=(1, 2))
    torch.testing.assert_close(told["penalty"], distill.detach())
    torch.testing.assert_close(loss, 5.0 * distill - critic(OBS, act.clamp(-1, 1)).mean(dim=(1, 2, 3)))
    for found, expected in zip(
        torch.autograd.grad(loss.sum(), list(policy.parameters())),
        torch.autograd.grad(5.0 * distill.sum(), list(policy.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", ["distillation", "ddpgbc", "rebrac"])
def test_critics_are_constants_of_a_policys_loss(loss: str) -> None:
    critic = critics()
    if loss == "distillation":
        policy, noise = net(O + A, 8, A), normal(S, B, A, seed=3)
        total, told = distillation_loss(policy, critic, OBS, noise, ACT, alpha=1.0, normalize_q=True)
    else:
        policy, of = net(O, 8, A), {"ddpgbc": ddpgbc_loss, "rebrac": rebrac_loss}[loss]
        total, told = of(policy, critic, OBS, ACT, alpha=1.0)
    assert total.shape == (S,) and not any(value.requires_grad for value in told.values())
    total.sum().backward()
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_target_of_rebrac_is_its_formula() -> None:
    """min_E Q_target at the target policy's action, with clipped noise, less the distance to the data's next action."""
    agent = agent_of("rebrac", 0, 1, rebrac_alpha_critic=0.7, target_noise=0.4, noise_clip=0.5)
    assert agent.target_policy is not None
    for parameter in (*agent.target.parameters(), *agent.target_policy.parameters()):
        parameter += 0.3 * torch.randn_like(parameter)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    assert noise.target is not None and batch.next_act is not None and batch.next_known is not None
    smoothing = (0.4 * noise.target).clamp(-0.5, 0.5)
    assert (smoothing.abs() == 0.5).any() and (smoothing.abs() < 0.5).any()
    plain = agent.target_policy(batch.next_obs).tanh() + smoothing
    assert (plain.abs() > 1).any()
    act = plain.clamp(-1, 1)
    q = agent.target(batch.next_obs, act).squeeze(-1).amin(dim=1)
    distance = (act - batch.next_act).square().sum(dim=-1)
    expected = batch.reward + agent.spec.discount * batch.mask * (q - 0.7 * distance * batch.next_known)
    y = agent.target_values(batch, None, noise)
    torch.testing.assert_close(y, expected)
    assert not y.requires_grad


def test_an_episodes_last_transition_has_no_penalty_in_its_target() -> None:
    """There the data have no next action, and what the row after holds belongs to another episode."""
    agent = agent_of("rebrac", 0, 1, rebrac_alpha_critic=5.0)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    assert batch.next_act is not None and batch.next_known is not None
    free = agent_of("rebrac", 0, 1, rebrac_alpha_critic=0.0).target_values(batch, None, noise)
    unknown = replace(
        batch, next_known=torch.zeros_like(batch.next_known), next_act=torch.full_like(batch.next_act, 9.0)
    )
    assert torch.equal(agent.target_values(unknown, None, noise), free)
    known = replace(batch, next_known=torch.ones_like(batch.next_known), mask=torch.ones_like(batch.mask))
    assert (agent.target_values(known, None, noise) < agent_of("rebrac", 0, 1).target_values(known, None, noise)).all()


def test_updates_without_the_policy_train_the_critics_alone() -> None:
    """The policy's gradient is zero and both targets stay; the update after, with the policy, moves them all."""
    agent = agent_of("rebrac", 0, 1)
    adam = Optimiser(agent.trained(), 1e-3)

    def one(at: int, *, with_policy: bool) -> tuple[set[str], dict[str, Tensor]]:
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        metrics = update(agent, adam, *drawn_without_base(at), with_policy=with_policy)
        after = agent.state_dict()
        return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}, metrics

    def drawn_without_base(at: int) -> tuple[object, ...]:
        batch, noise = drawn(agent.spec, at, 0, 1)
        return batch, None, noise

    moved, metrics = one(0, with_policy=False)
    assert moved == {"critic"} and not {"policy_loss", "mse"} & metrics.keys()
    assert not any(grad.any() for grad in gradients(adam, "policy"))
    assert any(grad.any() for grad in gradients(adam, "critic"))
    moved, metrics = one(1, with_policy=True)
    assert moved == {"critic", "target", "policy"} and {"policy_loss", "mse"} <= metrics.keys()
    assert all(grad.any() for grad in gradients(adam, "policy"))
    moved, _ = one(2, with_policy=False)
    assert moved == {"critic", "policy"}  # Adam moves the policy on by its momentum
    assert not any(grad.any() for grad in gradients(adam, "policy"))
    moved, _ = one(3, with_policy=True)
    assert moved == {"critic", "policy", "target", "target_policy"}
