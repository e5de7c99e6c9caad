"""The section of a report about the constraint: was the penalty at its budget while the policy was trained?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fd.report.table import Table
from fd.report.text import significant
from fd.results.estimates import Results
from fd.results.training_log import TENTHS, TrainingLog

FROM = 0.2  # share of training from which on the penalty should be at its budget


@dataclass(frozen=True)
class ConstraintSection:
    """Budget, penalty, displacement and multiplier at the end of training, for methods with a penalty.

    `above` and `below` name the cells whose constraint was not active in time: because the penalty was not near its
    budget, or because it ended below it.
    """

    NEAR: ClassVar = 0.1  # a penalty within this share of its budget is at it
    FAR: ClassVar = 1.2  # penalty / budget that is marked
    MOVING: ClassVar = 0.2  # relative change of the multiplier between the last two tenths that is marked

    table: Table
    above: list[str]
    below: list[str]


def constraint_section(results: Results, training: Mapping[tuple[str, str], TrainingLog]) -> ConstraintSection | None:
    """Values of the template constraint_section.md.jinja; None if no method has a penalty."""
    if not results.plan.constrained:
        return None
    above, below = list[str](), list[str]()
    for (task, method), budget in results.plan.budgets.items():
        log = training[task, method]
        start = held_from(log, budget)
        if start is None or start > FROM:
            low = start is None and log.end()["penalty"] < (1 - ConstraintSection.NEAR) * budget
            (below if low else above).append(f"{method} on {task}")
    return ConstraintSection(_table(results, training), above, below)


def held_from(log: TrainingLog, budget: float) -> float | None:
    """Share of training after which the mean penalty of every tenth of training is within NEAR of the budget; None if never."""
    near = ConstraintSection.NEAR
    off = [tenth for tenth, penalty in log.tenths("penalty").items() if not abs(penalty / budget - 1) <= near]
    return None if TENTHS in off else max(off, default=0) / TENTHS


def moving(log: TrainingLog) -> bool:
    """Whether the mean multiplier changes by more than MOVING between the last two tenths of training."""
    *_, before, last = [math.nan, *log.tenths("dual").values()]
    return abs(last / before - 1) > ConstraintSection.MOVING


def _table(results: Results, training: Mapping[tuple[str, str], TrainingLog]) -> Table:
    head = ["task", "method", "budget", "penalty", "penalty / budget", "within 10 % from", "mean δ²", "multiplier"]
    rows = []
    for task in results.plan.tasks:
        for method in results.plan.constrained:
            log, budget = training[task.name, method], results.plan.budgets.get((task.name, method), math.nan)
            end, start = log.end(), held_from(log, budget)
            ratio = end["penalty"] / budget
            held = "" if math.isnan(budget) else "never" if start is None else f"{start:.0%}"
            marked = ratio > ConstraintSection.FAR
            cells = [_number(budget), _number(end["penalty"]), _number(ratio, marked=marked), held]
            rows.append([task.name, method, *cells, _number(end["delta2"]), _number(end["dual"], marked=moving(log))])
    return Table(head, rows, "llr")


def _number(value: float, *, marked: bool = False) -> str:
    text = significant(value, 3)
    return f"**{text}**" if marked and text else text
