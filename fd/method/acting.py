"""The networks that a policy acts with, and how it acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fd.method.flow import base_actions
from fd.method.spec import Spec
from fd.networks.mlp import StackedMLP, observing

CRITICS = 2

POLICY_GAIN = 0.1  # of the last layer of policies without a flow: variance scaling 0.01


def flow_net(spec: Spec, generators: Sequence[torch.Generator]) -> StackedMLP:
    """The velocity network of S seeds."""
    return _net(spec, generators, inputs=spec.act_dim + 1, outputs=spec.act_dim)


def policy_net(spec: Spec, generators: Sequence[torch.Generator]) -> StackedMLP:
    """The policy's network of S seeds.

    The residual delta(s, a_b) and the one-step policy mu(s, z) read [s, an action-sized vector]; policies without a flow read s.
    """
    if spec.policy in ("gaussian", "deterministic"):
        return _net(spec, generators, inputs=0, outputs=spec.act_dim, last_gain=POLICY_GAIN)
    return _net(spec, generators, inputs=spec.act_dim, outputs=spec.act_dim)


def critic_net(spec: Spec, generators: Sequence[torch.Generator]) -> StackedMLP:
    """The critic ensemble of S seeds, [S, E]; a seed's critics share their encoder."""
    return _net(spec, generators, inputs=spec.act_dim, outputs=1, ensemble=(CRITICS,), norm=True)


def value_net(spec: Spec, generators: Sequence[torch.Generator]) -> StackedMLP:
    """V of IQL's critic, which reads only the state."""
    return _net(spec, generators, inputs=0, outputs=1, norm=True)


def _net(spec: Spec, generators: Sequence[torch.Generator], **shape: Any) -> StackedMLP:
    """A network that reads an observation first; see `fd.networks.mlp.observing`."""
    return observing(spec.obs_shape, spec.encoder, spec.hidden, generators=generators, **shape)


@torch.no_grad()
def act(
    spec: Spec, flow: StackedMLP, policy: StackedMLP, obs: Tensor, noise: Tensor, *, refinements: int = 1
) -> Tensor:
    """Actions [S, B * n, A] in [-1, 1], n in a row for each of obs [S, B, O], from standard normal noise [S, B * n, A].

    Policies without a flow return their mean. A residual is applied `refinements` times, each time to the previous action.
    """

    def states(net: StackedMLP) -> Tensor:
        return net.features(obs).repeat_interleave(noise.shape[1] // obs.shape[1], dim=1)

    if spec.policy == "onestep":
        out: Tensor = policy(states(policy), noise)
        return out.clamp(-1, 1)
    if spec.policy in ("gaussian", "deterministic"):
        out = policy(states(policy))
        return out.tanh() if spec.policy == "deterministic" else out.clamp(-1, 1)
    action = base_actions(flow, states(flow), noise, steps=spec.flow_steps, solver=spec.flow_solver)
    if spec.policy == "residual":
        features = states(policy)
        for _ in range(refinements):
            action = displace(policy, features, action)[0]
    return action


def displace(residual: StackedMLP, obs: Tensor, base_act: Tensor) -> tuple[Tensor, Tensor]:
    """T_s(a) = clip(a + delta(s, a)) and delta, both [S, B, A], for base actions [S, B, A]."""
    delta: Tensor = residual(obs, base_act)
    return (base_act + delta).clamp(-1, 1), delta
