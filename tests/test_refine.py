"""The objective: its value, where its gradients go and where they stop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fd.method.acting import displace
from fd.method.fisher import Metric, basis, divergence, penalty
from fd.method.objective import refinement_loss
from fd.networks.mlp import StackedMLP

S, B, O, A, K = 2, 6, 3, 2, 4
METRICS = {
    "identity": Metric("identity", 1e-3, "state"),
    "state": Metric("state", 1e-3, "state"),
    "action": Metric("action", 1e-3, "batch"),
    "stein": Metric("stein", 1e-3, "batch"),
}


def nets() -> tuple[StackedMLP, StackedMLP]:
    """A policy and critics of two seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(S)]
    policy = StackedMLP((S,), (O + A, 8, A), norm=False, generators=generators)
    return policy, StackedMLP((S, 2), (O + A, 8, 1), norm=True, generators=generators)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OBS, BASE, SCORES = drawn(S, B, O, seed=0), drawn(S, B, A, seed=1).clamp(-1, 1), drawn(S, B, K, A, seed=2)


def loss_of(
    policy: StackedMLP, critic: StackedMLP, log_dual: Tensor, *, metric: str = "state", probes: Tensor | None = None,
    **switches: bool,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    chosen = {"normalize_q": False, "learn_dual": True} | switches
    return refinement_loss(
        policy, critic, log_dual, OBS, BASE,
        scores=scores_of(metric), metric=METRICS[metric], budget=0.01, probes=probes, **chosen,
    )  # fmt: skip


def scores_of(metric: str) -> Tensor | None:
    return {"identity": None, "state": SCORES}.get(metric, SCORES[:, :, :1])


@pytest.mark.parametrize("metric", METRICS)
def test_loss_is_that_of_the_method(metric: str) -> None:
    (policy, critic), log_dual = nets(), torch.tensor([0.5, 2.0]).log()
    loss, told = loss_of(policy, critic, log_dual, metric=metric)
    act, delta = displace(policy, OBS, BASE)
    torch.testing.assert_close(act, (BASE + delta).clamp(-1, 1))
    q = critic(OBS, act).mean(dim=(1, 2, 3))
    torch.testing.assert_close(told["q"], q.detach())
    torch.testing.assert_close(told["delta2"], delta.detach().square().mean(dim=(1, 2)))
    if metric == "identity":
        torch.testing.assert_close(told["penalty"], told["delta2"])
    else:
        div = divergence(policy.jvp(OBS, BASE, directions=basis(BASE))[1], None) if metric == "stein" else None
        by_row = penalty(delta, scores_of(metric), METRICS[metric], div)
        torch.testing.assert_close(told["penalty"], by_row.mean(dim=1).detach())
    torch.testing.assert_close(told["dual"], log_dual.exp())
    cost = told["penalty"]
    torch.testing.assert_close(loss, -q + told["dual"] * cost - log_dual * (cost - 0.01))


def test_q_term_is_divided_by_a_constant() -> None:
    (policy, critic), log_dual = nets(), torch.zeros(S)
    plain, told = loss_of(policy, critic, log_dual)
    scaled, also = loss_of(policy, critic, log_dual, normalize_q=True)
    q = critic(OBS, displace(policy, OBS, BASE)[0]).mean(dim=1).squeeze(-1)
    torch.testing.assert_close(also["q_loss"], told["q_loss"] / q.detach().abs().mean(dim=1))
    torch.testing.assert_close(scaled - also["q_loss"], plain - told["q_loss"])


def test_probes_of_the_divergence_are_used_as_given() -> None:
    """Two estimates of it, whose product takes the place of its square."""
    (policy, critic), log_dual = nets(), torch.zeros(S)
    probes = drawn(S, 2, B, A, seed=4).sign()
    div = divergence(policy.jvp(OBS, BASE, directions=probes)[1], probes)
    assert div.shape == (S, B, 2)
    _, told = loss_of(policy, critic, log_dual, metric="stein", probes=probes)
    delta = policy(OBS, BASE)
    by_row = penalty(delta, SCORES[:, :, :1], METRICS["stein"], div)
    torch.testing.assert_close(told["penalty"], by_row.mean(dim=1).detach())


@pytest.mark.parametrize("metric", METRICS)
def test_critics_base_actions_and_scores_are_constants(metric: str) -> None:
    (policy, critic), log_dual = nets(), torch.zeros(S, requires_grad=True)
    loss_of(policy, critic, log_dual, metric=metric)[0].sum().backward()
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert not BASE.requires_grad and not SCORES.requires_grad


def test_dual_moves_by_its_own_term_alone() -> None:
    """d/d log_dual is budget - cost, with nothing of the penalty's share dual * cost."""
    (policy, critic), log_dual = nets(), torch.full((S,), math.log(7.0), requires_grad=True)
    loss, told = loss_of(policy, critic, log_dual)
    (gradient,) = torch.autograd.grad(loss.sum(), [log_dual])
    torch.testing.assert_close(gradient, 0.01 - told["penalty"])


def test_dual_term_gives_the_policy_no_gradient() -> None:
    policy, critic = nets()
    log_dual = torch.full((S,), math.log(7.0))
    gradients = [
        torch.autograd.grad(loss_of(policy, critic, log_dual, learn_dual=learn)[0].sum(), list(policy.parameters()))
        for learn in (True, False)
    ]
    for learned, fixed in zip(*gradients, strict=True):
        torch.testing.assert_close(learned, fixed)
