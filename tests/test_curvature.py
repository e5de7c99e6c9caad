"""The local metric: the curvature of -log p at a base action, against closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agents import agent_of, drawn, replay_of
from test_fisher import Shapes, draws
from test_refinement import SEEDS, bank_of
from torch import Tensor

from fd.method.fisher import LEADING, Metric, curvature, hessian, mean_trace, penalty
from fd.theory.distributions import ExactFlow, Mixture, planar
from fd.training.replay import Replay

PLAIN = Metric("curvature", damping=0.0, normalise="none")


def gaussian(width: int, *, widest: float = 0.5) -> Mixture:
    """Standard deviations from 0.05 to `widest` along rotated axes, in float64."""
    axes = torch.linalg.qr(draws(width, width, seed=3))[0]
    deviations = torch.logspace(torch.tensor(0.05).log10(), torch.tensor(widest).log10(), width, dtype=torch.float64)
    mean = torch.linspace(-0.2, 0.3, width, dtype=torch.float64)
    return Mixture(torch.ones(1, dtype=torch.float64), mean[None], axes[None], deviations[None])


def times(t: float, count: int) -> Tensor:
    return torch.full((1, count, 1), t, dtype=torch.float64)


def matrix(vectors: Tensor, rest: Tensor | None) -> Tensor:
    """H [S, B, A, A] from its vectors [S, B, K, A] and its isotropic part [S, B]."""
    form = vectors.mT @ vectors / vectors.shape[-2]
    return form if rest is None else form + rest[..., None, None] * torch.eye(vectors.shape[-1])


@pytest.mark.parametrize("width", [2, 5, LEADING])
@pytest.mark.parametrize("t", [0.5, 0.8, 0.95])
def test_curvature_of_a_gaussian_is_its_inverse_covariance(width: int, t: float) -> None:
    """At every action and time: of the smoothed Gaussian as it is, of the Gaussian itself when the smoothing is undone."""
    target = gaussian(width)
    flow, actions = ExactFlow(target), draws(1, 6, width).clamp(-1, 1)
    smoothed = t**2 * target.covariances[0] + (1 - t) ** 2 * torch.eye(width)
    for desmooth, covariance in ((False, smoothed), (True, target.covariances[0])):
        vectors, rest = curvature(flow, torch.zeros(1, 6, 1), actions, times(t, 6), desmooth=desmooth)
        assert vectors.shape == (1, 6, width, width) and rest is None
        expected = covariance.inverse().expand(1, 6, -1, -1)
        torch.testing.assert_close(matrix(vectors, rest), expected, rtol=1e-4, atol=1e-4)


def test_mean_curvature_is_the_fisher_information() -> None:
    """E[g g'] = E[-grad g] under p_t, by quadrature over a mixture with curved and saddle-shaped places."""
    target = planar(
        [[-0.4, 0.0], [0.5, 0.2]], deviations=[[0.3, 0.1], [0.15, 0.25]], degrees=[30, -10], weights=[0.4, 0.6]
    )
    flow, t = ExactFlow(target), 0.8
    side = torch.linspace(-2.5, 2.5, 401, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    weight = target.log_density(points, t).exp() * (side[1] - side[0]) ** 2
    assert abs(weight.sum() - 1) < 1e-6
    slopes = hessian(flow, torch.zeros(1, len(points), 1), points[None], times(t, len(points)))[0]
    assert (torch.linalg.eigvalsh(slopes) < 0).any()
    g = target.score(points, t)
    fisher = torch.einsum("n,ni,nj->ij", weight, g, g)
    torch.testing.assert_close(torch.einsum("n,nij->ij", weight, slopes), fisher, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("desmooth", [False, True])
def test_a_place_between_modes_costs_too(desmooth: bool) -> None:
    """The curvature there is negative along the line that joins the modes; its absolute value counts."""
    target = planar([[-0.4, 0.0], [0.4, 0.0]], deviations=[[0.1, 0.1]] * 2, degrees=[0, 0])
    flow, between, t = ExactFlow(target), torch.zeros(1, 1, 2, dtype=torch.float64), times(0.8, 1)
    found = torch.linalg.eigvalsh(hessian(flow, torch.zeros(1, 1, 1), 0.8 * between, t))[0, 0]
    assert found[0] < -1 and found[1] > 1
    vectors, _ = curvature(flow, torch.zeros(1, 1, 1), between, t, desmooth=desmooth)
    along = torch.tensor([[[0.1, 0.0]]], dtype=torch.float64)
    assert penalty(along, vectors, PLAIN) > 0.999 * 0.01 * abs(found[0]) / 2


@pytest.mark.parametrize("desmooth", [False, True])
@pytest.mark.parametrize("width", [3, 24])
def test_penalty_is_a_sum_of_squared_projections(width: int, desmooth: bool) -> None:
    """Its value is that of the matrix, which is positive definite and which no penalty builds."""
    flow, actions = ExactFlow(gaussian(width)), draws(1, 5, width).clamp(-1, 1)
    vectors, rest = curvature(flow, torch.zeros(1, 5, 1), actions, times(0.8, 5), desmooth=desmooth)
    explicit = matrix(vectors, rest)
    assert (torch.linalg.eigvalsh(explicit) > 0).all()
    delta = draws(1, 5, width, seed=1)
    with Shapes() as built:
        found = penalty(delta, vectors, PLAIN, rest=rest)
        trace = mean_trace(vectors, PLAIN, rest)
    assert (1, 5, width, width) not in built.seen or width <= LEADING  # up to there the vectors have that shape
    torch.testing.assert_close(found, torch.einsum("sbi,sbij,sbj->sb", delta, explicit, delta) / width)
    torch.testing.assert_close(trace, explicit.diagonal(dim1=-2, dim2=-1).mean(dim=-1))


def test_a_wide_action_keeps_its_leading_eigenpairs() -> None:
    """At A = 24: as many eigenvalues as are kept are exact, the others their mean; the trace is exact."""
    target, t = gaussian(24), 0.8
    vectors, rest = curvature(
        ExactFlow(target), torch.zeros(1, 1, 1), torch.zeros(1, 1, 24, dtype=torch.float64), times(t, 1), desmooth=True
    )
    exact = (1 / target.deviations[0].square()).sort(descending=True)[0]
    found = torch.linalg.eigvalsh(matrix(vectors, rest))[0, 0].flip(0)
    assert vectors.shape == (1, 1, LEADING, 24) and rest is not None
    torch.testing.assert_close(found[:LEADING], exact[:LEADING], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[LEADING:], exact[LEADING:].mean().expand(24 - LEADING), rtol=1e-6, atol=1e-6)
    delta = draws(1, 2000, 24)
    form = torch.einsum("ni,ij,nj->n", delta[0], target.covariances[0].inverse(), delta[0]) / 24
    ratio = penalty(delta, vectors.expand(1, 2000, -1, -1), PLAIN, rest=rest.expand(1, 2000))[0] / form
    assert (
        ratio.log().abs().quantile(0.95) < 0.17
    )  # of random displacements, 95 in 100 cost within 17 % of the exact form


@pytest.mark.parametrize("width", [3, 12])
def test_seeds_are_independent(width: int) -> None:
    """A seed has the same curvature alone and beside another, in the bank's regime and in the fresh one."""
    pair = agent_of("fidec", 0, 1, metric="curvature", act_dim=width)
    batch, noise = drawn(pair.spec, 0, 0, 1)
    both = pair.base(batch, noise)
    alone = agent_of("fidec", 1, metric="curvature", act_dim=width)
    one = alone.base(*drawn(alone.spec, 0, 1))
    assert both.scores is not None and one.scores is not None
    assert torch.equal(both.scores[1:], one.scores)
    assert (both.rest is None) == (one.rest is None) == (width <= LEADING)
    if both.rest is not None and one.rest is not None:
        assert torch.equal(both.rest[1:], one.rest)


@pytest.mark.parametrize("desmooth", [False, True])
@pytest.mark.parametrize("behaviour", ["frozen", "joint"])
def test_an_update_without_a_bank(behaviour: str, desmooth: bool) -> None:
    agent = agent_of("fidec", 0, 1, metric="curvature", desmooth=desmooth, behaviour=behaviour)
    agent.spec.check_bank(0)
    batch, noise = drawn(agent.spec, 0, 0, 1)
    loss, metrics = agent(batch, None, noise)
    assert loss.isfinite().all() and (metrics["penalty"] > 0).all()


@pytest.mark.parametrize("width", [3, 12])
@pytest.mark.parametrize("desmooth", [False, True])
def test_a_bank_holds_what_a_fresh_batch_has(
    width: int, desmooth: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = wide_replay(width)
    agent = agent_of("fidec", *SEEDS, metric="curvature", desmooth=desmooth, act_dim=width)
    bank = bank_of(agent, data)
    assert bank.scores is not None and bank.scores.shape == (2, 40, 6, min(width, LEADING), width)
    assert (bank.rest is None) == (width <= LEADING)
    obs, t = data.obs.expand(2, -1, -1), torch.full((2, 40, 1), 0.8)
    for sample in range(6):
        vectors, rest = curvature(agent.flow, obs, bank.actions[:, :, sample], t, desmooth=desmooth)
        torch.testing.assert_close(matrix(bank.scores[:, :, sample], None), matrix(vectors, None), rtol=1e-3, atol=1e-3)
        if rest is not None and bank.rest is not None:
            torch.testing.assert_close(bank.rest[:, :, sample], rest, rtol=1e-4, atol=1e-4)
    rows = torch.tensor([[3, 5], [7, 9]])
    picked = bank.gather(rows, torch.zeros_like(rows) + 2, torch.zeros_like(rows))
    assert picked.scores is not None and torch.equal(picked.scores[1, 0], bank.scores[1, 7, 2])


def wide_replay(width: int) -> Replay:
    data = replay_of(40, 10)
    return replace(data, act=torch.zeros(40, width))
