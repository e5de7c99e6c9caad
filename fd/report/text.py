"""Numbers and sentences that all pages of the reports share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fd.results.grid import Grid
from fd.results.statistics import Summary


def plus_minus(mean: float, spread: float | None) -> str:
    """`20.7 ± 1.3`, or only the mean if there is no spread (None or nan)."""
    return f"{mean:.1f}" if spread is None or math.isnan(spread) else f"{mean:.1f} ± {spread:.1f}"


def significant(value: float, digits: int) -> str:
    """A number with so many significant digits, or "" if there is none (nan)."""
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def interval(low: float, high: float) -> str:
    """`[17.6, 23.9]`, or "" if there is no interval (nan)."""
    return "" if math.isnan(low) else f"[{low:.1f}, {high:.1f}]"


def percent(share: float) -> str:
    """A share in percent, `12 %`, or `under 1 %` if it would be rounded to none."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.005 else "under 1 %"


def cut(ranges: Mapping[str, tuple[float, float]], shown: Sequence[tuple[str, Summary]]) -> str:
    """`, cut at 0 and 100`: where the axes of scores cut the intervals that a figure shows; "" if they cut none.

    Args:
        ranges: ends of the axis of scores, by task.
        shown: (task, scores with the interval) of every interval in the figure.
    """
    tasks: dict[str, list[str]] = {}
    for task, (low, high) in ranges.items():
        if any(name == task and (one.low < low - 1e-6 or one.high > high + 1e-6) for name, one in shown):
            tasks.setdefault(f"{round(low, 1):g} and {round(high, 1):g}", []).append(task)
    named = len(ranges) > 1 and [*tasks] != ["0 and 100"]
    places = [f"{ends} ({', '.join(names)})" if named else ends for ends, names in tasks.items()]
    return f", cut at {'; '.join(places)}" if places else ""


def clock(seconds: float) -> str:
    """Minutes and seconds, `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def estimates(plan: Grid) -> str:
    """Sentences that define a score, its spread and its interval, for all scores of a table."""
    seeds, finals = len(plan.seeds), {task.final_evaluations for task in plan.tasks}
    over = "the last evaluation" if finals == {1} else f"the last {max(finals)} evaluations"
    if len(finals) > 1:
        over = "the last evaluations (their steps are listed in report.md)"
    if seeds == 1:
        return f"Score in percent over {over}, one seed: no spread and no interval."
    return (
        f"Score in percent: mean ± standard deviation over {seeds} seeds; a seed's score is its mean over"
        f" {over}. In brackets: the {plan.percent()} % t-interval of the mean over seeds, which may extend beyond"
        " the range of a score and has zero width if all seeds agree."
    )


def protocol(plan: Grid) -> str:
    """Episodes and steps of the evaluations: one sentence if all tasks agree, else one line per group of tasks that do."""
    tasks: dict[str, list[str]] = {}
    for task in plan.tasks:
        final = ", ".join(f"{step:,}" for step in task.final_steps)
        steps = (
            f"after each of {final} training steps" if len(task.final_steps) > 1 else f"after {final} training steps"
        )
        tasks.setdefault(f"{task.episodes} episodes per seed {steps}", []).append(task.name)
    if len(tasks) == 1:
        return f"Evaluation: {next(iter(tasks))}; no checkpoint is picked."
    each = "\n".join(f"- {', '.join(names)}: {line}" for line, names in tasks.items())
    return f"Evaluation; no checkpoint is picked:\n\n{each}"
