"""Tables of scores as Markdown, CSV and LaTeX, and the metrics that DVC shows and compares."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fd.reference.published import METHODS, Comparison, PublishedFigure
from fd.report.csv_text import csv_text
from fd.report.rendering import TEMPLATES, render_markdown
from fd.report.table import Table
from fd.report.text import interval, plus_minus
from fd.results.estimates import AGGREGATE, Results, leaders


@dataclass(frozen=True)
class ScoreRow:
    """A printed row of the table of scores, or its column if there are many methods; `intervals` is empty if there are none."""

    name: str
    estimates: dict[str, str]
    intervals: dict[str, str]
    best: set[str]


def scores_table(
    results: Results, comparisons: Mapping[str, Comparison] | None = None, *, turned: bool | None = None
) -> Table:
    """Tasks as rows and methods as columns, or `turned`, by default if there are many methods.

    With `comparisons`, the published scores that are comparable with one of ours stand below it.
    """
    plan = results.plan
    turned = plan.many if turned is None else turned
    head = ["method" if turned else "task", *plan.methods]
    beside = _beside(results, comparisons or {})

    def cell(row: ScoreRow, method: str) -> str:
        estimate = f"**{row.estimates[method]}**" if method in row.best else row.estimates[method]
        lines = [estimate, row.intervals.get(method, ""), *beside.get((row.name, method), [])]
        return "<br>".join(line for line in lines if line)

    table = Table(head, [[row.name, *(cell(row, method) for method in plan.methods)] for row in _rows(results)], "lr")
    return table.turned() if turned else table


def scores_latex(results: Results) -> str:
    """The table of scores for a paper, with its caption."""
    plan = results.plan
    rows: list[list[str]] = []
    for row in _rows(results):
        values = {method: row.estimates[method].replace(" ± ", r" \pm ") for method in plan.methods}
        cells = [rf"$\mathbf{{{values[m]}}}$" if m in row.best else f"${values[m]}$" for m in plan.methods]
        rows.append([_escape(row.name), *cells])
        if row.intervals:
            rows.append(["", *(rf"{{\scriptsize ${row.intervals[m]}$}}" for m in plan.methods)])
        if row.name == plan.tasks[-1].name and len(plan.tasks) > 1 and not plan.many:
            rows.append([r"\midrule"])
    head = ["method" if plan.many else "task", *map(_escape, plan.methods)]
    if plan.many:
        head, *rows = map(list, zip(head, *rows, strict=True))
    caption = render_markdown("scores_caption.md.jinja", {"plan": plan, "turned": plan.many}).rstrip()
    escaped = _escape(caption).replace("±", r"$\pm$")
    return TEMPLATES.get_template("scores.tex.jinja").render(head=head, rows=rows, caption=escaped)


def scores_csv(results: Results) -> str:
    """One row per cell, and two per method for the aggregate (IQM and mean); two decimals."""
    plan = results.plan
    rows = [
        {"task": task.name, "method": method, "statistic": "mean", "value": summary.mean, "std": summary.std}
        | {"low": summary.low, "high": summary.high, "seeds": len(plan.seeds)}
        for task in plan.tasks
        for method in plan.methods
        for summary in [results.summaries[task.name, method]]
    ]
    for method, total in results.aggregates.items():
        shared = {"task": AGGREGATE, "method": method, "seeds": len(plan.seeds)}
        rows.append(shared | {"statistic": "iqm", "value": total.iqm, "low": total.low, "high": total.high})
        rows.append(shared | {"statistic": "mean", "value": total.mean})
    return csv_text(rows)


def curves_csv(results: Results) -> str:
    """One row per evaluated step of a cell: the lines of the learning curves."""
    return csv_text(
        {"task": task.name, "method": method, "step": step, "mean": point.mean, "low": point.low, "high": point.high}
        for task in results.plan.tasks
        for method in results.plan.methods
        for step, point in results.curve(task.name, method)
    )


def metrics_json(results: Results) -> str:
    """Task -> method -> {mean, std, low, high, seeds: {seed: score}}; aggregate -> method -> {iqm, low, high, mean}.

    Two decimals. std, low and high are left out for a single seed, which has none.
    """
    plan = results.plan
    metrics: dict[str, dict[str, object]] = {}
    for task in plan.tasks:
        metrics[task.name] = {}
        for method in plan.methods:
            seeds = zip(plan.seeds, results.finals[task.name, method], strict=True)
            per_seed = {str(seed): round(float(score), 2) for seed, score in seeds}
            metrics[task.name][method] = _finite(vars(results.summaries[task.name, method])) | {"seeds": per_seed}
    metrics[AGGREGATE] = {method: _finite(vars(total)) for method, total in results.aggregates.items()}
    return json.dumps(metrics, indent=1) + "\n"


def comparable_table(results: Results, comparisons: Mapping[str, Comparison]) -> Table:
    """Published scores beside ours, where they are comparable."""
    rows = []
    for task in results.plan.tasks:
        for figure in comparisons[task.name].figures:
            method = _method(results, figure)
            here = results.summaries[task.name, method]
            seeds = f"{figure.seeds} seeds" if figure.seeds else "seeds not stated"
            source = f"{figure.source} ({seeds})" + (", secondary source" if figure.secondary else "")
            rows.append([task.name, method, plus_minus(here.mean, here.std), _published(figure), source])
    return Table(["task", "method", "here", "published", "source"], rows, "llrrl")


def _beside(results: Results, comparisons: Mapping[str, Comparison]) -> dict[tuple[str, str], list[str]]:
    """Published scores by the task and the method of ours."""
    found: dict[tuple[str, str], list[str]] = {}
    for task, comparison in comparisons.items():
        for figure in comparison.figures:
            found.setdefault((task, _method(results, figure)), []).append(f"published {_published(figure)}")
    return found


def _method(results: Results, figure: PublishedFigure) -> str:
    """Our name of the method of a published score."""
    return next(name for name in results.plan.methods if METHODS.get(name) == figure.method)


def _rows(results: Results) -> list[ScoreRow]:
    plan = results.plan
    rows = []
    for task in plan.tasks:
        cells = {method: results.summaries[task.name, method] for method in plan.methods}
        rows.append(_row(task.name, {m: (cell.mean, cell.low, cell.high, cell.std) for m, cell in cells.items()}))
    if len(plan.tasks) == 1:
        return rows
    totals = results.aggregates
    rows.append(
        _row("all tasks, IQM", {m: (total.iqm, total.low, total.high, math.nan) for m, total in totals.items()})
    )
    means = {method: f"{total.mean:.1f}" for method, total in totals.items()}
    return [*rows, ScoreRow("all tasks, mean", means, {}, set())]


def _row(name: str, cells: Mapping[str, tuple[float, float, float, float]]) -> ScoreRow:
    """Row of {method: (estimate, low, high, spread)}."""
    numbers = {method: plus_minus(estimate, spread) for method, (estimate, _, _, spread) in cells.items()}
    intervals = {m: interval(low, high) for m, (_, low, high, _) in cells.items() if not math.isnan(low)}
    return ScoreRow(name, numbers, intervals, leaders({method: cell[:3] for method, cell in cells.items()}))


def _published(figure: PublishedFigure) -> str:
    return f"{figure.mean:g}" if figure.spread is None else f"{figure.mean:g} ± {figure.spread:g}"


def _finite(values: Mapping[str, float]) -> dict[str, object]:
    return {key: round(value, 2) for key, value in values.items() if math.isfinite(value)}


def _escape(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")
