"""The page's sections on the bandit: every method at one budget, and value against KL over budgets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from fd.report.markdown import markdown_table
from fd.theory import bandit
from fd.theory.bandit import BanditOutcome
from fd.theory.demonstrations import TheoryFindings
from fd.theory.tradeoff import ISOTROPIC, TradeoffCurve, tradeoff_curves

SHOWN_KL = (0.1, 0.3)  # nats, at which gains are compared in the table
HELD = 0.1  # distance of penalty / budget from 1 up to which a multiplier counts as holding its budget


def sections(found: TheoryFindings) -> list[str]:
    """Paragraphs of both sections."""
    return [
        "## 4. A bandit with several modes",
        "![Actions of every method](bandit.svg)",
        _bandit_caption(found),
        _bandit_table(found.at_common_budget),
        "## 5. Value against KL",
        "![Gain in value against true KL, for every metric on both layouts](tradeoff.svg)",
        _tradeoff_caption(found),
        _tradeoff_table(found),
    ]


def _bandit_caption(found: TheoryFindings) -> str:
    settings = found.settings
    return (
        "Shading: density of the behaviour. Contours: the reward, from 0.1 in steps of 0.2; cross: its peak, off the support. Red: actions of one"
        " seed. Rows: parallel modes, so that the single matrix F of a state fits all of them, and crossed modes, so that it fits none."
        f" The critic is fitted only to rewards of behaviour actions. Every refinement has the budget {settings.budget:g}"
        f" on its own trace-normalised penalty, at t = {settings.t_eps:g}; fql has alpha = {settings.alpha:g}. `fidec-stein` computes the"
        " score at the action itself and adds div δ. This form is 0 for every displacement, however long, that does not change the behaviour's"
        " density (div(p δ) = 0), and it equals the KL only for short displacements, so its budget does not bound |δ|. `fidec-local` has a"
        " matrix at each action, the curvature of -log p there. `bc` shows the flow's own errors: all other methods start from its actions, including those between the modes."
    )


def _bandit_table(outcomes: Sequence[BanditOutcome]) -> str:
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
    return (
        markdown_table(header, rows)
        + "\n\nMean ± standard deviation over seeds. Off support: share of actions where the behaviour's density is below the level that"
        f" {bandit.SUPPORT:.0%} of its own mass exceeds, so an exact copy of the behaviour scores 1 %. Modes kept: modes with at least"
        f" {bandit.KEPT:.0%} of their mass. KL: the KL of the displacement T under the known behaviour, by quadrature. It excludes the clip at"
        " ±1 and the flow's own error, which bc shows (bc has no T). It is not known for fql, which is not a displacement, or if T folds the"
        " plane for a seed. An equal budget is not an equal KL: compare both value and KL."
    )


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


def _tradeoff_caption(found: TheoryFindings) -> str:
    settings, runs = found.settings, found.over_budgets
    folds = sum(outcome.folds for outcome in runs)
    off = sum(abs(outcome.spent - 1) > HELD for outcome in runs if outcome.spent is not None)
    return (
        f"The refinements of section 4 with the budgets {', '.join(f'{budget:g}' for budget in settings.budgets)}, all trained as one stack."
        f" Flows, critics, base actions and t = {settings.t_eps:g} are the same for all metrics. Gain: mean reward of the displaced actions"
        " minus that of the base actions of the same seed. KL: true KL of the displacement under the known behaviour, as in section 4."
        f" Points: one seed ({len(settings.seeds)}); curves: mean gain against geometric mean of the KL at each budget. {folds} of"
        f" {len(runs)} displacements fold the plane and are left out. Table: gain at equal KL, and KL at equal gain as a share of the KL"
        " under `identity`, both between the points of each seed's own curve by a power law: mean and, in brackets, range over the seeds"
        " (for the share: over seeds and gains that both curves reach). Penalty / budget: at the end of training, over all base actions,"
        f" least and greatest over budgets and seeds; {off} of {len(runs)} are off by more than {HELD:.0%}."
    )


def _tradeoff_table(found: TheoryFindings) -> str:
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
    return markdown_table([*header, "KL at equal gain / identity's", "penalty / budget"], rows)


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
