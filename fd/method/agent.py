"""Agents: the networks of all seeds, their joint loss and one update.

Every tensor has the seeds as its first axis and every loss is a vector [S]; its sum is differentiated, so one backward pass gives
each seed exactly its own gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fd.method.acting import CRITICS, act, critic_net, displace, flow_net, policy_net, value_net
from fd.method.baselines import awr_loss, ddpgbc_loss, distillation_loss, expectile_loss, rebrac_loss
from fd.method.batch import Batch, FlowSamples, Noise
from fd.method.critic import aggregated_values, critic_loss
from fd.method.fisher import Metric, curvature, score, state_scores
from fd.method.flow import base_actions, matching_loss
from fd.method.objective import LOG_DUAL_LIMIT, refinement_loss
from fd.method.spec import Spec
from fd.networks.adam import Optimiser
from fd.networks.mlp import StackedMLP


class Agent(nn.Module):
    """Flow, critics, target critics, policy and dual of S seeds; V or a target policy if the method has one.

    Args:
        spec: shapes, switches and hyperparameters.
        generators: one per seed, for the initial weights.
    """

    log_dual: nn.Parameter

    def __init__(self, spec: Spec, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.spec = spec
        self.seeds = len(generators)
        self.flow = flow_net(spec, generators)
        self.policy = policy_net(spec, generators)
        self.critic = critic_net(spec, generators)
        self.target = critic_net(spec, generators)
        self.target.load_state_dict(self.critic.state_dict())
        self.log_dual = nn.Parameter(torch.full((self.seeds,), spec.dual_init).log())
        self.value: StackedMLP | None = None
        self.target_policy: StackedMLP | None = None
        if spec.critic == "expectile":
            self.value = value_net(spec, generators)
        if spec.policy == "deterministic":
            self.target_policy = policy_net(spec, generators)
            self.target_policy.load_state_dict(self.policy.state_dict())
            self.target_policy.requires_grad_(False)
        self.flow.requires_grad_(spec.behaviour == "joint")
        self.policy.requires_grad_(spec.policy != "flow")
        self.critic.requires_grad_(spec.critic != "none")
        self.target.requires_grad_(False)
        self.log_dual.requires_grad_(spec.dual == "learned")
        self.metric = Metric(spec.metric, spec.damping, spec.normalise)

    def trained(self) -> dict[str, StackedMLP | nn.Parameter]:
        """The networks that the optimiser steps, and the multiplier if it is learned."""
        parts = {name: net for name, net in self.named_children() if isinstance(net, StackedMLP)}
        parts = {name: net for name, net in parts.items() if next(net.parameters()).requires_grad}
        return parts | ({"log_dual": self.log_dual} if self.log_dual.requires_grad else {})

    def optimiser(self) -> Optimiser:
        """Adam of what is trained; the multiplier has a learning rate of its own."""
        return Optimiser(self.trained(), self.spec.learning_rate, {"log_dual": self.spec.dual_rate})

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions [S, B, A] of the policy for obs [S, B, O] and standard normal noise [S, B, A]."""
        return act(self.spec, self.flow, self.policy, obs, noise)

    @torch.no_grad()
    def base(self, batch: Batch, noise: Noise) -> FlowSamples:
        """Base actions and scores of a batch, drawn afresh from the flow in one integration."""
        spec, size = self.spec, batch.obs.shape[1]
        assert noise.base is not None and noise.next_base is not None
        own, following = self.flow.features(batch.obs), self.flow.features(batch.next_obs)
        obs, start = [own, following], [noise.base, noise.next_base]
        if spec.state_scores:
            assert noise.fisher_base is not None
            obs.append(own.repeat_interleave(spec.fisher_samples, dim=1))
            start.append(noise.fisher_base.flatten(1, 2))
        drawn = base_actions(
            self.flow, torch.cat(obs, dim=1), torch.cat(start, dim=1), steps=spec.flow_steps, solver=spec.flow_solver
        )
        act, next_act, fisher_act = drawn[:, :size], drawn[:, size : 2 * size], drawn[:, 2 * size :]
        scores = rest = None
        if spec.state_scores:
            assert noise.fisher_x0 is not None and noise.fisher_t is not None
            scores = state_scores(
                self.flow, own, fisher_act.view_as(noise.fisher_x0),
                x0=noise.fisher_x0, t=noise.fisher_t, formula=spec.score,
            )  # fmt: skip
        elif spec.action_scores:
            assert noise.fisher_t is not None
            t = noise.fisher_t[:, :, 0]
            if spec.metric == "curvature":
                scores, rest = curvature(self.flow, own, act, t, desmooth=spec.desmooth)
            else:
                scores = score(self.flow, own, act, t, formula=spec.score).unsqueeze(2)
        return FlowSamples(act, next_act, noise.base, noise.next_base, scores, rest)

    def forward(
        self, batch: Batch, base: FlowSamples | None, noise: Noise, *, with_policy: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss [S] and metrics, each [S].

        Args:
            batch: transitions.
            base: their base actions and scores, if the method needs them (`Spec.based`); None: drawn afresh.
            noise: random numbers of this update.
            with_policy: whether this update also improves the policy.
        """
        spec = self.spec
        if base is None and spec.based:
            base = self.base(batch, noise)
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        advantage = None
        if spec.behaviour == "joint":
            assert noise.flow_x0 is not None and noise.flow_t is not None
            losses["flow_loss"] = matching_loss(self.flow, batch.obs, batch.act, x0=noise.flow_x0, t=noise.flow_t)
        if spec.critic != "none":
            y = self.target_values(batch, base, noise)
            losses["critic_loss"], q = critic_loss(self.critic, batch.obs, batch.act, y)
            metrics |= _spread("q", q)
            if self.value is not None:
                losses["critic_loss"] = CRITICS * losses["critic_loss"]  # IQL sums over the ensemble
                target_q = aggregated_values(self.target, batch.obs, batch.act, q_agg="min")
                losses["value_loss"], v = expectile_loss(self.value, batch.obs, target_q, expectile=spec.expectile)
                metrics |= _spread("v", v)
                advantage = q.amin(dim=1) - v
        if with_policy and spec.policy != "flow":
            losses["policy_loss"], more = self._policy_loss(batch, base, noise, advantage)
            metrics |= more
        return sum(losses.values(), torch.zeros_like(self.log_dual)), metrics | losses

    @torch.no_grad()
    def target_values(self, batch: Batch, base: FlowSamples | None, noise: Noise) -> Tensor:
        """y = r + discount * mask * value of s', [S, B].

        Deviation: at the end of an episode ReBRAC's target has no penalty, because there is no next action; the reference takes the
        action of the next episode's first state.
        """
        spec = self.spec
        if self.value is not None:
            value: Tensor = self.value(batch.next_obs).squeeze(-1)
        elif self.target_policy is not None:
            assert noise.target is not None and batch.next_act is not None and batch.next_known is not None
            smoothing = (noise.target * spec.target_noise).clamp(-spec.noise_clip, spec.noise_clip)
            next_act = (self.target_policy(batch.next_obs).tanh() + smoothing).clamp(-1, 1)
            value = aggregated_values(self.target, batch.next_obs, next_act, q_agg="min")
            distance = (next_act - batch.next_act).square().sum(dim=-1)
            value = value - spec.rebrac_alpha_critic * distance * batch.next_known
        else:
            value = aggregated_values(self.target, batch.next_obs, self._next_actions(batch, base), q_agg=spec.q_agg)
        return batch.reward + spec.discount * batch.mask * value

    def _next_actions(self, batch: Batch, base: FlowSamples | None) -> Tensor:
        assert base is not None
        if self.spec.policy == "residual":
            return displace(self.policy, batch.next_obs, base.next_act)[0]
        assert base.next_noise is not None
        out: Tensor = self.policy(batch.next_obs, base.next_noise)
        return out.clamp(-1, 1)

    def _policy_loss(
        self, batch: Batch, base: FlowSamples | None, noise: Noise, advantage: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the policy; `advantage`: min_E Q(s, a) - V(s) at the data's actions, constant, [S, B], if there is a V."""
        spec = self.spec
        if spec.policy == "deterministic":
            return rebrac_loss(self.policy, self.critic, batch.obs, batch.act, alpha=spec.rebrac_alpha)
        if spec.policy == "gaussian":
            if spec.extraction == "ddpgbc":
                return ddpgbc_loss(self.policy, self.critic, batch.obs, batch.act, alpha=spec.iql_alpha)
            assert advantage is not None
            return awr_loss(self.policy, batch.obs, batch.act, advantage, alpha=spec.iql_alpha)
        assert base is not None
        if spec.policy == "residual":
            return refinement_loss(
                self.policy, self.critic, self.log_dual, batch.obs, base.act,
                scores=base.scores, rest=base.rest, metric=self.metric, budget=spec.target_divergence,
                normalize_q=spec.normalize_q, learn_dual=spec.dual == "learned", probes=noise.probes,
            )  # fmt: skip
        assert base.noise is not None
        return distillation_loss(
            self.policy, self.critic, batch.obs, base.noise, base.act, alpha=spec.alpha, normalize_q=spec.normalize_q
        )


def _spread(name: str, numbers: Tensor) -> dict[str, Tensor]:
    flat = numbers.flatten(1)
    low, high = flat.aminmax(dim=1)
    return {f"{name}_mean": flat.mean(dim=1), f"{name}_min": low, f"{name}_max": high}


def update(
    agent: Agent,
    adam: Optimiser,
    batch: Batch,
    base: FlowSamples | None,
    noise: Noise,
    *,
    with_policy: bool = True,
) -> dict[str, Tensor]:
    """One update of every seed; returns metrics, each [S]. If the policy is updated, targets follow their networks, before the step.

    Args:
        agent, adam: updated here.
        batch, base, noise, with_policy: see `Agent.forward`.
    """
    loss: Tensor
    metrics: dict[str, Tensor]
    loss, metrics = agent(batch, base, noise, with_policy=with_policy)
    metrics = {name: value.detach() for name, value in metrics.items()}
    pairs = [(agent.target, agent.critic)]
    if agent.target_policy is not None:
        pairs.append((agent.target_policy, agent.policy))
    with torch.no_grad():
        if with_policy:
            for target, online in pairs:
                slow, fast = ([own.matrix for own in net.joined] for net in (target, online))
                torch._foreach_lerp_(slow, fast, agent.spec.tau)
    metrics["grad_norm"] = adam.descend(loss, clip=agent.spec.grad_clip)
    with torch.no_grad():
        agent.log_dual.clamp_(-LOG_DUAL_LIMIT, LOG_DUAL_LIMIT)
    return metrics
