"""Scores and the Fisher metric against their closed forms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import gaussian
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from fd.method.fisher import (
    EIGH,
    EXACT_DIVERGENCE,
    VARIANCE_FLOOR,
    Metric,
    basis,
    curvature,
    desmoothed,
    divergence,
    eigh,
    eigvalsh,
    mean_trace,
    penalty,
    score,
)
from fd.method.fisher import state_scores as scores_of_states
from fd.networks.mlp import StackedMLP

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


@pytest.mark.parametrize("formula", ["exact", "velocity"])
def test_a_score_at_the_end_of_the_path_is_finite(formula: str) -> None:
    """In float32, too, where 1 - t vanishes for times just below 1."""
    flow = StackedMLP((1,), (4, 8, 2), norm=False, generators=[torch.Generator().manual_seed(0)])
    for time in (1.0, 1 - 2**-24, 0.999999):
        found = score(flow, torch.zeros(1, 9, 1), torch.randn(1, 9, 2), torch.full((1, 9, 1), time), formula=formula)
        assert found.dtype == torch.float32 and found.isfinite().all()


@pytest.mark.parametrize("t0", [0.5, 0.8])
def test_fisher_of_a_gaussian_is_the_inverse_covariance(t0: float) -> None:
    flow, samples = gaussian(), 40_000
    actions = flow.mean + draws(1, 1, samples, 3) @ torch.linalg.cholesky(flow.covariance).T
    t = torch.full((1, 1, samples, 1), t0, dtype=torch.float64)
    found = scores_of_states(
        flow, torch.zeros(1, 1, 1), actions, x0=draws(1, 1, samples, 3, seed=1), t=t, formula="exact"
    )
    fisher = torch.einsum("ki,kj->ij", found[0, 0], found[0, 0]) / samples
    expected = flow.marginal(t[0, 0, 0])[1].inverse()
    assert torch.linalg.matrix_norm(fisher - expected) < 0.03 * torch.linalg.matrix_norm(expected)


def test_scores_of_a_state_are_taken_at_that_state() -> None:
    """Each of the K points belongs to its own row, sample by sample."""
    flow, actions, x0 = gaussian(), draws(1, 4, 5, 3), draws(1, 4, 5, 3, seed=1)
    t = torch.rand(1, 4, 5, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.9
    found = scores_of_states(flow, torch.zeros(1, 4, 2), actions, x0=x0, t=t, formula="exact")
    torch.testing.assert_close(found, flow.score((1 - t) * x0 + t * actions, t))


def test_scores_without_noise_are_those_of_the_actions_themselves() -> None:
    flow, actions = gaussian(), draws(1, 4, 5, 3)
    t = torch.full((1, 4, 5, 1), 0.8, dtype=torch.float64)
    found = scores_of_states(flow, torch.zeros(1, 4, 2), actions, x0=None, t=t, formula="exact")
    torch.testing.assert_close(found, flow.score(actions, t))


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


@pytest.mark.parametrize("normalise", ["state", "batch", "none"])
def test_the_score_of_an_action_is_a_matrix_of_rank_one(normalise: str) -> None:
    """Across it nothing but the damping holds a displacement."""
    metric, delta, scores = Metric("action", 0.5, normalise), draws(2, 6, 4), draws(2, 6, 1, 4, seed=1)
    torch.testing.assert_close(penalty(delta, scores, metric), explicit(delta, scores, metric))
    unit = scores[:, :, 0] / scores[:, :, 0].norm(dim=-1, keepdim=True)
    across = delta - (delta * unit).sum(dim=-1, keepdim=True) * unit
    found = penalty(across, scores, Metric("action", 0.5, "none"))
    torch.testing.assert_close(found, 0.5 * across.square().mean(dim=-1))


class Shapes(TorchDispatchMode):
    """Records the shape of everything that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= {tuple(part.shape) for part in (out if isinstance(out, tuple | list) else [out])}
        return out


@pytest.mark.parametrize("normalise", ["state", "batch", "none"])
def test_no_matrix_is_built_for_a_form(normalise: str) -> None:
    metric, delta, scores = Metric("state", 1e-3, normalise), draws(1, 5, 7).requires_grad_(), draws(1, 5, 3, 7, seed=1)
    with Shapes() as built:
        explicit(delta, scores, metric)
    assert (1, 5, 7, 7) in built.seen
    with Shapes() as built:
        penalty(delta, scores, metric).sum().backward()
    assert delta.grad is not None and len(built.seen) > 3
    assert not any(shape.count(7) > 1 for shape in built.seen)
    assert max(map(np.prod, built.seen)) <= scores.numel()


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


def residual(width: int) -> tuple[StackedMLP, Tensor, Tensor]:
    """A network delta(s, a) of two seeds, states and actions, in float64."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    net = StackedMLP((2,), (3 + width, 8, 8, width), norm=False, generators=generators).double()
    return net, draws(2, 5, 3), draws(2, 5, width, seed=1)


def traces(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """div field, [S, B], by reverse mode, row by row, as a function that can be differentiated."""
    whole = jacobian(lambda at: field(at).sum(dim=1), x, create_graph=True)  # [S, A, S, B, A]
    return torch.stack([torch.einsum("ibi->b", whole[seed, :, seed]) for seed in range(x.shape[0])])


def slopes_of(field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> Tensor:
    """J v [S, P, B, A] of any field, by forward mode, for directions [S, P, B or 1, A]."""
    return vmap(lambda v: jvp(field, (x,), (v.expand_as(x),))[1], in_dims=1, out_dims=1)(directions)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 8)])
@pytest.mark.parametrize("shared", [True, False])
def test_slopes_of_a_network_are_those_of_forward_mode(hidden: tuple[int, ...], shared: bool) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    net = StackedMLP((2,), (7, *hidden, 4), norm=False, generators=generators).double()
    obs, act = draws(2, 5, 3), draws(2, 5, 4, seed=1)
    directions = basis(act) if shared else draws(2, 3, 5, 4, seed=2)
    out, slopes = net.jvp(obs, act, directions=directions)
    torch.testing.assert_close(out, net(obs, act))
    torch.testing.assert_close(slopes, slopes_of(partial(net, obs), act, directions))


def stein(width: int, normalise: str, damping: float) -> tuple[Metric, Tensor]:
    return Metric("stein", damping, normalise), draws(2, 5, 1, width, seed=2)


@pytest.mark.parametrize("width", [1, 4, EXACT_DIVERGENCE])
@pytest.mark.parametrize("normalise", ["batch", "none"])
def test_stein_is_the_square_of_the_operator_and_so_are_its_gradients(width: int, normalise: str) -> None:
    """(g . delta + div delta)^2 / A against reverse mode twice."""
    (net, obs, act), (metric, scores) = residual(width), stein(width, normalise, 0.3)
    field = partial(net, obs)
    delta, slopes = net.jvp(obs, act, directions=basis(act))
    found = divergence(slopes, None)
    assert found.shape == (2, 5, 1)
    expected = traces(field, act)
    torch.testing.assert_close(found.squeeze(-1), expected, rtol=0, atol=1e-12)
    operator = (scores[:, :, 0] * delta).sum(dim=-1) + expected
    form = (operator.square() + 0.3 * delta.square().sum(dim=-1)) / width
    if normalise == "batch":
        form = form / (scores.square().sum(dim=(-2, -1)) / width + 0.3).mean(dim=1, keepdim=True)
    ours = penalty(delta, scores, metric, found)
    torch.testing.assert_close(ours, form, rtol=0, atol=1e-12)
    parameters = list(net.parameters())
    gradients = [torch.autograd.grad(of.sum(), parameters, retain_graph=True) for of in (ours, form)]
    for name, (forward, reverse) in zip(dict(net.named_parameters()), zip(*gradients, strict=True), strict=True):
        assert forward.abs().sum() > 0, name
        torch.testing.assert_close(forward, reverse, rtol=0, atol=1e-10)


def rademacher(*shape: int, seed: int) -> Tensor:
    return draws(*shape, seed=seed).sign()


def five_errors(found: Tensor, expected: Tensor) -> None:
    """The mean over the last axis is within five standard errors of what is expected."""
    error = found.std(dim=-1) / found.shape[-1] ** 0.5
    assert (error > 0).all() and ((found.mean(dim=-1) - expected).abs() < 5 * error).all()


def test_probes_give_unbiased_divergences_and_squares() -> None:
    """A product of two estimates has the square's mean; the square of one has its variance on top."""
    (net, obs, act), (metric, scores) = residual(6), stein(6, "none", 0.0)
    count = 4000
    probes = rademacher(2, 2 * count, 5, 6, seed=3)
    delta, slopes = net.jvp(obs, act, directions=basis(act))
    exact = divergence(slopes, None)
    single = divergence(net.jvp(obs, act, directions=probes)[1], probes).detach()
    assert single.shape == (2, 5, 2 * count)
    five_errors(single, exact.squeeze(-1).detach())
    delta = delta.detach()

    def forms(pairs: Tensor) -> Tensor:
        return torch.stack([penalty(delta, scores, metric, pairs[..., i, :]) for i in range(count)], dim=-1)

    expected = penalty(delta, scores, metric, exact.detach())
    five_errors(forms(single.view(2, 5, count, 2)), expected)
    biased = forms(single[..., :count].unsqueeze(-1))
    above = biased.mean(dim=-1) - expected
    torch.testing.assert_close(above, single.var(dim=-1) / 6, rtol=0.3, atol=0.01)
    assert (above > 5 * biased.std(dim=-1) / count**0.5).any()


def test_an_estimate_of_each_probe_is_its_own_projection() -> None:
    net, obs, act = residual(9)
    probes = rademacher(2, 3, 5, 9, seed=4)
    found = divergence(net.jvp(obs, act, directions=probes)[1], probes)
    whole = jacobian(lambda at: net(obs, at).sum(dim=1), act)
    for seed, probe in product(range(2), range(3)):
        v = probes[seed, probe]
        torch.testing.assert_close(found[seed, :, probe], torch.einsum("bi,ibj,bj->b", v, whole[seed, :, seed], v))


def nodes(width: int) -> tuple[Tensor, Tensor]:
    """Points z [3^A, A] and weights of a rule that is exact for E of polynomials of degree 5 in N(0, I)."""
    points, weights = np.polynomial.hermite_e.hermegauss(3)
    z = torch.tensor(list(product(points, repeat=width)))
    return z, torch.tensor([np.prod(w) for w in product(weights / weights.sum(), repeat=width)])


def kl_of_linear(matrix: Tensor, covariance: Tensor) -> Tensor:
    """KL of T#N(0, Sigma) to N(0, Sigma) for T(a) = a + M a."""
    jac = torch.eye(len(matrix)).double() + matrix
    moved = covariance.inverse() @ jac @ covariance @ jac.T
    return (moved.trace() - len(matrix) - torch.linalg.slogdet(moved)[1]) / 2


@pytest.mark.parametrize("width", [1, 3])
def test_shrinking_a_gaussian_costs_its_true_divergence(width: int) -> None:
    """delta = -c a: KL is c^2 A to second order, and the form without div delta says c^2 A (A + 2) / 2."""
    (z, weights), c = nodes(width), 0.01
    act, scores = z.unsqueeze(0), -z.view(1, -1, 1, width)
    div = divergence(slopes_of(lambda a: -c * a, act, basis(act)), None)
    torch.testing.assert_close(div, torch.full_like(div, -c * width))
    exact = penalty(-c * act, scores, Metric("stein", 0.0, "none"), div)
    plain = penalty(-c * act, scores, Metric("action", 0.0, "none"))
    torch.testing.assert_close((exact[0] @ weights) * width / 2, torch.tensor(c**2 * width).double())
    torch.testing.assert_close((plain[0] @ weights) * width / 2, torch.tensor(c**2 * width * (width + 2) / 2).double())
    true = kl_of_linear(-c * torch.eye(width).double(), torch.eye(width).double())
    assert true.item() == pytest.approx(c**2 * width, rel=2 * c)


def test_stein_is_the_divergence_to_second_order() -> None:
    """For any linear map of any Gaussian: the error falls as |delta|^3."""
    flow, matrix = gaussian(3), draws(3, 3, seed=5)
    (z, weights), root = nodes(3), torch.linalg.cholesky(flow.covariance)
    act = (z @ root.T).unsqueeze(0)
    scores = -(act @ flow.covariance.inverse()).unsqueeze(2)
    errors = []
    for c in (1e-2, 5e-3, 2.5e-3):
        field = partial(torch.matmul, other=c * matrix.T)
        div = divergence(slopes_of(field, act, basis(act)), None)
        form = penalty(field(act), scores, Metric("stein", 0.0, "none"), div)
        second = (form[0] @ weights).item() * 3 / 2
        errors.append(kl_of_linear(c * matrix, flow.covariance).item() - second)
        assert abs(errors[-1]) < 0.2 * second
    assert [errors[i] / errors[i + 1] for i in range(2)] == pytest.approx([8, 8], rel=0.1)


def spanning(fisher: Tensor) -> Tensor:
    """As many scores as dimensions, whose mean outer product is the matrix to rounding."""
    return (len(fisher) ** 0.5 * torch.linalg.cholesky(fisher)).T


def outer(scores: Tensor) -> Tensor:
    return scores.mT @ scores / scores.shape[-2]


@pytest.mark.parametrize("width", [1, 3, 6])
@pytest.mark.parametrize("t0", [0.3, 0.5, 0.8, 0.95])
def test_desmoothing_gives_the_fisher_information_of_a_gaussian(t0: float, width: int) -> None:
    flow = gaussian(width)
    smoothed = flow.marginal(torch.tensor([t0], dtype=torch.float64))[1].inverse()
    found = desmoothed(spanning(smoothed).expand(2, 5, width, width), t0)
    assert found.shape == (2, 5, width, width) and found.is_contiguous()
    expected = flow.covariance.inverse()
    torch.testing.assert_close(outer(found), expected.expand(2, 5, -1, -1), rtol=1e-8, atol=1e-8)
    assert outer(found)[0, 0].trace() > 1.1 * smoothed.trace()  # what the path had rounded off


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 2, 8])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_desmoothed_eigenvalues_are_clamped(samples: int, scale: float, dtype: torch.dtype) -> None:
    """Fewer scores than dimensions leave F singular, and those of an estimate can exceed 1 / (1 - t)^2."""
    found = desmoothed((scale * draws(2, 5, samples, 4)).to(dtype), 0.8)
    assert found.shape == (2, 5, 4, 4) and found.isfinite().all() and found.dtype == dtype
    eigenvalues = torch.linalg.eigvalsh(outer(found.double()))
    assert eigenvalues.min() > 0 and eigenvalues.max() <= 1.0001 / VARIANCE_FLOOR
    if scale == 1e3:  # along every score the policy is as narrow as it may be, across them as wide
        full = min(samples, 4)
        narrow = eigenvalues[..., -full:]
        torch.testing.assert_close(narrow, torch.full_like(narrow, 1 / VARIANCE_FLOOR), rtol=1e-5, atol=0)
        assert (eigenvalues[..., :-full] < 1).all()
    metric = Metric("state", 0.0, "state")
    assert (mean_trace(found, metric) > 0).all() and penalty(
        torch.ones(2, 5, 4).to(dtype), found, metric
    ).isfinite().all()


def test_desmoothed_noisy_scores_keep_their_directions() -> None:
    """Of a true sample: the narrow direction stays the one of the largest eigenvalue, sharper than in the smoothed matrix."""
    flow, samples, t0 = gaussian(), 2000, 0.8
    actions = flow.mean + draws(1, 1, samples, 3) @ torch.linalg.cholesky(flow.covariance).T
    t = torch.full((1, 1, samples, 1), t0, dtype=torch.float64)
    scores = scores_of_states(
        flow, torch.zeros(1, 1, 1), actions, x0=draws(1, 1, samples, 3, seed=1), t=t, formula="exact"
    )
    before, after = (torch.linalg.eigh(outer(of))[0][0, 0] for of in (scores, desmoothed(scores, t0)))
    true = torch.linalg.eigvalsh(flow.covariance.inverse())
    assert (after / true - 1).abs()[:2].max() < 0.2
    assert after[-1] > 5 * before[-1] and (before < 1.1 / (1 - t0) ** 2).all()


FLOW = StackedMLP((1,), (1 + 3 + 1, 8, 3), norm=False, generators=[torch.Generator()])


class Largest(TorchDispatchMode):
    """The most matrices of which one call computes the eigenvalues."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linalg_eigh" in str(func):
            self.most = max(self.most, args[0].shape[:-2].numel())
        return func(*args, **kwargs or {})


def test_eigenvalues_of_many_matrices_are_computed_in_parts_without_a_change_of_a_bit() -> None:
    half = torch.randn(2, EIGH + 5, 3, 3)
    matrices = half + half.mT
    values, vectors = eigh(matrices)
    expected = torch.linalg.eigh(matrices)
    assert torch.equal(values, expected[0]) and torch.equal(vectors, expected[1])
    assert vectors.stride() == expected[1].stride()
    assert torch.equal(eigvalsh(matrices), torch.linalg.eigvalsh(matrices))


@pytest.mark.parametrize(
    "solve",
    [
        eigvalsh,
        partial(desmoothed, t=0.8),
        lambda x: curvature(FLOW, x[:, :, 0, :1], x[:, :, 0], x[:, :, 0, :1], desmooth=True),
    ],
)
def test_no_call_computes_the_eigenvalues_of_more(solve: Callable[[Tensor], object]) -> None:
    with Largest() as parts:
        solve(torch.rand(1, 2 * EIGH, 3, 3))
    assert parts.most == EIGH
