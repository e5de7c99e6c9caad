"""A bandit with a multimodal behaviour policy in the plane: where each method moves the actions, and at what cost.

There is one state, and the reward is a known function of the action. Flow and critic are learned from actions of the behaviour
only, so beyond its support the critic extrapolates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fd.method.acting import displace
from fd.method.baselines import distillation_loss
from fd.method.critic import critic_loss
from fd.method.fisher import Metric, curvature, desmoothed, score, state_scores
from fd.method.flow import base_actions
from fd.method.objective import refinement_loss
from fd.networks.mlp import StackedMLP
from fd.settings.theory_settings import Theory, TheorySchedule
from fd.theory.distributions import Mixture, planar
from fd.theory.fit import ACT_DIM, OBS_DIM, descend, generators, members_of, nothing, time_window
from fd.theory.gap import CLIP, DAMPING, spanning
from fd.theory.kl import kl

CRITICS = 2
DUAL_INIT = 10.0
POOL = 8192  # base actions of a member
SHOWN = 4096  # actions that are measured
NODES = 96  # of the grid of a KL, per dimension
SUPPORT = 0.99  # mass of the behaviour inside its support, the region of highest density
KEPT = 0.2  # share of its mass below which a mode counts as lost
# Refinements whose penalty is a quadratic form: the metric of `fd.method.fisher.Metric`, and whether its smoothing is undone.
QUADRATIC = {
    "deflow": ("identity", False),
    "fidec": ("state", False),
    "fidec-desmooth": ("state", True),
    "fidec-local": ("curvature", False),
    "fidec-local-desmooth": ("curvature", True),
}
METHODS = ("bc", "fql", *QUADRATIC, "fidec-stein")


def metric_name(method: str) -> str:
    """The metric of a method of QUADRATIC in words."""
    kind, desmooth = QUADRATIC[method]
    return f"{kind}, desmoothed" if desmooth else kind


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
        budget: bound on the penalty; None for a policy without a penalty.
        spent: mean penalty / budget at the end of training, over all base actions of the seed.
        value: mean reward.
        gain: value minus the mean reward of the base actions of the same noise.
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
    budget: float | None
    spent: float | None
    value: float
    gain: float
    off_support: float
    modes: int
    moved: float
    kl: float | None
    folds: bool
    actions: Tensor


@dataclass(frozen=True)
class Bandit:
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


def play(flow: StackedMLP, settings: Theory) -> list[BanditOutcome]:
    """Outcomes of every method on every layout at the common budget, and of those of QUADRATIC at all budgets.

    Args:
        flow: velocity networks, one per layout of `layouts` and seed.
        settings: the section `theory`.
    """
    bandit = prepare(flow, layouts(), settings)
    found = _outcomes(bandit, "bc", bandit.base[:, :SHOWN])
    found += _outcomes(bandit, "fql", _distil(bandit, settings.alpha, settings.refine))
    found += refined(bandit, ["fidec-stein"], [settings.budget], settings)
    return found + refined(bandit, QUADRATIC, sorted({settings.budget, *settings.budgets}), settings)


def prepare(flow: StackedMLP, plan: Mapping[str, BanditLayout], settings: Theory) -> Bandit:
    """Base actions of learned flows, and critics of the reward; the members of `flow` are layouts times seeds."""
    streams = generators(len(plan) * len(settings.seeds), settings.seeds, purpose=3)
    noise = torch.stack([torch.randn(POOL, ACT_DIM, generator=stream) for stream in streams])
    base = base_actions(flow, nothing(noise), noise, steps=settings.flow_steps)
    critic = _critic(plan, settings.seeds, settings.refine)
    return Bandit(flow, critic, noise, base, settings.seeds, plan)


def refined(bandit: Bandit, methods: Iterable[str], budgets: Iterable[float], settings: Theory) -> list[BanditOutcome]:
    """Outcomes of refinements with every one of these methods and budgets, trained as members of one stack.

    `methods`: of QUADRATIC, or `fidec-stein` alone, whose penalty is no quadratic form.
    """
    runs = list(itertools.product(methods, budgets))
    vectors = {method: _vectors(bandit, method, settings.t_eps) for method, _ in runs}
    residual = _refine(bandit, runs, vectors, settings.refine)
    found, count = [], len(bandit.base)
    for place, (method, budget) in enumerate(runs):
        own = members_of(residual, range(place * count, (place + 1) * count))
        losses = _loss(bandit.critic, own, torch.zeros(count), bandit.base, vectors[method], budget, method)
        spent = (losses[1]["penalty"] / budget).tolist()
        act = displace(own, nothing(bandit.base), bandit.base)[0][:, :SHOWN]
        found += _outcomes(bandit, method, act, residual=own, budget=budget, spent=spent)
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
    descend({"critic": critic}, loss, schedule, clip=0.0, members=names)
    return critic.requires_grad_(False)


def _policy(bandit: Bandit, schedule: TheorySchedule) -> StackedMLP:
    streams = generators(len(bandit.base), bandit.seeds, purpose=5)
    widths = (OBS_DIM + ACT_DIM, *schedule.hidden, ACT_DIM)
    return StackedMLP((len(bandit.base),), widths, norm=False, generators=streams)


@torch.no_grad()
def _shown(policy: StackedMLP, noise: Tensor) -> Tensor:
    act: Tensor = policy(nothing(noise), noise)
    return act[:, :SHOWN].clamp(-1, 1)


def _distil(bandit: Bandit, alpha: float, schedule: TheorySchedule) -> Tensor:
    """Actions [S, SHOWN, A] of FQL's one-step policy from the noise of the base actions."""
    policy = _policy(bandit, schedule)

    def loss(index: int) -> Tensor:
        noise, base = (time_window(pool, index, schedule.batch_size) for pool in (bandit.noise, bandit.base))
        obs = nothing(base)
        return distillation_loss(policy, bandit.critic, obs, noise, base, alpha=alpha, normalize_q=False)[0]

    descend({"policy": policy}, loss, schedule, clip=0.0, members=bandit.names("fql"))
    return _shown(policy, bandit.noise)


def _refine(
    bandit: Bandit, runs: Sequence[tuple[str, float]], vectors: Mapping[str, Tensor], schedule: TheorySchedule
) -> StackedMLP:
    """The residual displacements of these methods and budgets, one stack of runs * S members."""
    count = len(bandit.base)
    each = list(range(count)) * len(runs)
    residual = members_of(_policy(bandit, schedule), each).requires_grad_(True)
    critic = members_of(bandit.critic, each)
    log_dual = nn.Parameter(torch.full((len(each),), DUAL_INIT).log())
    budgets = torch.tensor([budget for _, budget in runs]).repeat_interleave(count)
    base = bandit.base.repeat(len(runs), 1, 1)
    forms = torch.cat([vectors[method] for method, _ in runs])

    def loss(index: int) -> Tensor:
        batch, scores = (time_window(pool, index, schedule.batch_size) for pool in (base, forms))
        return _loss(critic, residual, log_dual, batch, scores, budgets, runs[0][0])[0]

    names = [name for method, budget in runs for name in bandit.names(f"{method} with budget {budget:g}")]
    descend({"policy": residual, "log_dual": log_dual}, loss, schedule, clip=CLIP, members=names)
    return residual.requires_grad_(False)


def _loss(
    critic: StackedMLP, residual: StackedMLP, log_dual: Tensor, base: Tensor, vectors: Tensor,
    budget: float | Tensor, method: str,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """`refinement_loss` of the single state; all of QUADRATIC have the same one, in which vectors span the form at each action."""
    metric = Metric("stein", DAMPING, "batch") if method == "fidec-stein" else Metric("state", DAMPING, "state")
    return refinement_loss(
        residual, critic, log_dual, nothing(base), base,
        scores=vectors, metric=metric, budget=budget, normalize_q=False, learn_dual=True,
    )  # fmt: skip


def _vectors(bandit: Bandit, method: str, t_eps: float) -> Tensor:
    """Vectors [S, POOL, K, A] whose mean outer product at each base action is F; for `fidec-stein` the score there, K = 1."""
    base, obs = bandit.base, nothing(bandit.base)
    t = torch.full_like(base[..., :1], t_eps)
    if method == "fidec-stein":
        return score(bandit.flow, obs, base, t, formula="exact").unsqueeze(2)
    kind, desmooth = QUADRATIC[method]
    if kind == "curvature":
        return curvature(bandit.flow, obs, base, t, desmooth=desmooth)[0]
    if kind == "identity":
        shared = math.sqrt(ACT_DIM) * torch.eye(ACT_DIM)
    else:
        shared = _state_vectors(bandit, t_eps, desmooth=desmooth)
    return shared.expand(*base.shape[:2], -1, -1)


def _state_vectors(bandit: Bandit, t_eps: float, *, desmooth: bool) -> Tensor:
    """The A vectors that span F of the single state, [S, 1, A, A], from the scores of the whole pool."""
    streams = generators(len(bandit.base), bandit.seeds, purpose=6)
    x0 = torch.stack([torch.randn(POOL, ACT_DIM, generator=stream) for stream in streams]).unsqueeze(1)
    t = torch.full_like(x0[..., :1], t_eps)
    base = bandit.base.unsqueeze(1)
    scores = state_scores(bandit.flow, nothing(base[:, :, 0]), base, x0=x0, t=t, formula="exact")
    return desmoothed(scores, t_eps) if desmooth else spanning(scores)


def _outcomes(
    bandit: Bandit,
    method: str,
    act: Tensor,
    *,
    residual: StackedMLP | None = None,
    budget: float | None = None,
    spent: Sequence[float] | None = None,
) -> list[BanditOutcome]:
    """Outcomes of one policy of every layout and seed, from its actions [S, SHOWN, A]."""
    found = []
    divergences = {} if residual is None else _divergences(bandit, residual)
    for member, (name, seed) in enumerate(bandit.members()):
        layout, actions = bandit.layouts[name], act[member].double()
        base = bandit.base[member, :SHOWN].double()
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
                budget,
                spent=None if spent is None else spent[member],
                value=float(layout.value(actions).mean()),
                gain=float(layout.value(actions).mean() - layout.value(base).mean()),
                off_support=float(1 - inside.double().mean()),
                modes=int((shares >= KEPT * target.weights).sum()),
                moved=float((actions - base).square().mean()),
                kl=divergence,
                folds=folds,
                actions=actions,
            )
        )
    return found


def _divergences(bandit: Bandit, residual: StackedMLP) -> dict[tuple[str, int], tuple[float | None, bool]]:
    """True KL of every member's displacement, under the known behaviour and without the clip, and whether it folds."""
    found: dict[tuple[str, int], tuple[float | None, bool]] = {}
    count = len(bandit.seeds)
    for place, (name, layout) in enumerate(bandit.layouts.items()):
        exact = members_of(residual, range(place * count, (place + 1) * count)).double()
        values, folds = (each.tolist() for each in kl(layout.target, partial(_wide, exact), nodes=NODES))
        for seed, value, folded in zip(bandit.seeds, values, folds, strict=True):
            found[name, seed] = (None if folded else value, folded)
    return found


def _wide(residual: StackedMLP, x: Tensor) -> Tensor:
    """delta of every member, [S, B, A], at points [1, B, A]."""
    wide = x.expand(residual.lead[0], -1, -1)
    out: Tensor = residual(nothing(wide), wide)
    return out
