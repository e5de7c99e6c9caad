"""Every task of the benchmark, its families and their mean: our scores, or "not run", beside all published scores.

The page gives context, not a comparison: fd/reference/published.py decides which published scores are comparable with ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fd.reference.published import PublishedFigure, Reference, Setting, obstacle
from fd.reference.tasks import BenchmarkTask, find_task
from fd.report.csv_text import csv_text
from fd.report.table import Table
from fd.report.text import plus_minus
from fd.results.estimates import Results
from fd.results.statistics import Summary, summarise

METHODS = ("ReBRAC", "IFQL", "FQL", "DeFlow", "FiDec")  # each has a column; one more has the best of all methods
WHOLE = (
    "ogbench-state-50",
    "ogbench-state",
)  # the mean over all state tasks: its name in scores.csv, and the suite of these tasks
INCOMPARABLE = "†"
SECONDARY = "‡"
COLUMNS = ("scope", "name", "place", "method", "mean", "spread", "seeds", "source", "status")


@dataclass(frozen=True)
class PublishedRow:
    """A task, a family or all state tasks: our scores by method (empty if not run), why they are not comparable, published scores."""

    scope: str
    name: str
    here: Mapping[str, Summary]
    reason: str
    figures: tuple[PublishedFigure, ...]


def published_rows(results: Results, reference: Reference, settings: Mapping[str, Setting]) -> list[PublishedRow]:
    """Rows of the tasks, the families and all state tasks, in the order of tasks.csv.

    Args:
        results: of our suite.
        reference: tasks of the benchmark and published scores.
        settings: how every task of our suite is run, by name.
    """
    ours, reasons = dict[BenchmarkTask, str](), dict[BenchmarkTask, str]()
    for name, setting in settings.items():
        task, reason = find_task(reference.tasks, setting.dataset), obstacle(reference, setting)
        # If several of ours are the same benchmark task, take a comparable one, else the last.
        if task is not None and (task not in ours or reasons[task]):
            ours[task], reasons[task] = name, reason

    def row(scope: str, name: str, tasks: Sequence[BenchmarkTask], figures: Sequence[PublishedFigure]) -> PublishedRow:
        run = all(task in ours for task in tasks)
        here = _means(results, [ours[task] for task in tasks]) if run else {}
        reason = "; ".join(dict.fromkeys(reasons[task] for task in tasks if reasons[task])) if run else ""
        return PublishedRow(scope, name, here, reason, tuple(figures))

    found = [row("task", task.name, [task], _of(reference.figures, task.published)) for task in reference.tasks]
    for family in dict.fromkeys(task.family for task in reference.tasks):
        members = [task for task in reference.tasks if task.family == family]
        found.append(row("family", family, members, _of(reference.families, family)))
    name, suite = WHOLE
    whole = [task for task in reference.tasks if suite in task.suites]
    means = _whole(reference, {task.family for task in whole})
    return [*found, row("aggregate", name, whole, [*_of(reference.aggregates, name), *means])]


def published_values(results: Results, found: Sequence[PublishedRow]) -> dict[str, Any]:
    """Values of the template: the tables of the tasks, of the families and of all state tasks, and what their marks mean."""
    sources = {source: str(number) for number, source in enumerate(_sources(found), 1)}
    reasons: dict[str, list[str]] = {}
    for row in found:
        if row.reason:
            reasons.setdefault(row.reason, []).append(row.name)
    scopes = {"tasks": "task", "families": "family", "aggregate": "aggregate"}
    tables = {
        name: _table(scope, [row for row in found if row.scope == scope], sources) for name, scope in scopes.items()
    }
    marks = {"incomparable": INCOMPARABLE, "secondary": SECONDARY}
    return tables | marks | {"plan": results.plan, "sources": sources, "reasons": reasons}


def published_csv(results: Results, found: Sequence[PublishedRow]) -> str:
    """One row per score, ours (place `here`) or published; the row of a task that was not run has no mean.

    `status` of our scores is `comparable` or the reason why not; of published scores, `primary` or `secondary`.
    """
    rows = list[list[str]]()
    for row in found:
        if not row.here:
            rows.append([row.scope, row.name, "here", "", "", "", "", "", "not run"])
        for method, value in row.here.items():
            spread = "" if np.isnan(value.std) else f"{value.std:.2f}"
            numbers = [f"{value.mean:.2f}", spread, str(len(results.plan.seeds))]
            rows.append([row.scope, row.name, "here", method, *numbers, results.plan.suite, row.reason or "comparable"])
        for item in row.figures:
            spread = "" if item.spread is None else f"{item.spread:g}"
            status = "secondary" if item.secondary else "primary"
            figure = [item.method, f"{item.mean:g}", spread, item.seeds, item.source, status]
            rows.append([row.scope, row.name, "published", *figure])
    return csv_text(dict(zip(COLUMNS, row, strict=True)) for row in rows)


def _sources(found: Sequence[PublishedRow]) -> dict[str, None]:
    return dict.fromkeys(figure.source for row in found for figure in row.figures)


def _of(figures: Sequence[PublishedFigure], name: str) -> list[PublishedFigure]:
    return [figure for figure in figures if figure.dataset == name]


def _means(results: Results, names: Sequence[str]) -> dict[str, Summary]:
    """For every method, the summary over seeds of the mean over these tasks of the suite."""
    return {
        method: summarise(np.mean([results.finals[name, method] for name in names], axis=0), results.plan.confidence)
        for method in results.plan.methods
    }


def _whole(reference: Reference, families: set[str]) -> list[PublishedFigure]:
    """The mean over these families for every method and source that has a score for each; its spread is unknown."""
    found: dict[tuple[str, str], dict[str, PublishedFigure]] = {}
    for figure in reference.families:
        if figure.dataset in families:
            found.setdefault((figure.method, figure.source), {})[figure.dataset] = figure
    return [
        replace(
            next(iter(published_rows.values())),
            dataset=WHOLE[0],
            mean=round(float(np.mean([figure.mean for figure in published_rows.values()])), 1),
            spread=None,
            seeds="",
            source=f"{source}: mean over its families",
            secondary=any(figure.secondary for figure in published_rows.values()),
        )
        for (_, source), published_rows in found.items()
        if set(published_rows) == families
    ]


def _table(scope: str, found: Sequence[PublishedRow], numbers: Mapping[str, str]) -> Table:
    rows = []
    for row in found:
        here = "<br>".join(f"{method} {plus_minus(value.mean, value.std)}" for method, value in row.here.items())
        cells = [f"{row.name} {INCOMPARABLE}" if row.reason else row.name, here or "not run"]
        cells += [_cell([f for f in row.figures if f.method == method], numbers) for method in METHODS]
        best = max(row.figures, key=lambda figure: figure.mean, default=None)
        rows.append([*cells, f"{best.method} {_cell([best], numbers)}" if best else "-"])
    return Table([scope, "here", *METHODS, "best"], rows)


def _cell(figures: Sequence[PublishedFigure], numbers: Mapping[str, str]) -> str:
    """Scores with their sources, one line each."""
    return "<br>".join(f"{_number(figure)} [{numbers[figure.source]}]" for figure in figures) or "-"


def _number(figure: PublishedFigure) -> str:
    spread = "" if figure.spread is None else f" ± {figure.spread:g}"
    return f"{figure.mean:g}{spread}{SECONDARY if figure.secondary else ''}"
