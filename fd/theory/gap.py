"""The share of the best value at equal KL that a refinement reaches, for a linear Q on N(0, Sigma): closed forms and trained runs.

Under KL <= eps the best displacement is Sigma q sqrt(2 eps / q' Sigma q). A quadratic form F in place of Sigma^-1 gives the direction
F^-1 q instead, which at the same KL reaches the share q' F^-1 q / sqrt(q' Sigma q * q' F^-1 Sigma^-1 F^-1 q) of the best value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fd.errors import FdError
from fd.method.fisher import Metric, desmoothed, state_scores
from fd.method.objective import refinement_loss
from fd.networks.mlp import StackedMLP
from fd.settings.theory_settings import TheorySchedule
from fd.theory.distributions import Mixture
from fd.theory.fit import ACT_DIM, OBS_DIM, descend, generators, integrate_actions, nothing, time_window
from fd.theory.kl import grid, kl

DAMPING = 1e-3
CLIP = 5.0  # of a member's gradient norm
TRUST = 0.5  # eps, the KL at which values are compared, nats
BUDGET = 1.5e-5  # of the penalty in a run's own unit of length; actions then stay clear of the clip at 1
HEAD_START = 3.0  # the multiplier starts at its optimum divided by this
TINY = 1e-9  # on the diagonal of an estimate of F from very few scores
NODES = 96  # of the grid on which a trained displacement is measured


@dataclass(frozen=True)
class Refined:
    """One trained refinement.

    Attributes:
        share: its value as a share of the optimum at its own measured KL.
        untrained: the share of the direction F^-1 q with the F of this run, computed without training.
        theory: the share with an exact flow and infinitely many scores, in closed form.
        kl: nats.
    """

    metric: str
    t: float | None
    seed: int
    share: float
    untrained: float
    theory: float
    kl: float


def smoothed(sigma: Tensor, t: float) -> Tensor:
    """C_t = t^2 Sigma + (1 - t)^2 I, whose inverse is the Fisher information of the path at time t."""
    return t**2 * sigma + (1 - t) ** 2 * torch.eye(len(sigma), dtype=sigma.dtype)


def share(sigma: Tensor, direction: Tensor, q: Tensor) -> Tensor:
    """Value of a displacement in this direction, [..., A], as a share of the best value at the same KL, [...]."""
    best = _form(q, sigma, q) * _form(direction, sigma.inverse(), direction)
    return (q * direction).sum(dim=-1) / best.sqrt()


def worst(sigma: Tensor, inverse: Tensor) -> Tensor:
    """The unit q, [A], for which the direction F^-1 q, `inverse` = F^-1, loses most; both matrices have the same eigenvectors."""
    axes = torch.linalg.eigh(sigma)[1]
    strengths = (axes.mT @ inverse @ axes).diagonal()
    extremes = torch.zeros(len(sigma), dtype=sigma.dtype)
    extremes[[0, -1]] = 1.0
    q: Tensor = axes @ (extremes / strengths.sqrt())
    q /= q.norm()
    return q


def worst_share(sigma: Tensor, t: float | None) -> float:
    """The least share over all q, for the form with F^-1 = C_t, or for the isotropic form if t is None."""
    inverse = torch.eye(len(sigma), dtype=sigma.dtype) if t is None else smoothed(sigma, t)
    q = worst(sigma, inverse)
    return float(share(sigma, inverse @ q, q))


def _form(a: Tensor, matrix: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("...a,ab,...b->...", a, matrix, b)


def sampling(sigma: Tensor, t: float, samples: Sequence[int], *, draws: int) -> dict[str, list[float]]:
    """Median share with F from K exact scores, for each K of `samples`, plain and desmoothed, for the q that is worst for the plain form."""
    root = torch.linalg.cholesky(smoothed(sigma, t).inverse())
    q = worst(sigma, smoothed(sigma, t))
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {"state": [], "desmooth": []}
    for count in samples:
        scores = torch.randn(draws, count, len(sigma), generator=generator, dtype=sigma.dtype) @ root.mT
        for metric, vectors in (("state", spanning(scores)), ("desmooth", desmoothed(scores, t))):
            fisher = vectors.mT @ vectors + TINY * torch.eye(len(sigma), dtype=sigma.dtype)
            directions = torch.linalg.solve(fisher, q.expand(draws, -1))
            found[metric].append(float(share(sigma, directions, q).median()))
    return found


@dataclass(frozen=True)
class _Case:
    """One member of the stack: its metric, time, seed, q [A], the vectors [A, A] that span F (None: F = I)."""

    metric: str
    t: float | None
    seed: int
    q: Tensor
    vectors: Tensor | None

    @property
    def fisher(self) -> Tensor:
        """F as the penalty uses it, damped, [A, A]."""
        eye = torch.eye(ACT_DIM, dtype=torch.float64)
        return eye if self.vectors is None else self.vectors.mT @ self.vectors / len(self.vectors) + DAMPING * eye

    @property
    def name(self) -> str:
        time = "" if self.t is None else f" at t = {self.t:g}"
        return f"refinement {self.metric}{time}, seed {self.seed}"


@dataclass(frozen=True)
class Trained:
    """Refinements trained as one stack, each in its own unit of length (`units`)."""

    residual: StackedMLP
    units: Tensor
    cases: Sequence[_Case]

    def field(self, x: Tensor) -> Tensor:
        """delta of every member, [S, B, A], at points [1, B, A]."""
        scale = self.units.view(-1, 1, 1)
        inner = x / scale
        out: Tensor = scale * self.residual(nothing(inner), inner)
        return out


def train_gap(
    target: Mixture,
    flow: StackedMLP,
    *,
    times: Sequence[float],
    seeds: Sequence[int],
    samples: int,
    flow_steps: int,
    schedule: TheorySchedule,
) -> list[Trained]:
    """Trains every refinement on the learned flow of a centred Gaussian, one member of `flow` per seed.

    There are two stacks: the isotropic refinements and those with an F.

    Args:
        target: the Gaussian that the flow has learned.
        flow: its velocity networks.
        times: times t at which the scores are computed.
        seeds: one per member of the flow.
        samples: K, scores that span F.
        flow_steps: Euler steps of a base action.
        schedule: training of the refinement.
    """
    sigma = target.covariances[0]
    streams = generators(len(seeds), seeds, purpose=1)
    noise = torch.stack([torch.randn(samples, ACT_DIM, generator=stream) for stream in streams])
    actions = integrate_actions(flow, noise, steps=flow_steps)
    isotropic = [
        _Case("identity", None, seed, worst(sigma, torch.eye(ACT_DIM, dtype=sigma.dtype)), None) for seed in seeds
    ]
    informed = []
    for t in times:
        q = worst(sigma, smoothed(sigma, t))
        x0 = torch.stack([torch.randn(samples, ACT_DIM, generator=stream) for stream in streams])
        scores = state_scores(
            flow, nothing(actions[:, :1]), actions.unsqueeze(1), x0=x0.unsqueeze(1), formula="exact",
            t=torch.full_like(x0[..., :1], t).unsqueeze(1),
        ).squeeze(1).double()  # fmt: skip
        for metric, vectors in (("state", spanning(scores)), ("desmooth", desmoothed(scores, t))):
            informed += [_Case(metric, t, seed, q, part) for seed, part in zip(seeds, vectors, strict=True)]
    return [_train(sigma, actions, cases, seeds, schedule) for cases in (isotropic, informed)]


def spanning(scores: Tensor) -> Tensor:
    """A vectors, [..., A, A], with the same mean outer product as K scores, [..., K, A]: the same F at a fraction of the cost."""
    values, vectors = torch.linalg.eigh(scores.mT @ scores / scores.shape[-2])
    spans: Tensor = (vectors * (scores.shape[-1] * values.clamp_min(0)).sqrt().unsqueeze(-2)).mT
    return spans.contiguous()


def _train(
    sigma: Tensor, actions: Tensor, cases: Sequence[_Case], seeds: Sequence[int], schedule: TheorySchedule
) -> Trained:
    units, duals = _units(sigma, cases)
    streams = generators(len(cases), seeds, purpose=2)
    widths = (OBS_DIM + ACT_DIM, *schedule.hidden, ACT_DIM)
    residual = StackedMLP((len(cases),), widths, norm=False, generators=streams)
    nn.init.zeros_(residual.weights[-1])  # the penalty of a random start dwarfs the budget, and Adam long remembers it
    critic = _linear(torch.stack([case.q for case in cases]).float())
    log_dual = nn.Parameter((duals / HEAD_START).log().float())
    spans = [case.vectors for case in cases if case.vectors is not None]
    scores = torch.stack(spans).float().unsqueeze(1) if spans else None
    metric = Metric("state" if spans else "identity", DAMPING, "state")
    base = torch.stack([actions[seeds.index(case.seed)] for case in cases]) / units.float().view(-1, 1, 1)

    def loss(index: int) -> Tensor:
        batch = time_window(base, index, schedule.batch_size)
        return refinement_loss(
            residual, critic, log_dual, nothing(batch), batch,
            scores=scores, metric=metric, budget=BUDGET, normalize_q=False, learn_dual=True,
        )[0]  # fmt: skip

    names = [case.name for case in cases]
    descend({"policy": residual, "log_dual": log_dual}, loss, schedule, clip=CLIP, members=names)
    return Trained(residual.double().requires_grad_(False), units, cases)


def _units(sigma: Tensor, cases: Sequence[_Case]) -> tuple[Tensor, Tensor]:
    """Units of length [S], in which the common BUDGET is the KL of TRUST for the direction F^-1 q, and the optimal multipliers [S]."""
    q, fisher = torch.stack([case.q for case in cases]), torch.stack([case.fisher for case in cases])
    direction = torch.linalg.solve(fisher, q)
    delta = direction * (2 * TRUST / _form(direction, sigma.inverse(), direction)).sqrt().unsqueeze(-1)
    trace = fisher.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    units = (torch.einsum("sa,sab,sb->s", delta, fisher, delta) / trace / BUDGET).sqrt()
    return units, (q * delta).sum(dim=-1) / units / (2 * BUDGET)


def _linear(q: Tensor) -> StackedMLP:
    """The critic Q(s, a) = q . a of each member, q [S, A]."""
    members = len(q)
    critic = StackedMLP((members, 1), (OBS_DIM + ACT_DIM, 1), norm=False, generators=[torch.Generator()] * members)
    with torch.no_grad():
        critic.weights[0].copy_(torch.cat([q.new_zeros(members, OBS_DIM), q], dim=-1).unsqueeze(-1))
    return critic.requires_grad_(False)


def measure(target: Mixture, trained: Trained, *, nodes: int = NODES) -> list[Refined]:
    """Value and true KL of the displacements under the known Gaussian, not under the flow's draws.

    Raises:
        FdError: a displacement folds the plane, so its KL is not known.
    """
    sigma = target.covariances[0]
    divergences, folds = kl(target, trained.field, nodes=nodes)
    points, weights = grid(target, nodes)
    moved = torch.einsum("n,sna->sa", weights, trained.field(points.unsqueeze(0)))
    found = []
    for case, divergence, folded, mean in zip(trained.cases, divergences, folds, moved, strict=True):
        if folded:
            raise FdError(
                f"theory: {case.name}: the displacement folds the plane, so its KL is not known; train it longer"
            )
        best = (2 * divergence * _form(case.q, sigma, case.q)).sqrt()
        found.append(
            Refined(
                case.metric,
                case.t,
                case.seed,
                share=float(case.q @ mean / best),
                untrained=float(share(sigma, torch.linalg.solve(case.fisher, case.q), case.q)),
                theory=1.0 if case.metric == "desmooth" else worst_share(sigma, case.t),
                kl=float(divergence),
            )
        )
    return found
