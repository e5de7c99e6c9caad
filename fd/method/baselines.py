"""Losses of the baselines: FQL's distilled policy, IQL's value and policy, ReBRAC's penalised policy."""

from __future__ import annotations

import math

from torch import Tensor

from fd.method.critic import values
from fd.method.objective import q_loss
from fd.networks.mlp import StackedMLP

LARGEST_WEIGHT = 100.0  # of a sample in advantage-weighted regression


def distillation_loss(
    onestep: StackedMLP,
    critic: StackedMLP,
    obs: Tensor,
    noise: Tensor,
    base_act: Tensor,
    *,
    alpha: float,
    normalize_q: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of FQL's one-step policy, [S]: -Q(s, clip(mu(s, z))) + alpha |mu(s, z) - a_b(s, z)|^2, and metrics.

    Args:
        onestep: mu(s, z).
        critic: Q, constant here.
        obs: [S, B, O].
        noise: z, [S, B, A].
        base_act: a_b(s, z), the flow's action from the same noise, [S, B, A].
        alpha: weight of the distillation term.
        normalize_q: see `fd.method.objective.q_loss`.

    Source: arXiv 2502.02538.
    """
    act: Tensor = onestep(obs, noise)
    improve, q = q_loss(critic, obs, act.clamp(-1, 1), normalize=normalize_q)
    distill = (act - base_act).square().mean(dim=(-2, -1))
    return improve + alpha * distill, {"q": q, "q_loss": improve.detach(), "penalty": distill.detach()}


def expectile_loss(value: StackedMLP, obs: Tensor, q: Tensor, *, expectile: float) -> tuple[Tensor, Tensor]:
    """E |expectile - 1(q < V(s))| (q - V(s))^2, [S], and V(s), [S, B]: V is the upper expectile of q over the data's actions.

    Args:
        value: V.
        obs: [S, B, O].
        q: the smaller target critic at the data's actions, constant, [S, B].
        expectile: in (0.5, 1).

    Source: arXiv 2110.06169.
    """
    v = value(obs).squeeze(-1)
    difference = q - v
    weight = (expectile - (difference < 0).to(v.dtype)).abs()
    return (weight * difference.square()).mean(dim=-1), v.detach()


def awr_loss(
    policy: StackedMLP, obs: Tensor, act: Tensor, advantage: Tensor, *, alpha: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-E min(exp(alpha * advantage), 100) log pi(a | s), [S], for a Gaussian policy of unit variance, and metrics.

    Args:
        policy: mean of the Gaussian.
        obs: [S, B, O].
        act: actions of the data, [S, B, A].
        advantage: Q(s, a) - V(s), constant, [S, B].
        alpha: inverse temperature.

    Source: arXiv 2110.06169.
    """
    mean: Tensor = policy(obs)
    likelihood = _log_likelihood(mean, act)
    weight = (alpha * advantage).exp().clamp_max(LARGEST_WEIGHT)
    metrics = {
        "advantage": advantage.mean(dim=-1),
        "log_likelihood": likelihood.detach().mean(dim=-1),
        "mse": (mean.detach() - act).square().mean(dim=(-2, -1)),
    }
    return -(weight * likelihood).mean(dim=-1), metrics


def ddpgbc_loss(
    policy: StackedMLP, critic: StackedMLP, obs: Tensor, act: Tensor, *, alpha: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-E Q(s, clip(mu(s))) / E |Q| - alpha E log pi(a | s), [S], for a Gaussian policy of unit variance, and metrics.

    Args:
        policy: mean mu of the Gaussian.
        critic: Q, the smaller of the ensemble, constant here.
        obs: [S, B, O].
        act: actions of the data, [S, B, A].
        alpha: weight of behavioural cloning.

    Source: arXiv 2406.09329; https://github.com/seohongpark/fql.
    """
    mean: Tensor = policy(obs)
    improve, q = _smaller_q_loss(critic, obs, mean.clamp(-1, 1))
    likelihood = _log_likelihood(mean, act).mean(dim=-1)
    mse = (mean.detach() - act).square().mean(dim=(-2, -1))
    metrics = {"q": q, "q_loss": improve.detach(), "log_likelihood": likelihood.detach(), "mse": mse}
    return improve - alpha * likelihood, metrics


def rebrac_loss(
    policy: StackedMLP, critic: StackedMLP, obs: Tensor, act: Tensor, *, alpha: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-E Q(s, mu(s)) / E |Q| + alpha E |mu(s) - a|^2, [S], for mu(s) = tanh(policy(s)), and metrics.

    Args:
        policy: network of mu before its tanh.
        critic: Q, the smaller of the ensemble, constant here.
        obs: [S, B, O].
        act: actions of the data, [S, B, A].
        alpha: weight of behavioural cloning, at least 0.

    Source: arXiv 2305.09836.
    """
    mean = policy(obs).tanh()
    improve, q = _smaller_q_loss(critic, obs, mean)
    mse = (mean - act).square().mean(dim=(-2, -1))
    return improve + alpha * act.shape[-1] * mse, {"q": q, "q_loss": improve.detach(), "mse": mse.detach()}


def _smaller_q_loss(critic: StackedMLP, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    """-E Q / E |Q| and E Q, [S], for the smaller Q of the ensemble; E |Q| is a constant."""
    q = values(critic, obs, act, constant=True).amin(dim=1)
    return -q.mean(dim=-1) / q.detach().abs().mean(dim=-1), q.detach().mean(dim=-1)


def _log_likelihood(mean: Tensor, act: Tensor) -> Tensor:
    """log N(act; mean, I), [S, B]."""
    return -0.5 * ((act - mean).square() + math.log(2 * math.pi)).sum(dim=-1)
