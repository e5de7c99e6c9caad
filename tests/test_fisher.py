"""Scores and the Fisher metric against their closed forms."""

from __future__ import annotations

import pytest
import torch
from gaussian import gaussian
from torch import Tensor

from fd.fisher import Metric, penalty, score, state_scores

STATE = Metric("state", damping=0.0, normalise="state")


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t0", [0.0, 0.3, 0.8, 0.99])
def test_exact_score_is_that_of_the_marginal(t0: float) -> None:
    flow, x = gaussian(), draws(1, 20, 3)
    t = torch.full((1, 20, 1), t0, dtype=torch.float64)
    found = score(flow, torch.zeros(1, 20, 1), x, t, formula="exact")
    torch.testing.assert_close(found, flow.score(x, t), rtol=1e-8, atol=1e-8)


def test_velocity_formula_is_another_vector() -> None:
    flow, x, t = gaussian(), draws(1, 20, 3), torch.full((1, 20, 1), 0.8, dtype=torch.float64)
    found = score(flow, torch.zeros(1, 20, 1), x, t, formula="velocity")
    torch.testing.assert_close(found, flow(None, x, t) / (1 - t))
    assert not torch.allclose(found, flow.score(x, t), rtol=0.5)


@pytest.mark.parametrize("t0", [0.5, 0.8])
def test_fisher_of_a_gaussian_is_the_inverse_covariance(t0: float) -> None:
    flow, samples = gaussian(), 40_000
    actions = flow.mean + draws(1, 1, samples, 3) @ torch.linalg.cholesky(flow.covariance).T
    t = torch.full((1, 1, samples, 1), t0, dtype=torch.float64)
    found = state_scores(flow, torch.zeros(1, 1, 1), actions, x0=draws(1, 1, samples, 3, seed=1), t=t, formula="exact")
    fisher = torch.einsum("ki,kj->ij", found[0, 0], found[0, 0]) / samples
    expected = flow.marginal(t[0, 0, 0])[1].inverse()
    assert torch.linalg.matrix_norm(fisher - expected) < 0.03 * torch.linalg.matrix_norm(expected)


def test_scores_of_a_state_are_taken_at_that_state() -> None:
    """Each of the K points belongs to its own row, sample by sample."""
    flow, actions, x0 = gaussian(), draws(1, 4, 5, 3), draws(1, 4, 5, 3, seed=1)
    t = torch.rand(1, 4, 5, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.9
    found = state_scores(flow, torch.zeros(1, 4, 2), actions, x0=x0, t=t, formula="exact")
    torch.testing.assert_close(found, flow.score((1 - t) * x0 + t * actions, t))


def explicit(delta: Tensor, scores: Tensor, metric: Metric) -> Tensor:
    """The same with the matrices F(s) [S, B, A, A] written out."""
    width = delta.shape[-1]
    fisher = (scores.unsqueeze(-1) * scores.unsqueeze(-2)).mean(dim=2) + metric.damping * torch.eye(width).double()
    trace = fisher.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / width
    if metric.normalise == "batch":
        trace = trace.mean(dim=1, keepdim=True).expand_as(trace)
    if metric.normalise != "none":
        fisher = fisher / trace[..., None, None]
    return torch.einsum("sbi,sbij,sbj->sb", delta, fisher, delta) / width


@pytest.mark.parametrize("normalise", ["state", "batch", "none"])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 2.0])
@pytest.mark.parametrize("samples", [1, 8])
def test_form_is_that_of_the_explicit_matrix(normalise: str, damping: float, samples: int) -> None:
    metric, delta, scores = Metric("state", damping, normalise), draws(2, 6, 4), draws(2, 6, samples, 4, seed=1)
    torch.testing.assert_close(penalty(delta, scores, metric), explicit(delta, scores, metric))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("normalise", ["state", "batch"])
def test_isotropic_scores_give_the_identity(scale: float, normalise: str) -> None:
    delta, scores = draws(2, 6, 4), scale * torch.eye(4, dtype=torch.float64).expand(2, 6, 4, 4)
    found = penalty(delta, scores, Metric("state", 0.1, normalise))
    torch.testing.assert_close(found, penalty(delta, None, Metric("identity", 0.1, normalise)))
    torch.testing.assert_close(found, delta.square().mean(dim=-1))


def test_state_normalisation_forgets_the_density_and_batch_keeps_its_ratio() -> None:
    delta, scores = draws(1, 1, 3).expand(1, 2, 3), draws(1, 1, 8, 3, seed=1).expand(1, 2, 8, 3)
    scores = scores * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    by_state, by_batch = (penalty(delta, scores, Metric("state", 0.0, kind))[0] for kind in ("state", "batch"))
    torch.testing.assert_close(by_state[0], by_state[1])
    torch.testing.assert_close(9 * by_batch[0], by_batch[1])


def test_batches_of_seeds_are_normalised_apart() -> None:
    delta, scores = draws(2, 6, 4), draws(2, 6, 8, 4, seed=1) * torch.tensor([1.0, 100.0]).view(2, 1, 1, 1)
    metric = Metric("state", 1e-3, "batch")
    alone = torch.cat([penalty(delta[i : i + 1], scores[i : i + 1], metric) for i in range(2)])
    torch.testing.assert_close(penalty(delta, scores, metric), alone)


def test_penalty_is_a_positive_quadratic_form() -> None:
    delta, scores = draws(1, 50, 4), draws(1, 50, 2, 4, seed=1)
    found = penalty(delta, scores, STATE)
    assert (found >= 0).all()
    torch.testing.assert_close(penalty(-3 * delta, scores, STATE), 9 * found)


def test_vanishing_scores_divide_by_no_zero() -> None:
    assert penalty(torch.ones(1, 2, 3), torch.zeros(1, 2, 4, 3), STATE).tolist() == [[0.0, 0.0]]


def test_only_the_displacement_gets_a_gradient() -> None:
    flow = gaussian()
    x = draws(1, 5, 3).requires_grad_()
    t = torch.full((1, 5, 1), 0.8, dtype=torch.float64)
    assert not score(flow, torch.zeros(1, 5, 1), x, t, formula="exact").requires_grad
    delta = draws(1, 5, 3).requires_grad_()
    penalty(delta, draws(1, 5, 4, 3), STATE).sum().backward()
    assert delta.grad is not None and delta.grad.abs().sum() > 0
