"""The part of an ablation's page for metrics at several budgets: each metric is a curve, compared with the first over the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtr

from fd.report.figures import MARKERS, score_range
from fd.report.style import COLOURS, WIDTH, style, svg
from fd.report.table import Table
from fd.report.text import interval, plus_minus
from fd.results.estimates import Results
from fd.results.statistics import Floats, summarise

LEAST = 3  # budgets of a curve


@dataclass(frozen=True)
class BudgetCurve:
    """A metric and its methods by budget, ascending."""

    name: str
    methods: Mapping[float, str]


def budget_curves(
    values: Sequence[tuple[str, str, Mapping[str, str]]], budgets: Mapping[tuple[str, str], float]
) -> list[BudgetCurve]:
    """Curves of an ablation, in its order; none if it does not compare metrics at several budgets.

    Args:
        values: (label, method, settings in which the methods differ) of each value; a curve's name is its first label without the
            last word, the budget.
        budgets: by (task, method); methods whose budget differs between tasks are left out.
    """
    each: dict[str, set[float]] = {}
    for (_, method), budget in budgets.items():
        each.setdefault(method, set()).add(budget)
    groups: dict[tuple[tuple[str, str], ...], list[tuple[str, str]]] = {}
    for label, method, settings in values:
        rest = tuple(sorted(item for item in settings.items() if item[0] != "refine.target_divergence"))
        groups.setdefault(rest, []).append((label, method))
    curves = []
    for members in groups.values():
        by_budget = {next(iter(each[method])): method for _, method in members if len(each.get(method, ())) == 1}
        if len(by_budget) >= LEAST:
            name = members[0][0].rpartition(" ")[0] or members[0][0]
            curves.append(BudgetCurve(name, dict(sorted(by_budget.items()))))
    return curves if len(curves) > 1 else []


def curves_table(results: Results, curves: Sequence[BudgetCurve], moved: Mapping[tuple[str, str], float]) -> Table:
    """Best budget of every curve, and its difference from the first curve, task by task."""
    head = [
        "task",
        "metric",
        "best budget",
        "score",
        "interval",
        "mean δ²",
        "minus the first",
        "p",
        "mean over budgets, minus the first",
        "p",
    ]
    rows = []
    for task in (task.name for task in results.plan.tasks):
        first = curves[0]
        for curve in curves:
            budget = best_budget(results, task, curve)
            method = curve.methods[budget]
            cell = results.summaries[task, method]
            cells = [f"{budget:g}", plus_minus(cell.mean, cell.std), interval(cell.low, cell.high)]
            cells.append(f"{moved.get((task, method), math.nan):.2g}")
            if curve is not first:
                own = results.finals[task, method]
                cells += _compared(
                    own - results.finals[task, first.methods[best_budget(results, task, first)]], results
                )
                both = [b for b in curve.methods if b in first.methods]
                pairs = [results.finals[task, curve.methods[b]] - results.finals[task, first.methods[b]] for b in both]
                cells += _compared(np.mean(pairs, axis=0), results) if pairs else ["", ""]
            rows.append([task, curve.name, *cells, *[""] * (len(head) - 2 - len(cells))])
    return Table(head, rows, "llr")


def best_budget(results: Results, task: str, curve: BudgetCurve) -> float:
    """The budget of a curve with the highest mean score on a task."""
    return max(curve.methods, key=lambda budget: results.summaries[task, curve.methods[budget]].mean)


def paired(differences: Floats) -> float:
    """Two-sided p value of the paired t-test for the differences of S seeds, [S]; nan for one seed, 1 if all are zero."""
    count = len(differences)
    if count == 1:
        return math.nan
    spread = float(np.std(differences, ddof=1))
    mean = float(np.mean(differences))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(count - 1, -abs(mean) / spread * math.sqrt(count)))


def render_curves(results: Results, curves: Sequence[BudgetCurve], moved: Mapping[tuple[str, str], float]) -> str:
    """Score against budget (above) and against mean delta^2 (below), one column per task, as SVG."""
    with style():
        tasks = [task.name for task in results.plan.tasks]
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        panels = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            for row, panel in enumerate(panels[:, column]):
                _panel(panel, results, task, curves, moved if row else None)
            panels[0, column].set(title=task, xlabel="budget")
            panels[1, column].set_xlabel("mean δ²")
        for panel in panels[:, 0]:
            panel.set_ylabel("score (%)")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(curves), 5))
        return svg(figure)


def _panel(
    panel: Axes,
    results: Results,
    task: str,
    curves: Sequence[BudgetCurve],
    moved: Mapping[tuple[str, str], float] | None,
) -> None:
    low, high = score_range(results, task)
    for place, curve in enumerate(curves):
        cells = [results.summaries[task, method] for method in curve.methods.values()]
        budgets = list(curve.methods)
        x = budgets if moved is None else [moved.get((task, method), math.nan) for method in curve.methods.values()]
        mean = np.array([cell.mean for cell in cells])
        bars = np.abs(np.clip([[cell.low for cell in cells], [cell.high for cell in cells]], low, high) - mean)
        shift = 1.06 ** (place - (len(curves) - 1) / 2) if moved is None else 1.0  # side by side
        panel.errorbar(
            np.array(x) * shift, mean, yerr=None if np.isnan(bars).any() else bars, color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)], markersize=3.5, linewidth=1, elinewidth=0.7, label=curve.name,
        )  # fmt: skip
    panel.set(xscale="log", ylim=(low, high))


def _compared(differences: Floats, results: Results) -> list[str]:
    summary = summarise(differences, results.plan.confidence)
    return [f"{summary.mean:+.1f} {interval(summary.low, summary.high)}".strip(), f"{paired(differences):.2g}"]
