"""Inputs of an update: transitions, random numbers, and base actions with their scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Transitions of each seed: obs, next_obs [S, B, O], act [S, B, A], reward, mask [S, B].

    next_act [S, B, A], next_known [S, B]: the data's action at next_obs, and 1 if there is one, 0 at the end of an episode; None
    unless requested.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    mask: Tensor
    next_obs: Tensor
    next_act: Tensor | None = None
    next_known: Tensor | None = None


@dataclass(frozen=True)
class Noise:
    """Every random number of an update; fields that a method does not use are None.

    base, next_base [S, B, A]: noise z of the base actions. fisher_base, fisher_x0 [S, B, K, A], fisher_t [S, B, K, 1]: of the K scores
    (of a base action's own score only fisher_t, K = 1). probes [S, 2, B, A]: of the divergence. target [S, B, A]: of ReBRAC's target
    policy. flow_x0 [S, B, A], flow_t [S, B, 1]: of the flow-matching loss.
    """

    base: Tensor | None = None
    next_base: Tensor | None = None
    fisher_base: Tensor | None = None
    fisher_x0: Tensor | None = None
    fisher_t: Tensor | None = None
    probes: Tensor | None = None
    target: Tensor | None = None
    flow_x0: Tensor | None = None
    flow_t: Tensor | None = None


@dataclass(frozen=True)
class FlowSamples:
    """Base actions and scores of a batch, from the behaviour flow; constants of every loss.

    act, next_act [S, B, A]: base actions of obs and next_obs, from noise and next_noise [S, B, A], which only a one-step policy needs.
    scores [S, B, K, A]: of obs, or of the base actions (K = 1), or vectors of the curvature there; None if the metric needs none.
    rest [S, B]: isotropic part of the curvature, see `fd.method.fisher.curvature`; None for other metrics.
    """

    act: Tensor
    next_act: Tensor
    noise: Tensor | None
    next_noise: Tensor | None
    scores: Tensor | None
    rest: Tensor | None = None
