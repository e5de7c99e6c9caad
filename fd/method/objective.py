"""The objective: the policy moves base actions up Q while the dual holds the penalty at its budget.

    loss = -Q(s, clip(a_b + delta)) + dual * mean c(s, a_b),      dual: minimise -log_dual * (mean c - budget)

Base actions and scores are constants; Q's parameters and, in the penalty term, the dual get no gradient.
"""

from __future__ import annotations

from torch import Tensor

from fd.method.acting import displace
from fd.method.critic import values
from fd.method.fisher import Metric, basis, divergence, mean_trace, penalty
from fd.networks.mlp import StackedMLP

LOG_DUAL_LIMIT = 20.0  # of |log_dual|: a multiplier between 2e-9 and 5e8, which float32 can square


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
    budget: float | Tensor,
    normalize_q: bool,
    learn_dual: bool,
    probes: Tensor | None = None,
    rest: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the local transport map and its dual, [S], and metrics, each [S].

    Args:
        residual: delta(s, a_b).
        critic: Q, constant here.
        log_dual: log of the multiplier, [S].
        obs: [S, B, O].
        base_act: [S, B, A].
        scores: K scores of each state, [S, B, K, A]; None for the identity.
        metric: see `fd.method.fisher.Metric`.
        budget: bound on the mean penalty, one for all or [S].
        normalize_q: see `q_loss`.
        learn_dual: whether the dual follows the constraint or stays fixed.
        probes: of the divergence under `stein`, [S, 2, B, A]; None for the exact one.
        rest: isotropic part of `curvature`, [S, B].

    Source: arXiv 2604.17919.
    """
    if metric.kind == "stein":
        delta, slopes = residual.jvp(obs, base_act, directions=basis(base_act) if probes is None else probes)
        act, div = (base_act + delta).clamp(-1, 1), divergence(slopes, probes)
    else:
        (act, delta), div = displace(residual, obs, base_act), None
    improve, q = q_loss(critic, obs, act, normalize=normalize_q)
    cost = penalty(delta, scores, metric, div, rest).mean(dim=-1)
    dual = log_dual.detach().exp()
    loss = improve + dual * cost
    cost = cost.detach()
    metrics = {} if scores is None else {"trace": mean_trace(scores, metric, rest).mean(dim=-1)}
    metrics |= {"q": q, "q_loss": improve.detach(), "penalty": cost, "dual": dual}
    if learn_dual:
        dual_loss = -log_dual * (cost - budget)
        loss, metrics["dual_loss"] = loss + dual_loss, dual_loss.detach()
    metrics["delta2"] = delta.detach().square().mean(dim=(-2, -1))
    return loss, metrics
