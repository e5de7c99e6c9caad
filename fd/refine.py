"""The objective: the policy moves base actions up Q while the dual holds the penalty at its budget.

    loss = -Q(s, clip(a_b + delta)) + dual * mean c(s, a_b),      dual: minimise -log_dual * (mean c - budget)

Base actions and scores are constants; Q's parameters and, in the penalty term, the dual get no gradient.
"""

from __future__ import annotations

from torch import Tensor

from fd.critic import values
from fd.fisher import Metric, penalty
from fd.nets import StackedMLP


def displace(residual: StackedMLP, obs: Tensor, base_act: Tensor) -> tuple[Tensor, Tensor]:
    """T_s(a) = clip(a + delta(s, a)) and delta, both [S, B, A], for base actions [S, B, A]."""
    delta: Tensor = residual(obs, base_act)
    return (base_act + delta).clamp(-1, 1), delta


def q_loss(critic: StackedMLP, obs: Tensor, act: Tensor, *, normalize: bool) -> tuple[Tensor, Tensor]:
    """-mean Q(s, a), [S], divided by the constant mean |Q| if `normalize`; and mean Q, [S]."""
    q = values(critic, obs, act, constant=True).mean(dim=1)  # [S, B]
    loss = -q.mean(dim=-1)
    if normalize:
        loss = loss / q.detach().abs().mean(dim=-1)
    return loss, q.detach().mean(dim=-1)


def refinement_loss(
    residual: StackedMLP,
    critic: StackedMLP,
    log_dual: Tensor,
    obs: Tensor,
    base_act: Tensor,
    *,
    scores: Tensor | None,
    metric: Metric,
    budget: float,
    normalize_q: bool,
    learn_dual: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the local transport map and its dual, [S], and metrics, each [S].

    Args:
        residual: delta(s, a_b).
        critic: Q, constant here.
        log_dual: log of the multiplier, [S].
        obs: [S, B, O].
        base_act: [S, B, A].
        scores: K scores of each state, [S, B, K, A]; None for the identity.
        metric: see `fd.fisher.Metric`.
        budget: bound on the mean penalty.
        normalize_q: see `q_loss`.
        learn_dual: whether the dual follows the constraint or stays as it is.

    Source: arXiv 2604.17919.
    """
    act, delta = displace(residual, obs, base_act)
    improve, q = q_loss(critic, obs, act, normalize=normalize_q)
    cost = penalty(delta, scores, metric).mean(dim=-1)
    dual = log_dual.detach().exp()
    loss = improve + dual * cost
    if learn_dual:
        loss = loss - log_dual * (cost.detach() - budget)
    delta2 = delta.detach().square().mean(dim=(-2, -1))
    return loss, {"q": q, "q_loss": improve.detach(), "penalty": cost.detach(), "dual": dual, "delta2": delta2}


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
        normalize_q: see `q_loss`.

    Source: arXiv 2502.02538.
    """
    act: Tensor = onestep(obs, noise)
    improve, q = q_loss(critic, obs, act.clamp(-1, 1), normalize=normalize_q)
    distill = (act - base_act).square().mean(dim=(-2, -1))
    loss = improve + alpha * distill
    return loss, {"q": q, "q_loss": improve.detach(), "penalty": distill.detach()}
