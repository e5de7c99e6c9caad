"""A bandit with a multimodal behaviour policy in the plane: where each method moves the actions, and at what cost.

There is one state, and the reward is a known function of the action. Flow and critic are learned from actions of the behaviour
only, so beyond its support the critic extrapolates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fd.method.acting import displace
from fd.method.baselines import distillation_loss
from fd.method.critic import critic_loss
from fd.method.fisher import Metric, desmoothed, score, state_scores
from fd.method.flow import base_actions
from fd.method.objective import refinement_loss
from fd.networks.mlp import StackedMLP
from fd.settings.theory_settings import TheorySchedule
from fd.theory.distributions import Mixture, planar
from fd.theory.fit import ACT_DIM, OBS_DIM, descend, generators, nothing, seeds_part, time_window
from fd.theory.gap import CLIP, DAMPING, spanning
from fd.theory.kl import kl

CRITICS = 2
T_EPS = 0.8
DUAL_INIT = 10.0
POOL = 8192  # base actions of a member
SHOWN = 4096  # actions that are measured
NODES = 160  # of the grid of a KL, per dimension
SUPPORT = 0.99  # mass of the behaviour inside its support, the region of highest density
KEPT = 0.2  # share of its mass below which a mode counts as lost
METHODS = ("bc", "fql", "deflow", "fidec", "fidec-desmooth", "fidec-stein")


@dataclass(frozen=True)
class BanditLayout:
    """A behaviour policy and the peak of its reward exp(-|a - peak|^2 / (2 width^2))."""

    target: Mixture
    peak: tuple[float, float]
    width: float = 0.6

    def value(self, act: Tensor) -> Tensor:
        """Reward [...] of actions [..., A], in (0, 1]."""
        gap = act - torch.tensor(self.peak, dtype=act.dtype)
        return (-gap.square().sum(dim=-1) / (2 * self.width**2)).exp()


@dataclass(frozen=True)
class BanditOutcome:
    """One method on one layout and seed.

    Attributes:
        value: mean reward.
        off_support: share of actions where the behaviour's density is below the level that SUPPORT of its mass exceeds.
        modes: modes that keep KEPT of their mass.
        moved: mean over actions and dimensions of (a - a_b)^2, where a_b is the base action of the same noise.
        kl: of the displacement under the known behaviour, nats; None for a policy without displacement, or if it folds.
        folds: whether the displacement folds the plane, so that its KL is not known.
        actions: [SHOWN, A].
    """

    layout: str
    method: str
    seed: int
    value: float
    off_support: float
    modes: int
    moved: float
    kl: float | None
    folds: bool
    actions: Tensor


@dataclass(frozen=True)
class _Stack:
    """Networks and draws that all methods share, one member per layout and seed."""

    flow: StackedMLP
    critic: StackedMLP
    noise: Tensor
    base: Tensor
    seeds: Sequence[int]
    layouts: Mapping[str, BanditLayout]

    def members(self) -> list[tuple[str, int]]:
        return [(name, seed) for name in self.layouts for seed in self.seeds]

    def names(self, method: str) -> list[str]:
        return [f"{method} on the layout {name}, seed {seed}" for name, seed in self.members()]


def layouts() -> dict[str, BanditLayout]:
    """Narrow parallel modes, which one matrix fits, and narrow crossed modes, which no single matrix fits."""
    parallel = planar([(0, 0.6), (0, 0), (0, -0.6)], deviations=[(0.3, 0.06)] * 3, degrees=[0] * 3)
    corners = [(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)]
    crossed = planar(corners, deviations=[(0.25, 0.06)] * 4, degrees=[-45, 45, -45, 45])
    return {"parallel": BanditLayout(parallel, (0.4, 0.25)), "crossed": BanditLayout(crossed, (0.4, 0.1))}


def play(
    flow: StackedMLP, seeds: Sequence[int], *, budget: float, alpha: float, flow_steps: int, schedule: TheorySchedule
) -> list[BanditOutcome]:
    """Outcomes of every method on every layout, with learned flows whose members are layouts times seeds.

    Args:
        flow: velocity networks of the layouts.
        seeds: one per member of a layout.
        budget: bound on the penalty of every refinement.
        alpha: weight of FQL's distillation term.
        flow_steps: Euler steps of a base action.
        schedule: training of the critic and of every policy.
    """
    plan = layouts()
    streams = generators(len(plan) * len(seeds), seeds, purpose=3)
    noise = torch.stack([torch.randn(POOL, ACT_DIM, generator=stream) for stream in streams])
    base = base_actions(flow, nothing(noise), noise, steps=flow_steps)
    critic = _critic(plan, seeds, schedule)
    stack = _Stack(flow, critic, noise, base, seeds, plan)
    found: list[BanditOutcome] = []
    for method in METHODS:
        if method == "bc":
            act, residual = base[:, :SHOWN], None
        elif method == "fql":
            act, residual = _distil(stack, alpha, schedule), None
        else:
            residual = _refine(stack, method, budget, schedule)
            act = displace(residual, nothing(base), base)[0][:, :SHOWN]
        found += _outcomes(stack, method, act, residual)
    return found


def _critic(plan: Mapping[str, BanditLayout], seeds: Sequence[int], schedule: TheorySchedule) -> StackedMLP:
    """Critics of every layout and seed, fitted to the reward on actions of the behaviour."""
    members = [layout for layout in plan.values() for _ in seeds]
    streams = generators(len(members), seeds, purpose=4)
    widths = (OBS_DIM + ACT_DIM, *schedule.hidden, 1)
    critic = StackedMLP((len(members), CRITICS), widths, norm=True, generators=streams)
    pairs = list(zip(members, streams, strict=True))
    act = torch.stack([layout.target.sample(POOL, stream).float().clamp(-1, 1) for layout, stream in pairs])
    reward = torch.stack([layout.value(part) for layout, part in zip(members, act, strict=True)])

    def loss(index: int) -> Tensor:
        batch = time_window(act, index, schedule.batch_size)
        y = time_window(reward, index, schedule.batch_size)
        return critic_loss(critic, nothing(batch), batch, y)[0]

    names = [f"critic of the layout {name}, seed {seed}" for name in plan for seed in seeds]
    descend(list(critic.parameters()), loss, schedule, clip=0.0, members=names)
    return critic.requires_grad_(False)


def _policy(stack: _Stack, schedule: TheorySchedule) -> StackedMLP:
    streams = generators(len(stack.base), stack.seeds, purpose=5)
    widths = (OBS_DIM + ACT_DIM, *schedule.hidden, ACT_DIM)
    return StackedMLP((len(stack.base),), widths, norm=False, generators=streams)


@torch.no_grad()
def _shown(policy: StackedMLP, noise: Tensor) -> Tensor:
    act: Tensor = policy(nothing(noise), noise)
    return act[:, :SHOWN].clamp(-1, 1)


def _distil(stack: _Stack, alpha: float, schedule: TheorySchedule) -> Tensor:
    """Actions [S, SHOWN, A] of FQL's one-step policy from the noise of the base actions."""
    policy = _policy(stack, schedule)

    def loss(index: int) -> Tensor:
        noise, base = (time_window(pool, index, schedule.batch_size) for pool in (stack.noise, stack.base))
        obs = nothing(base)
        return distillation_loss(policy, stack.critic, obs, noise, base, alpha=alpha, normalize_q=False)[0]

    descend(list(policy.parameters()), loss, schedule, clip=0.0, members=stack.names("fql"))
    return _shown(policy, stack.noise)


def _refine(stack: _Stack, method: str, budget: float, schedule: TheorySchedule) -> StackedMLP:
    """The residual displacement of a method, under its own metric and the common budget."""
    residual = _policy(stack, schedule)
    log_dual = nn.Parameter(torch.full((len(stack.base),), DUAL_INIT).log())
    kinds = {"deflow": "identity", "fidec-stein": "stein"}
    metric = Metric(kinds.get(method, "state"), DAMPING, "batch" if method == "fidec-stein" else "state")
    shared = _state_vectors(stack, method) if metric.kind == "state" else None

    def loss(index: int) -> Tensor:
        base = time_window(stack.base, index, schedule.batch_size)
        obs, scores = nothing(base), shared
        if metric.kind == "stein":
            t = torch.full_like(base[..., :1], T_EPS)
            scores = score(stack.flow, obs, base, t, formula="exact").unsqueeze(2)
        return refinement_loss(
            residual, stack.critic, log_dual, obs, base,
            scores=scores, metric=metric, budget=budget, normalize_q=False, learn_dual=True,
        )[0]  # fmt: skip

    descend([*residual.parameters(), log_dual], loss, schedule, clip=CLIP, members=stack.names(method))
    return residual.requires_grad_(False)


def _state_vectors(stack: _Stack, method: str) -> Tensor:
    """The A vectors that span F of the single state, [S, 1, A, A], from the scores of the whole pool."""
    streams = generators(len(stack.base), stack.seeds, purpose=6)
    x0 = torch.stack([torch.randn(POOL, ACT_DIM, generator=stream) for stream in streams]).unsqueeze(1)
    t = torch.full_like(x0[..., :1], T_EPS)
    base = stack.base.unsqueeze(1)
    scores = state_scores(stack.flow, nothing(base[:, :, 0]), base, x0=x0, t=t, formula="exact")
    return desmoothed(scores, T_EPS) if method == "fidec-desmooth" else spanning(scores)


def _outcomes(stack: _Stack, method: str, act: Tensor, residual: StackedMLP | None) -> list[BanditOutcome]:
    found = []
    divergences = {} if residual is None else _divergences(stack, residual)
    for member, (name, seed) in enumerate(stack.members()):
        layout, actions = stack.layouts[name], act[member].double()
        target = layout.target
        own = target.sample(POOL, torch.Generator().manual_seed(0))
        floor = target.log_density(own).quantile(1 - SUPPORT)
        inside = target.log_density(actions) >= floor
        divergence, folds = divergences.get((name, seed), (None, False))
        shares = target.responsibilities(actions)[inside].sum(dim=0) / len(actions)
        found.append(
            BanditOutcome(
                name,
                method,
                seed,
                value=float(layout.value(actions).mean()),
                off_support=float(1 - inside.double().mean()),
                modes=int((shares >= KEPT * target.weights).sum()),
                moved=float((act[member] - stack.base[member, :SHOWN]).square().mean()),
                kl=divergence,
                folds=folds,
                actions=actions,
            )
        )
    return found


def _divergences(stack: _Stack, residual: StackedMLP) -> dict[tuple[str, int], tuple[float | None, bool]]:
    """True KL of every member's displacement, under the known behaviour and without the clip, and whether it folds."""
    found: dict[tuple[str, int], tuple[float | None, bool]] = {}
    count = len(stack.seeds)
    for place, (name, layout) in enumerate(stack.layouts.items()):
        exact = seeds_part(residual, place * count, (place + 1) * count).double()
        values, folds = (each.tolist() for each in kl(layout.target, partial(_wide, exact), nodes=NODES))
        for seed, value, folded in zip(stack.seeds, values, folds, strict=True):
            found[name, seed] = (None if folded else value, folded)
    return found


def _wide(residual: StackedMLP, x: Tensor) -> Tensor:
    """delta of every member, [S, B, A], at points [1, B, A]."""
    wide = x.expand(residual.lead[0], -1, -1)
    out: Tensor = residual(nothing(wide), wide)
    return out
