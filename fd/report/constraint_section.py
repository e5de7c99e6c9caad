"""The section of a report about the constraint: was the penalty at its budget while the policy was trained?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fd.report.markdown import markdown_table
from fd.report.text import significant
from fd.results.estimates import Results
from fd.results.training_log import TENTHS, TrainingLog

NEAR = 0.1  # a penalty within this share of its budget is at it
FROM = 0.2  # share of training from which on it should be
FAR = 1.2  # penalty / budget that is marked
MOVING = 0.2  # relative change of the multiplier between the last two tenths that is marked

PENALTIES = (
    "Means over seeds and the last tenth of training. A penalty is in its method's own metric, so the penalties of two"
    " methods can be different quantities. Mean δ² (averaged over the dimensions of an action) is the same quantity for"
    " all methods. A method without a budget has a fixed multiplier. Within 10 % from: the share of training after which"
    " the mean penalty of every tenth of training is within 10 % of the budget. Bold: penalty / budget above"
    f" {FAR:g}, or a multiplier that changes by more than {MOVING:.0%} between the last two tenths."
)
CURVES = (
    "Multiplier and penalty over training. Line: mean over seeds; band: their range; dashed: the budget, in the"
    " colour of its method if the methods of a panel have different budgets."
)


def constraint_section(results: Results, training: Mapping[tuple[str, str], TrainingLog]) -> list[str]:
    """Paragraphs of the section; none if no method has a penalty."""
    if not results.plan.constrained:
        return []
    return [
        "## The constraint",
        constraint_table(results, training),
        *constraint_findings(results, training),
        PENALTIES,
        "![The constraint over training](constraint.svg)",
        CURVES,
    ]


def constraint_table(results: Results, training: Mapping[tuple[str, str], TrainingLog]) -> str:
    """Budget, penalty, displacement and multiplier at the end of training, for methods with a penalty."""
    head = ["task", "method", "budget", "penalty", "penalty / budget", "within 10 % from", "mean δ²", "multiplier"]
    rows = []
    for task in results.plan.tasks:
        for method in results.plan.constrained:
            log, budget = training[task.name, method], results.plan.budgets.get((task.name, method), math.nan)
            end, start = log.end(), held_from(log, budget)
            ratio = end["penalty"] / budget
            held = "" if math.isnan(budget) else "never" if start is None else f"{start:.0%}"
            cells = [_number(budget), _number(end["penalty"]), _number(ratio, marked=ratio > FAR), held]
            rows.append([task.name, method, *cells, _number(end["delta2"]), _number(end["dual"], marked=moving(log))])
    return markdown_table(head, rows, "llr")


def constraint_findings(results: Results, training: Mapping[tuple[str, str], TrainingLog]) -> list[str]:
    """One paragraph that names the cells whose constraint was not active in time, and what to change; none if all were."""
    above, below = list[str](), list[str]()
    for (task, method), budget in results.plan.budgets.items():
        log = training[task, method]
        start = held_from(log, budget)
        if start is None or start > FROM:
            low = start is None and log.end()["penalty"] < (1 - NEAR) * budget
            (below if low else above).append(f"{method} on {task}")
    text = []
    if above:
        text.append(
            f"The constraint was not active from the first fifth of training on: {', '.join(above)}. A comparison of metrics"
            " there compares policies that were not held to their budgets; raise `train.dual_rate` or `refine.steps`."
        )
    if below:
        text.append(
            f"The penalty ended below its budget: {', '.join(below)}. The budget did not limit these policies; lower"
            " `refine.target_divergence`, or raise `train.dual_rate` if the multiplier still falls."
        )
    return text


def held_from(log: TrainingLog, budget: float) -> float | None:
    """Share of training after which the mean penalty of every tenth of training is within NEAR of the budget; None if never."""
    off = [tenth for tenth, penalty in log.tenths("penalty").items() if not abs(penalty / budget - 1) <= NEAR]
    return None if TENTHS in off else max(off, default=0) / TENTHS


def moving(log: TrainingLog) -> bool:
    """Whether the mean multiplier changes by more than MOVING between the last two tenths of training."""
    *_, before, last = [math.nan, *log.tenths("dual").values()]
    return abs(last / before - 1) > MOVING


def _number(value: float, *, marked: bool = False) -> str:
    text = significant(value, 3)
    return f"**{text}**" if marked and text else text
