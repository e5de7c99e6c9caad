"""The estimates that the tables and figures of a report share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fd.errors import FdError
from fd.results.episode_scores import EvaluatedCell, Evaluations, read_episodes
from fd.results.grid import Grid
from fd.results.statistics import Aggregate, Floats, Summary, aggregate, summarise

AGGREGATE = "aggregate"  # its key beside the tasks in metrics.json


@dataclass(frozen=True)
class Results:
    """Evaluations and estimates of every cell (task, method) of the plan, and every method's aggregate."""

    plan: Grid
    evaluations: dict[tuple[str, str], Evaluations]
    finals: dict[tuple[str, str], Floats]  # score of every seed, [S]
    summaries: dict[tuple[str, str], Summary]
    aggregates: dict[str, Aggregate]

    def curve(self, task: str, method: str) -> list[tuple[int, Summary]]:
        """(step, summary over seeds) at every evaluated step of a cell."""
        evaluations = self.evaluations[task, method]
        columns = evaluations.curve().T
        steps = evaluations.cell.steps
        return [(step, summarise(column, self.plan.confidence)) for step, column in zip(steps, columns, strict=True)]


def gather_estimates(plan: Grid, folder: Path) -> Results:
    """Results of the evaluations in `folder/<task>/<method>.csv`; only cells of the plan are read.

    Raises:
        FdError: a task has the name of the aggregate, or a cell, seed, evaluation or episode is missing.
    """
    if AGGREGATE in [task.name for task in plan.tasks]:
        raise FdError(f"tasks.{AGGREGATE}: this name is reserved for the aggregate over tasks, allowed: any other")
    cells = [
        EvaluatedCell(task.name, method, plan.seeds, task.steps, task.episodes)
        for task in plan.tasks
        for method in plan.methods
    ]
    evaluations = {(cell.task, cell.method): read_episodes(folder, cell) for cell in cells}
    last = {task.name: task.final_evaluations for task in plan.tasks}
    finals = {key: value.final(last[key[0]]) for key, value in evaluations.items()}
    summaries = {key: summarise(value, plan.confidence) for key, value in finals.items()}
    aggregates = {}
    for method in plan.methods:
        scores = np.stack([finals[task.name, method] for task in plan.tasks], axis=1)  # [S, T]
        aggregates[method] = aggregate(scores, plan.confidence, repetitions=plan.bootstrap, seed=plan.bootstrap_seed)
    return Results(plan, evaluations, finals, summaries, aggregates)


def leaders(intervals: dict[str, tuple[float, float, float]]) -> set[str]:
    """Methods with the highest estimate, and methods whose interval overlaps that of the highest.

    `intervals` is {method: (estimate, low, high)}; without intervals (nan, a single seed) only the highest
    estimates count.
    """
    best = max(estimate for estimate, _, _ in intervals.values())
    floor = max((low for estimate, low, _ in intervals.values() if estimate == best), default=np.nan)
    return {method for method, (estimate, _, high) in intervals.items() if estimate == best or high >= floor}
