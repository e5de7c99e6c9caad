"""Figures of the report. A method has the same colour, marker and line style in all figures, given by its place in params.yaml.

If there are more methods than colours, each method has its own panel in the curves, each task starts a row of them, and all
methods look the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fd.report.style import BACKGROUND, COLOURS, DARK, WIDTH
from fd.results.estimates import Results
from fd.results.grid import Grid, GridTask
from fd.results.statistics import Summary
from fd.results.training_log import TrainingLog

MARKERS = ("o", "s", "^", "D", "v", "<", "X")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))
ALONE: dict[str, Any] = {"color": COLOURS[2], "marker": "o"}
PER_ROW = 4
FEW = 6  # methods that a panel of half the width has room for
# Lengths in inches.
CURVE, CURVE_OF_ONE, PAIR, PAIR_OF_ONE = 1.75, 1.05, 3.3, 1.9  # heights of panels, and of pairs of panels
NAME, ROUND_NAMES = 0.17, 0.55  # heights of a row of `scores`, and of the margins above and below the rows
LEGEND_ROW = 0.17
STEP = "step (thousands)"
TITLE = 20  # characters of a panel's title that fit at full size

Group = tuple[GridTask, Sequence[str]]  # the task and the methods of a panel


def appearance(plan: Grid, method: str) -> dict[str, Any]:
    """Colour, marker and line style of a method, as arguments of matplotlib's plot."""
    place = plan.methods.index(method)
    turn = place // len(COLOURS)  # a repeated colour has a different marker and line
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
    }


def learning_curves(results: Results) -> Figure:
    """Score against training step, one panel per task: mean over seeds and the interval of that mean.

    Many methods have one panel each, with the range of all methods' means in grey behind.
    """
    plan = results.plan
    groups = _groups(plan, plan.methods)
    figure, panels = _grid(plan, len(groups), height=CURVE_OF_ONE if plan.many else CURVE)
    # [evaluated steps, (mean, low, high)] by task and method
    curves = {
        (task.name, method): np.array(
            [(spot.mean, spot.low, spot.high) for _, spot in results.curve(task.name, method)]
        )
        for task in plan.tasks
        for method in plan.methods
    }
    for index, (panel, (task, methods)) in enumerate(zip(panels, groups, strict=True)):
        if not methods:
            panel.remove()
            continue
        low, high = score_range(results, task.name)
        steps = np.array(task.steps) / 1000
        if plan.many:
            means = np.array([curves[task.name, name][:, 0] for name in plan.methods])
            panel.fill_between(steps, means.min(axis=0), means.max(axis=0), color=BACKGROUND, linewidth=0)
        for method in methods:
            curve = curves[task.name, method]
            band = np.clip(curve[:, 1:], low, high)
            look = _look(plan, method)
            panel.fill_between(steps, band[:, 0], band[:, 1], color=look["color"], alpha=0.13, linewidth=0)
            panel.plot(steps, curve[:, 0], **look, markersize=3, markeredgewidth=0, clip_on=False, zorder=3)
        panel.set(ylim=(low, high))
        _title(plan, panel, groups, index)
        panel.margins(x=0.03)
    _label(panels, "score (%)")
    figure.supxlabel(STEP, size="medium")
    if not plan.many:
        _legend(figure, plan, plan.methods)
    return figure


def scores(results: Results) -> Figure:
    """Final score of every method, one panel per task: mean, interval, seeds; several tasks have one more for the aggregate."""
    plan = results.plan
    several = len(plan.tasks) > 1
    figure, panels = _grid(plan, len(plan.tasks) + several, height=NAME * len(plan.methods) + ROUND_NAMES)
    for panel, task in zip(panels, plan.tasks, strict=False):
        low, high = score_range(results, task.name)
        for place, method in enumerate(plan.methods):
            summary = results.summaries[task.name, method]
            estimate = summary.mean, *np.clip((summary.low, summary.high), low, high)
            point(panel, place, estimate, _look(plan, method), lying=True)
            seeds = results.finals[task.name, method]
            spots = np.full(len(seeds), place + 0.32)
            panel.plot(seeds, spots, "o", color=DARK, markersize=2, markeredgewidth=0, alpha=0.55, clip_on=False)
        panel.set(xlim=(low, high))
        title(panel, task.name, [one.name for one in plan.tasks])
    if several:
        for place, method in enumerate(plan.methods):
            total = results.aggregates[method]
            point(panels[-1], place, (total.iqm, total.low, total.high), _look(plan, method), lying=True)
        ends = [score_range(results, task.name) for task in plan.tasks]
        panels[-1].set(title="all tasks, IQM", xlim=(min(low for low, _ in ends), max(high for _, high in ends)))
    for index, panel in enumerate(panels):
        panel.set(ylim=(len(plan.methods) - 0.4, -0.6), xlabel="score (%)" if index + PER_ROW >= len(panels) else "")
        panel.set_yticks(range(len(plan.methods)), plan.methods if index % PER_ROW == 0 else [], parse_math=False)
        panel.tick_params(axis="y", length=0)
        panel.grid(visible=False, axis="y")
        panel.grid(visible=True, axis="x")
        if panel.get_xlim() == (0, 100):
            panel.set_xticks(range(0, 101, 25))
    return figure


def constraint(plan: Grid, training: Mapping[tuple[str, str], TrainingLog]) -> Figure:
    """Multiplier (above) and penalty with its budget (below) over training, one column per task; many methods have one each.

    Lines are means over seeds, bands their range. A budget that all methods of a column share is black; others have the
    colour of their method.
    """
    if not plan.constrained:
        figure = Figure(figsize=(WIDTH, 0.5))
        figure.text(0.5, 0.5, "no method of this suite has a constraint", ha="center", va="center")
        return figure
    groups = _groups(plan, plan.constrained)
    columns = min(len(groups), PER_ROW)
    blocks = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(WIDTH, (PAIR_OF_ONE if plan.many else PAIR) * blocks + 0.35), layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for index, (task, methods) in enumerate(groups):
        block, column = divmod(index, columns)
        above, below = axes[2 * block, column], axes[2 * block + 1, column]
        if methods:
            _constraint(plan, task, methods, training, (above, below))
            _title(plan, above, groups, index)
        if column == 0:
            above.set_ylabel("multiplier λ")
            below.set_ylabel("penalty c")
    for axis in axes.flat:
        axis.set_visible(bool(axis.has_data()))
    figure.supxlabel(STEP, size="medium")
    budget = [Line2D([], [], color=DARK, linewidth=0.9, linestyle="--", label="budget")] if plan.budgets else []
    _legend(figure, plan, [] if plan.many else plan.constrained, marked=False, extra=budget)
    figure.align_ylabels()
    return figure


def _look(plan: Grid, method: str) -> dict[str, Any]:
    return ALONE if plan.many else appearance(plan, method)


def _groups(plan: Grid, methods: Sequence[str]) -> list[Group]:
    """Task and methods of each panel: all methods, or one if there are many; then none in the panels left of a task's last row."""
    alone = (*zip(methods), *[()] * (-len(methods) % PER_ROW))
    return [(task, group) for task in plan.tasks for group in (alone if plan.many else (methods,))]


def title(panel: Axes, name: str, names: Iterable[str]) -> None:
    """Title a panel, in type of a size at which the longest of `names`, the titles of the figure, would not overlap the next."""
    size = float(panel.title.get_fontsize())
    panel.set_title(name, fontsize=size * min(1, TITLE / max(map(len, names))), parse_math=False)


def _title(plan: Grid, panel: Axes, groups: Sequence[Group], index: int) -> None:
    """Title a panel with its task, or with its one method; then the first panel of each of several tasks has the task above."""
    task, methods = groups[index]
    if not plan.many:
        title(panel, task.name, [one.name for one in plan.tasks])
        return
    title(panel, methods[0], plan.methods)
    if groups[index - 1][0] is not task:
        panel.set_title(f"{task.name}\n", loc="left", fontweight="bold", parse_math=False)


def _constraint(
    plan: Grid,
    task: GridTask,
    methods: Sequence[str],
    training: Mapping[tuple[str, str], TrainingLog],
    pair: tuple[Axes, Axes],
) -> None:
    for axis, column in zip(pair, ("dual", "penalty"), strict=True):
        for method in methods:
            band = training[task.name, method].band(column)
            look = _look(plan, method) | {"marker": ""}
            axis.fill_between(
                band["step"] / 1000, band["low"], band["high"], color=look["color"], alpha=0.2, linewidth=0
            )
            axis.plot(band["step"] / 1000, band["mean"], **look, linewidth=1)
        log_scale(axis)
        axis.margins(x=0.02)
    pair[0].tick_params(axis="x", labelbottom=False)
    budgets = {method: plan.budgets[task.name, method] for method in methods if (task.name, method) in plan.budgets}
    for method, budget in budgets.items():
        colour = DARK if len(set(budgets.values())) == 1 else appearance(plan, method)["color"]
        pair[1].axhline(budget, color=colour, linewidth=0.9, linestyle="--")


def _grid(plan: Grid, count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of this height in inches, at most four per row; a single panel of few methods has half the width."""
    columns = min(count, PER_ROW)
    rows = math.ceil(count / columns)
    width = WIDTH / 2 if count == 1 and len(plan.methods) <= FEW else WIDTH
    figure = Figure(figsize=(width, rows * height + 0.35), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def score_ranges(results: Results) -> dict[str, tuple[float, float]]:
    """Ends of the axis of scores, by task."""
    return {task.name: score_range(results, task.name) for task in results.plan.tasks}


def score_range(results: Results, task: str) -> tuple[float, float]:
    """0 to 100, wider if scores of a task lie outside, as normalised returns can."""
    values = np.concatenate([results.evaluations[task, method].curve().ravel() for method in results.plan.methods])
    return min(0.0, float(values.min())), max(100.0, float(values.max()))


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


def point(
    panel: Axes, place: int, estimate: tuple[float, float, float], look: dict[str, Any], *, lying: bool = False
) -> None:
    """Draw an estimate (value, low, high) at a place of the x axis, or of the y axis if `lying`; without an interval (nan), no bar."""
    value, low, high = estimate
    colour = look["color"]
    if not math.isnan(low):
        bar = ([low, high], [place, place]) if lying else ([place, place], [low, high])
        panel.plot(*bar, color=colour, linewidth=1.6, solid_capstyle="butt", clip_on=False)
    spot = (value, place) if lying else (place, value)
    panel.plot(*spot, color=colour, marker=look["marker"], markersize=5, markeredgewidth=0, clip_on=False)


def log_scale(axis: Axes, span: float = 300) -> None:
    """Logarithmic y axis with plain numbers: at 1, 2 and 5 of each decade, or only at 1 if the axis spans the ratio `span`.

    It spans at least the ratio 5, so that two of these numbers are on it.
    """
    axis.set_yscale("log", nonpositive="mask")
    low, high = axis.get_ylim()
    widen = max(1, math.sqrt(5 * low / high))
    low, high = low / widen, high * widen
    axis.set_ylim(low, high)
    subs = (1.0, 2.0, 5.0) if high / low < span else (1.0,)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _label(panels: Sequence[Axes], y: str) -> None:
    for index, panel in enumerate(panels):
        if index % PER_ROW == 0:
            panel.set_ylabel(y)
        if panel.get_ylim() == (0, 100):
            panel.set_yticks(range(0, 101, 20))
        if index % PER_ROW and panel.get_ylim() == panels[index - index % PER_ROW].get_ylim():
            panel.tick_params(labelleft=False)


def _legend(
    figure: Figure, plan: Grid, methods: Sequence[str], *, marked: bool = True, extra: Sequence[Line2D] = ()
) -> None:
    lines = [Line2D([], [], **appearance(plan, method), markeredgewidth=0, label=method) for method in methods]
    for line in lines:
        line.set_markersize(4 if marked else 0)
    lines += extra
    letters = 90 * figure.get_figwidth() / WIDTH
    columns = max(1, int(letters // (max((len(str(line.get_label())) for line in lines), default=0) + 8)))  # that fit
    rows = math.ceil(len(lines) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))  # figures have room for two
    figure.legend(handles=lines, loc="outside upper center", ncols=columns)
