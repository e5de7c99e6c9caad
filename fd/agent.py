"""Agents: the networks of all seeds, their joint loss and one update.

Every tensor has the seeds as its first axis and every loss is a vector [S]; its sum is differentiated, so one backward pass gives
each seed exactly its own gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fd.critic import critic_loss, target_values
from fd.fisher import Metric, state_scores
from fd.flow import base_actions, matching_loss
from fd.nets import StackedMLP
from fd.optim import step
from fd.refine import displace, distillation_loss, refinement_loss
from fd.replay import Batch
from fd.spec import Spec

CRITICS = 2


@dataclass(frozen=True)
class Noise:
    """Every random number of an update; fields that a method does not use are None.

    base, next_base [S, B, A]: noise z of the base actions. fisher_base, fisher_x0 [S, B, K, A], fisher_t [S, B, K, 1]: of the K scores.
    flow_x0 [S, B, A], flow_t [S, B, 1]: of the flow-matching loss.
    """

    base: Tensor
    next_base: Tensor
    fisher_base: Tensor | None = None
    fisher_x0: Tensor | None = None
    fisher_t: Tensor | None = None
    flow_x0: Tensor | None = None
    flow_t: Tensor | None = None


@dataclass(frozen=True)
class Base:
    """What the behaviour flow says of a batch, constants of every loss.

    act, next_act [S, B, A]: base actions of obs and next_obs, from noise and next_noise [S, B, A].
    scores [S, B, K, A]: of obs; None where the metric needs none.
    """

    act: Tensor
    next_act: Tensor
    noise: Tensor | None
    next_noise: Tensor | None
    scores: Tensor | None


class Agent(nn.Module):
    """Flow, critics, target critics, policy and dual of S seeds.

    Args:
        spec: shapes, switches and hyperparameters.
        generators: one per seed, for the initial weights.
    """

    log_dual: nn.Parameter

    def __init__(self, spec: Spec, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.spec = spec
        self.seeds = len(generators)
        widths, critics = (spec.obs_dim + spec.act_dim, *spec.hidden, 1), (self.seeds, CRITICS)
        self.flow = flow_net(spec, generators)
        self.policy = policy_net(spec, generators)
        self.critic = StackedMLP(critics, widths, norm=True, generators=generators)
        self.target = StackedMLP(critics, widths, norm=True, generators=generators)
        self.target.load_state_dict(self.critic.state_dict())
        self.log_dual = nn.Parameter(torch.full((self.seeds,), spec.dual_init).log())
        refines = spec.policy != "flow"
        self.flow.requires_grad_(spec.behaviour == "joint")
        self.policy.requires_grad_(refines)
        self.critic.requires_grad_(refines)
        self.target.requires_grad_(False)
        self.log_dual.requires_grad_(spec.policy == "residual" and spec.dual == "learned")
        self.metric = Metric(spec.metric, spec.damping, spec.normalise)

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimiser steps."""
        return [p for p in self.parameters() if p.requires_grad]

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions [S, B, A] of the policy for obs [S, B, O] and standard normal noise [S, B, A]."""
        return act(self.spec, self.flow, self.policy, obs, noise)

    def base(self, batch: Batch, noise: Noise) -> Base:
        """Base actions and scores of a batch, drawn afresh from the flow in one integration."""
        spec, size = self.spec, batch.obs.shape[1]
        obs, start = [batch.obs, batch.next_obs], [noise.base, noise.next_base]
        needs_scores = spec.metric != "identity" and spec.policy == "residual"
        if needs_scores:
            assert noise.fisher_base is not None and noise.fisher_x0 is not None and noise.fisher_t is not None
            obs.append(batch.obs.repeat_interleave(spec.fisher_samples, dim=1))
            start.append(noise.fisher_base.flatten(1, 2))
        drawn = base_actions(self.flow, torch.cat(obs, dim=1), torch.cat(start, dim=1), steps=spec.flow_steps)
        scores = None
        if needs_scores:
            assert noise.fisher_base is not None and noise.fisher_x0 is not None and noise.fisher_t is not None
            fisher_act = drawn[:, 2 * size :].view_as(noise.fisher_base)
            scores = state_scores(
                self.flow, batch.obs, fisher_act, x0=noise.fisher_x0, t=noise.fisher_t, formula=spec.score
            )
        return Base(drawn[:, :size], drawn[:, size : 2 * size], noise.base, noise.next_base, scores)

    def losses(self, batch: Batch, base: Base, noise: Noise | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss [S] and metrics, each [S]; `noise` is needed where the flow is trained along."""
        spec = self.spec
        total = torch.zeros_like(self.log_dual)
        metrics: dict[str, Tensor] = {}
        if spec.behaviour == "joint":
            assert noise is not None and noise.flow_x0 is not None and noise.flow_t is not None
            flow_loss = matching_loss(self.flow, batch.obs, batch.act, x0=noise.flow_x0, t=noise.flow_t)
            total, metrics["flow_loss"] = total + flow_loss, flow_loss.detach()
        if spec.policy == "flow":
            return total, metrics
        y = target_values(
            self.target, batch.next_obs, self._next_actions(batch, base),
            reward=batch.reward, mask=batch.mask, discount=spec.discount, q_agg=spec.q_agg,
        )  # fmt: skip
        loss, _ = critic_loss(self.critic, batch.obs, batch.act, y)
        metrics["critic_loss"] = loss.detach()
        policy_loss, policy_metrics = self._policy_loss(batch, base)
        return total + loss + policy_loss, metrics | {"policy_loss": policy_loss.detach()} | policy_metrics

    @torch.no_grad()
    def _next_actions(self, batch: Batch, base: Base) -> Tensor:
        if self.spec.policy == "residual":
            return displace(self.policy, batch.next_obs, base.next_act)[0]
        assert base.next_noise is not None
        out: Tensor = self.policy(batch.next_obs, base.next_noise)
        return out.clamp(-1, 1)

    def _policy_loss(self, batch: Batch, base: Base) -> tuple[Tensor, dict[str, Tensor]]:
        spec = self.spec
        if spec.policy == "residual":
            return refinement_loss(
                self.policy, self.critic, self.log_dual, batch.obs, base.act,
                scores=base.scores, metric=self.metric, budget=spec.target_divergence,
                normalize_q=spec.normalize_q, learn_dual=spec.dual == "learned",
            )  # fmt: skip
        assert base.noise is not None
        return distillation_loss(
            self.policy, self.critic, batch.obs, base.noise, base.act, alpha=spec.alpha, normalize_q=spec.normalize_q
        )


def flow_net(spec: Spec, generators: Sequence[torch.Generator]) -> StackedMLP:
    """The velocity network of S seeds."""
    widths = (spec.obs_dim + spec.act_dim + 1, *spec.hidden, spec.act_dim)
    return StackedMLP((len(generators),), widths, norm=False, generators=generators)


def policy_net(spec: Spec, generators: Sequence[torch.Generator]) -> StackedMLP:
    """The residual delta(s, a_b) or the one-step policy mu(s, z) of S seeds; both read [s, an action-sized vector]."""
    widths = (spec.obs_dim + spec.act_dim, *spec.hidden, spec.act_dim)
    return StackedMLP((len(generators),), widths, norm=False, generators=generators)


@torch.no_grad()
def act(spec: Spec, flow: StackedMLP, policy: StackedMLP, obs: Tensor, noise: Tensor) -> Tensor:
    """Actions [S, B, A] in [-1, 1] for obs [S, B, O] and standard normal noise [S, B, A]."""
    if spec.policy == "onestep":
        out: Tensor = policy(obs, noise)
        return out.clamp(-1, 1)
    base = base_actions(flow, obs, noise, steps=spec.flow_steps)
    return base if spec.policy == "flow" else displace(policy, obs, base)[0]


def update(agent: Agent, adam: torch.optim.Adam, batch: Batch, base: Base, noise: Noise | None) -> dict[str, Tensor]:
    """One update of every seed: metrics, each [S]. The target critics follow the critics from before the step."""
    loss, metrics = agent.losses(batch, base, noise)
    with torch.no_grad():
        torch._foreach_lerp_(list(agent.target.parameters()), list(agent.critic.parameters()), agent.spec.tau)
    metrics["grad_norm"] = step(adam, loss, agent.trained(), clip=agent.spec.grad_clip)
    return metrics
