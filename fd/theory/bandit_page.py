"""The bandit on the page: every method at one budget, and value against KL over budgets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from fd.report.table import Table
from fd.theory import bandit
from fd.theory.bandit import BanditOutcome
from fd.theory.demonstrations import TheoryFindings
from fd.theory.tradeoff import ISOTROPIC, TradeoffCurve, tradeoff_curves

SHOWN_KL = (0.1, 0.3)  # nats, at which gains are compared in the table
HELD = 0.1  # distance of penalty / budget from 1 up to which a multiplier counts as holding its budget


def bandit_values(found: TheoryFindings) -> dict[str, Any]:
    """Values of the template about the bandit."""
    runs = found.over_budgets
    return {
        "at_common_budget": _bandit_table(found.at_common_budget),
        "bandit": bandit,
        "over_budgets": _tradeoff_table(found),
        "refinements": len(runs),
        "folds": sum(outcome.folds for outcome in runs),
        "held": HELD,
        "off": sum(abs(outcome.spent - 1) > HELD for outcome in runs if outcome.spent is not None),
    }


def _bandit_table(outcomes: Sequence[BanditOutcome]) -> Table:
    rows = []
    plan = bandit.layouts()
    for layout, method, group in _groups(outcomes):
        rows.append(
            [
                layout,
                method,
                _spread([outcome.value for outcome in group], 3),
                _spread([100 * outcome.off_support for outcome in group], 1),
                f"{_mean(group, 'modes'):.1f} of {len(plan[layout].target.weights)}",
                _spread([outcome.moved for outcome in group], 4),
                _divergence(group),
            ]
        )
    header = ["layout", "method", "value", "off support (%)", "modes kept", "mean (a - a_b)²", "KL (nats)"]
    return Table(header, rows)


def _divergence(group: Sequence[BanditOutcome]) -> str:
    if any(outcome.folds for outcome in group):
        return "T folds"
    divergences = [outcome.kl for outcome in group if outcome.kl is not None]
    if divergences:
        return _spread(divergences, 2)
    return "-" if group[0].method == "bc" else "not known"


def _groups(outcomes: Sequence[BanditOutcome]) -> Iterable[tuple[str, str, list[BanditOutcome]]]:
    for layout in bandit.layouts():
        for method in bandit.METHODS:
            yield layout, method, [o for o in outcomes if (o.layout, o.method) == (layout, method)]


def bandit_rows(found: TheoryFindings) -> list[dict[str, Any]]:
    """Rows of bandit.csv."""
    keys = ("layout", "method", "seed", "value", "off_support", "modes", "moved", "kl", "folds")
    return [{key: getattr(outcome, key) for key in keys} for outcome in found.at_common_budget]


def bandit_metrics(found: TheoryFindings) -> dict[str, dict[str, dict[str, float]]]:
    """Mean value and share off the support by layout and method."""
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for layout, method, group in _groups(found.at_common_budget):
        metrics.setdefault(layout, {})[method] = {
            "value": _mean(group, "value"), "off_support": _mean(group, "off_support")
        }  # fmt: skip
    return metrics


def _tradeoff_table(found: TheoryFindings) -> Table:
    rows = []
    for layout, method, curves, isotropic in _compared(found):
        gains = [[curve.gain_at(kl) for curve in curves] for kl in SHOWN_KL]
        spent = [
            o.spent for o in found.over_budgets if (o.layout, o.method) == (layout, method) and o.spent is not None
        ]
        rows.append(
            [
                layout,
                bandit.metric_name(method),
                method,
                *(_known(each, 4) for each in gains),
                _known(_kl_ratios(curves, isotropic), 2),
                f"{min(spent):.2f} to {max(spent):.2f}",
            ]
        )
    header = ["layout", "metric", "method", *(f"gain at {kl:g} nats" for kl in SHOWN_KL)]
    return Table([*header, "KL at equal gain / identity's", "penalty / budget"], rows)


def _compared(
    found: TheoryFindings,
) -> Iterable[tuple[str, str, list[TradeoffCurve], list[TradeoffCurve]]]:
    """Layout, method, and the curves of the method and of the isotropic one there, one per seed."""
    curves = tradeoff_curves(found.over_budgets)
    for layout in bandit.layouts():
        isotropic = [curve for curve in curves if (curve.layout, curve.method) == (layout, ISOTROPIC)]
        for method in bandit.QUADRATIC:
            yield layout, method, [c for c in curves if (c.layout, c.method) == (layout, method)], isotropic


def _kl_ratios(curves: Sequence[TradeoffCurve], isotropic: Sequence[TradeoffCurve]) -> list[float]:
    return [ratio for own, its in zip(curves, isotropic, strict=True) for ratio in own.kl_ratios(its)]


def tradeoff_rows(found: TheoryFindings) -> list[dict[str, Any]]:
    """Rows of tradeoff.csv."""
    keys = ("layout", "method", "budget", "seed", "value", "gain", "kl", "folds", "moved", "spent")
    return [{key: getattr(outcome, key) for key in keys} for outcome in found.over_budgets]


def tradeoff_metrics(found: TheoryFindings) -> dict[str, Any]:
    """Mean KL at equal gain by layout and method, as a share of that under the identity, and the worst penalty / budget."""
    shares: dict[str, dict[str, float]] = {}
    for layout, method, curves, isotropic in _compared(found):
        ratios = _kl_ratios(curves, isotropic)
        if method != ISOTROPIC and ratios:
            shares.setdefault(layout, {})[method] = statistics.fmean(ratios)
    spent = [outcome.spent for outcome in found.over_budgets if outcome.spent is not None]
    return {"kl_at_equal_gain": shares, "penalty_of_budget": {"min": min(spent), "max": max(spent)}}


def _mean(group: Sequence[BanditOutcome], field: str) -> float:
    return statistics.fmean(getattr(outcome, field) for outcome in group)


def between(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, in brackets, range."""
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.fmean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def _known(values: Sequence[float | None], digits: int) -> str:
    """The same, or "-" if a curve does not reach there."""
    known = [value for value in values if value is not None]
    return between(known, digits) if known and len(known) == len(values) else "-"


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
