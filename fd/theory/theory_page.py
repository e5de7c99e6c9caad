"""The page, tables and figures of the demonstrations as text."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fd.report.csv_text import csv_text
from fd.report.markdown import markdown_table
from fd.report.style import style, svg
from fd.theory import bandit_page, gap, score_error, second_order, theory_figures
from fd.theory.bandit_page import between
from fd.theory.demonstrations import SAMPLES, SHOWN_TIME, TheoryFindings, elongated
from fd.theory.distributions import planar
from fd.theory.gap import Refined

INTRODUCTION = (
    "Written by the stage `theory`. Scores and densities of the targets are closed forms. The KL of a displaced policy is integrated on"
    " a grid, with an error below 1e-8 nats if the displacement is a formula. Trained results: {seeds} seeds."
)
DIGITS = "%.8g"  # of the numbers in the CSV files
CLOSED_TIMES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
DEVIATIONS = ((0.02, 0.2), (0.05, 0.5), (0.1, 1.0))


def render_theory(found: TheoryFindings) -> dict[str, str]:
    """Text of every file, by name; equal findings give equal bytes."""
    files = {
        "theory.md": _page(found),
        "metrics.json": json.dumps(metrics(found), indent=2, allow_nan=False) + "\n",
        "score_error.csv": csv_text(_score_rows(found.curves), DIGITS),
        "second_order.csv": csv_text(_order_rows(found.cases), DIGITS),
        "gap.csv": csv_text(_gap_rows(found.refined), DIGITS),
        "bandit.csv": csv_text(bandit_page.bandit_rows(found), DIGITS),
        "tradeoff.csv": csv_text(bandit_page.tradeoff_rows(found), DIGITS),
    }
    with style():
        files["score_error.svg"] = svg(theory_figures.score_errors(found.curves))
        files["second_order.svg"] = svg(theory_figures.orders(found.cases))
        files["gap.svg"] = svg(theory_figures.optimality_gap(found.refined))
        files["bandit.svg"] = svg(theory_figures.bandits(found.at_common_budget))
        files["tradeoff.svg"] = svg(theory_figures.tradeoff(found.over_budgets))
    return files


def metrics(found: TheoryFindings) -> dict[str, Any]:
    """The numbers behind the claims, as `dvc metrics show` prints them."""
    slopes = [slope for case in found.cases if (slope := case.slope("stein")) is not None]
    return {
        "score": {
            "exact_formula_error": max(max(errors) for (_, name), errors in found.formulas.items() if name == "exact"),
            "least_error_at_t": {curve.target: curve.best for curve in found.curves},
            "least_error": {curve.target: _range(_at_best(curve, curve.total)) for curve in found.curves},
            "least_error_at_t_of_seeds": {curve.target: curve.each for curve in found.curves},
        },
        "second_order": {"least_stein_slope": min(slopes)},
        "gap": {
            f"{metric} at t = {t:g}" if t is not None else metric: statistics.fmean(run.share for run in group)
            for metric, t, group in _runs(found.refined)
        },
        "kl_spread": kl_spread(found.refined),
        "bandit": bandit_page.bandit_metrics(found),
        "tradeoff": bandit_page.tradeoff_metrics(found),
    }


def kl_spread(refined: Sequence[Refined]) -> float:
    """Largest relative distance of a trained run's KL to the common trust region."""
    return max(abs(run.kl / gap.TRUST - 1) for run in refined)


def _page(found: TheoryFindings) -> str:
    seeds = len(found.settings.seeds)
    parts = [
        "# The method's claims, checked where the truth is known",
        INTRODUCTION.format(seeds=seeds),
        "## 1. The score computed from a velocity field",
        _formulas(found),
        "![Error of the learned score against t](score_error.svg)",
        _score_caption(found),
        _minima(found.curves),
        "## 2. The second-order form of the KL",
        _orders(found.cases),
        "![KL minus its forms against the displacement](second_order.svg)",
        _order_caption(),
        "## 3. The cost of the wrong metric",
        _closed(),
        "![Value at equal KL against t](gap.svg)",
        _gap_caption(found),
        _trained(found.refined),
        _sampled(found),
        *bandit_page.sections(found),
    ]
    return "\n\n".join(parts) + "\n"


def _formulas(found: TheoryFindings) -> str:
    rows = []
    for (target, formula), errors in found.formulas.items():
        label = "(t v - x) / (1 - t)" if formula == "exact" else "v / (1 - t)"
        rows.append([target, f"`{formula}`, {label}", *(f"{error:.1e}" for error in errors)])
    header = ["target", "formula", *(f"t = {t:g}" for t in score_error.EXACT_TIMES)]
    return (
        markdown_table(header, rows)
        + "\n\nRelative RMS error of both formulas, given the exact velocity, at points of the path. The first gives the score up to"
        " rounding; the second, from the official code, gives a different quantity."
    )


def _score_caption(found: TheoryFindings) -> str:
    schedule, seeds = found.settings.flow, len(found.settings.seeds)
    below = [curve.target for curve in found.curves if _cancels(curve)]
    where = f" (here: {', '.join(below)})" if below else ""
    return (
        f"Black: error of the score of a learned flow (hidden layers {_widths(schedule.hidden)}, {schedule.steps:,} steps) at"
        f" {score_error.POINTS:,} actions of the target, against that target's own score. Blue: the part due to the smoothing of the path at t,"
        " with the exact velocity. Red: the part due to the error of the learned velocity, measured against the score of the smoothed target;"
        " it is amplified by 1 / (1 - t). Black is the RMS of the sum of these two parts, not the sum of their RMS: near its minimum it can"
        f" lie below both, where they partly cancel{where}. All are divided by the RMS of the target's score. Lines: means over {seeds} seeds;"
        " bands: their range. Triangle and table: the least mean error for these targets in the plane and this training. The Gaussian has"
        " standard deviations 0.5 and 0.05; the other two targets are the behaviours of section 4."
    )


def _minima(curves: Sequence[score_error.Curve]) -> str:
    rows = []
    for curve in curves:
        total, noise = (_at_best(curve, runs) for runs in (curve.total, curve.noise))
        own = sorted(curve.each)
        smoothing = curve.smoothing[score_error.TIMES.index(curve.best)]
        rows.append(
            [
                curve.target,
                f"{curve.best:g}",
                f"{own[0]:g} to {own[-1]:g}",
                between(total),
                f"{smoothing:.3f}",
                between(noise),
            ]
        )
    header = [
        "target",
        "least mean error at t",
        "of each seed at",
        "learned error there",
        "smoothing",
        "learned velocity",
    ]
    return (
        markdown_table(header, rows)
        + "\n\nMeans over seeds and, in brackets, their range, at the t of the second column."
    )


def _at_best(curve: score_error.Curve, runs: Sequence[Sequence[float]]) -> list[float]:
    return [run[score_error.TIMES.index(curve.best)] for run in runs]


def _cancels(curve: score_error.Curve) -> bool:
    """Whether the mean learned error at its minimum is below both of its parts."""
    total, noise = (statistics.fmean(_at_best(curve, runs)) for runs in (curve.total, curve.noise))
    return total < min(noise, curve.smoothing[score_error.TIMES.index(curve.best)])


def _orders(cases: Sequence[second_order.Case]) -> str:
    rows = []
    for case in cases:
        slopes = [case.slope(form) for form in second_order.FORMS]
        ratios = [case.forms[form][-1] / case.kl[-1] for form in second_order.FORMS]
        cells = [
            f"{ratio:.3f} ({'exact' if slope is None else f'{slope:.2f}'})"
            for ratio, slope in zip(ratios, slopes, strict=True)
        ]
        dropped = case.forms[second_order.DROPPED][-1] / case.kl[-1]
        rows.append([case.target, case.field, *cells, f"{dropped:.3f}"])
    return markdown_table(["target", "field", *second_order.FORMS, "½ E tr (∇δ)²"], rows)


def _order_caption() -> str:
    return (
        f"Table: form / KL at the smallest of {len(second_order.SCALES)} displacements and, in brackets, the fitted slope of |KL - form|"
        " against |δ|. Figure: |KL - form| itself. T(a) = a + δ(a); KL(T#p ‖ p) by quadrature in double precision."
        " `stein` is ½ E[(g·δ + div δ)²], `score` drops div δ, `state` is ½ E[δᵀ E[g gᵀ] δ], `identity` is ½ tr E[g gᵀ] / A · E|δ|², the"
        " isotropic form at the scale that trace normalisation gives it. `curvature` is ½ E[δᵀ H δ] with H = -∇g, the curvature of -log p"
        " at the action itself. Integration by parts gives `stein` = `curvature` + ½ E tr (∇δ)²; the last column is this term, which the"
        " curvature form drops, also divided by the KL. The eigenvalues of H keep their signs here; the penalty of a refinement takes"
        " their absolute values. A slope of 3 means that the form equals the KL to second order; a slope of 2 means that it differs already"
        " at second order. All Fisher forms agree for a constant field; only `stein` is correct for the other fields. For a Gaussian, H"
        " is the same at every action, so `curvature` equals `state`; for the mixture it is nearer to the KL than `state`."
    )


def _closed() -> str:
    rows = []
    for narrow, wide in DEVIATIONS:
        sigma = planar([(0, 0)], deviations=[(wide, narrow)], degrees=[30]).covariances[0]
        shares = [gap.worst_share(sigma, t) for t in (None, *CLOSED_TIMES)]
        rows.append([f"{narrow:g}, {wide:g}", *(f"{value:.3f}" for value in shares)])
    return (
        "Q is linear with gradient q; the behaviour is Gaussian with condition number 100. The table has the share of the best value at the"
        " same KL that the direction F⁻¹ q reaches, for the q that is worst for F, in closed form:\n\n"
        + markdown_table(["standard deviations", "isotropic", *(f"state, t = {t:g}" for t in CLOSED_TIMES)], rows)
    )


def _gap_caption(found: TheoryFindings) -> str:
    settings = found.settings
    training = max(abs(run.share - run.untrained) for run in found.refined)
    estimation = max(abs(run.untrained - run.theory) for run in found.refined)
    return (
        f"Standard deviations 0.05 and 0.5. Lines: closed forms, with an exact flow and infinitely many scores. Points: trained"
        f" refinements, one per seed ({len(settings.seeds)} seeds; the isotropic ones do not depend on t and are at the left). Flow, F and"
        f" displacement are learned: F from K = {settings.fisher_samples:,} scores of base actions of {settings.flow_steps} Euler steps,"
        f" δ by `fd.method.objective` with a learned multiplier in {settings.refine.steps:,} steps. Value and KL of a run are those of its"
        " displacement under the known Gaussian, by quadrature; the value is divided by the optimum at that run's KL. The penalty's"
        f" budget of each run is the one that its F maps to {gap.TRUST:g} nats; the measured KLs lie within"
        f" {100 * kl_spread(found.refined):.1f} % of this. At each t, plain and desmoothed runs have the q that is worst for the plain"
        " form; the isotropic runs have the q that is worst for them. Actions are rescaled so that the clip at ±1 does not bind."
        f" Each multiplier starts at the known optimum / {gap.HEAD_START:g}, and the last layer of δ at zero. `Same F, untrained`: the share"
        " of the direction F⁻¹ q with the run's own F, computed without training. The trained share differs from it by at most"
        f" {training:.1g} in any run: this is the error of training δ. The difference between `same F, untrained` and the closed form, up to"
        f" {estimation:.2f}, is the error of F, which comes from learned scores at finitely many draws of a learned flow."
    )


def _trained(refined: Sequence[Refined]) -> str:
    rows = []
    for metric, t, group in _runs(refined):
        shares, divergences = [run.share for run in group], [run.kl for run in group]
        rows.append(
            [
                metric,
                "" if t is None else f"{t:g}",
                f"{group[0].theory:.3f}",
                f"{statistics.fmean(shares):.3f}",
                f"{min(shares):.3f} to {max(shares):.3f}",
                between([run.untrained for run in group]),
                f"{max(abs(run.share - run.untrained) for run in group):.0e}",
                f"{min(divergences):.3f} to {max(divergences):.3f}",
            ]
        )
    return markdown_table(
        [
            "metric",
            "t",
            "closed form",
            "trained, mean",
            "seeds",
            "same F, untrained",
            "largest difference",
            "KL (nats)",
        ],
        rows,
    )


def _sampled(found: TheoryFindings) -> str:
    rows = [
        ["plain" if metric == "state" else "desmoothed", *(f"{value:.3f}" for value in values)]
        for metric, values in found.sampling.items()
    ]
    sigma = elongated().covariances[0]
    share = gap.worst_share(sigma, SHOWN_TIME)
    narrow = float(torch.linalg.eigvalsh(gap.smoothed(sigma, SHOWN_TIME))[0])
    return (
        f"The cost of a finite K, without any learning: median share at t = {SHOWN_TIME:g} with F from K exact scores"
        f" (K → ∞: {share:.3f} plain, 1 desmoothed). Undoing the smoothing subtracts two nearly equal numbers in narrow directions, here"
        f" {narrow:.4f} - {(1 - SHOWN_TIME) ** 2:.2g}, so it needs thousands of scores per state; the plain form needs a handful:\n\n"
        + markdown_table(["F", *(f"K = {count:,}" for count in SAMPLES)], rows)
    )


def _runs(refined: Sequence[Refined]) -> Iterable[tuple[str, float | None, list[Refined]]]:
    for metric, t in dict.fromkeys((run.metric, run.t) for run in refined):
        yield metric, t, [run for run in refined if (run.metric, run.t) == (metric, t)]


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def _widths(hidden: Sequence[int]) -> str:
    return " and ".join(map(str, hidden))


def _score_rows(curves: Sequence[score_error.Curve]) -> list[dict[str, Any]]:
    return [
        {
            "target": curve.target,
            "run": run,
            "t": t,
            "total": total[i],
            "noise": noise[i],
            "smoothing": curve.smoothing[i],
        }
        for curve in curves
        for run, (total, noise) in enumerate(zip(curve.total, curve.noise, strict=True))
        for i, t in enumerate(score_error.TIMES)
    ]


def _order_rows(cases: Sequence[second_order.Case]) -> list[dict[str, Any]]:
    return [
        {"target": case.target, "field": case.field, "rms_delta": length, "kl": case.kl[i]}
        | {form: values[i] for form, values in case.forms.items()}
        for case in cases
        for i, length in enumerate(case.lengths)
    ]


def _gap_rows(refined: Sequence[Refined]) -> list[dict[str, Any]]:
    return [
        {
            "metric": run.metric,
            "t": run.t,
            "seed": run.seed,
            "share": run.share,
            "untrained": run.untrained,
            "closed_form": run.theory,
            "kl": run.kl,
        }
        for run in refined
    ]
