"""The page, tables and figures of the demonstrations as text."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fd.report.csv_text import csv_text
from fd.report.rendering import render_markdown
from fd.report.style import style, svg
from fd.report.table import Table
from fd.theory import bandit_page, gap, score_error, second_order, theory_figures
from fd.theory.bandit_page import between
from fd.theory.demonstrations import SAMPLES, SHOWN_TIME, TheoryFindings, elongated
from fd.theory.distributions import planar
from fd.theory.gap import Refined

DIGITS = "%.8g"  # of the numbers in the CSV files
CLOSED_TIMES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
DEVIATIONS = ((0.02, 0.2), (0.05, 0.5), (0.1, 1.0))


def render_theory(found: TheoryFindings) -> dict[str, str]:
    """Text of every file, by name; equal findings give equal bytes."""
    files = {
        "theory.md": render_markdown("theory_page.md.jinja", _values(found)),
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


def _values(found: TheoryFindings) -> dict[str, Any]:
    """Values of the template."""
    sigma = elongated().covariances[0]
    values = {
        "settings": found.settings,
        "seeds": len(found.settings.seeds),
        "formulas": _formulas(found),
        "points": score_error.POINTS,
        "cancelling": [curve.target for curve in found.curves if _cancels(curve)],
        "minima": _minima(found.curves),
        "orders": _orders(found.cases),
        "scales": len(second_order.SCALES),
        "closed": _closed(),
        "gap": gap,
        "kl_spread": kl_spread(found.refined),
        "training_error": max(abs(run.share - run.untrained) for run in found.refined),
        "estimation_error": max(abs(run.untrained - run.theory) for run in found.refined),
        "trained": _trained(found.refined),
        "shown_time": SHOWN_TIME,
        "share": gap.worst_share(sigma, SHOWN_TIME),
        "narrow": float(torch.linalg.eigvalsh(gap.smoothed(sigma, SHOWN_TIME))[0]),
        "sampled": _sampled(found),
    }
    return values | bandit_page.bandit_values(found)


def _formulas(found: TheoryFindings) -> Table:
    rows = []
    for (target, formula), errors in found.formulas.items():
        label = "(t v - x) / (1 - t)" if formula == "exact" else "v / (1 - t)"
        rows.append([target, f"`{formula}`, {label}", *(f"{error:.1e}" for error in errors)])
    header = ["target", "formula", *(f"t = {t:g}" for t in score_error.EXACT_TIMES)]
    return Table(header, rows)


def _minima(curves: Sequence[score_error.Curve]) -> Table:
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
    return Table(header, rows)


def _at_best(curve: score_error.Curve, runs: Sequence[Sequence[float]]) -> list[float]:
    return [run[score_error.TIMES.index(curve.best)] for run in runs]


def _cancels(curve: score_error.Curve) -> bool:
    """Whether the mean learned error at its minimum is below both of its parts."""
    total, noise = (statistics.fmean(_at_best(curve, runs)) for runs in (curve.total, curve.noise))
    return total < min(noise, curve.smoothing[score_error.TIMES.index(curve.best)])


def _orders(cases: Sequence[second_order.Case]) -> Table:
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
    return Table(["target", "field", *second_order.FORMS, "½ E tr (∇δ)²"], rows)


def _closed() -> Table:
    rows = []
    for narrow, wide in DEVIATIONS:
        sigma = planar([(0, 0)], deviations=[(wide, narrow)], degrees=[30]).covariances[0]
        shares = [gap.worst_share(sigma, t) for t in (None, *CLOSED_TIMES)]
        rows.append([f"{narrow:g}, {wide:g}", *(f"{value:.3f}" for value in shares)])
    return Table(["standard deviations", "isotropic", *(f"state, t = {t:g}" for t in CLOSED_TIMES)], rows)


def _trained(refined: Sequence[Refined]) -> Table:
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
    return Table(
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


def _sampled(found: TheoryFindings) -> Table:
    rows = [
        ["plain" if metric == "state" else "desmoothed", *(f"{value:.3f}" for value in values)]
        for metric, values in found.sampling.items()
    ]
    return Table(["F", *(f"K = {count:,}" for count in SAMPLES)], rows)


def _runs(refined: Sequence[Refined]) -> Iterable[tuple[str, float | None, list[Refined]]]:
    for metric, t in dict.fromkeys((run.metric, run.t) for run in refined):
        yield metric, t, [run for run in refined if (run.metric, run.t) == (metric, t)]


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


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
