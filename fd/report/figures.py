"""Figures of the report. A method has one colour, marker and line style in all of them, given by its place in params.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fd.report.plan import Plan, Task
from fd.report.results import Results
from fd.report.style import COLOURS, DARK, WIDTH
from fd.report.training import Training

MARKERS = ("o", "s", "^", "D", "v", "<", "X")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))
PER_ROW = 4
FEW = 6  # methods that a panel of half the width has room for
LEGEND_ROW = 0.17  # inches
TITLE = 20  # characters above a panel in the full size


def appearance(plan: Plan, method: str) -> dict[str, Any]:
    """Colour, marker and line style of a method, as arguments of matplotlib's plot."""
    place = plan.methods.index(method)
    turn = place // len(COLOURS)  # a colour that comes again has another marker and line
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
    }


def learning_curves(results: Results) -> Figure:
    """Score against training step, a panel a task: mean over seeds and the interval of that mean."""
    plan = results.plan
    figure, panels = _grid(plan, len(plan.tasks), height=1.75)
    for panel, task in zip(panels, plan.tasks, strict=True):
        low, high = score_range(results, task.name)
        for method in plan.methods:
            curve = results.curve(task.name, method)
            steps = np.array([step for step, _ in curve]) / 1000
            band = np.clip([[point.low, point.high] for _, point in curve], low, high)
            look = appearance(plan, method)
            panel.fill_between(steps, band[:, 0], band[:, 1], color=look["color"], alpha=0.13, linewidth=0)
            means = [point.mean for _, point in curve]
            panel.plot(steps, means, **look, markersize=3, markeredgewidth=0, clip_on=False, zorder=3)
        panel.set(ylim=(low, high))
        _title(panel, task)
        panel.margins(x=0.03)
    _label(panels, "step (thousands)", "score (%)")
    _legend(figure, plan, plan.methods)
    return figure


def scores(results: Results) -> Figure:
    """Final score of every method, a panel a task: mean, interval, seeds; after several tasks one more: the aggregate."""
    plan = results.plan
    several = len(plan.tasks) > 1
    figure, panels = _grid(plan, len(plan.tasks) + several, height=1.9)
    for panel, task in zip(panels, plan.tasks, strict=False):
        low, high = score_range(results, task.name)
        for place, method in enumerate(plan.methods):
            summary = results.summaries[task.name, method]
            point(
                panel,
                place,
                (summary.mean, *np.clip((summary.low, summary.high), low, high)),
                appearance(plan, method),
            )
            seeds = results.finals[task.name, method]
            spots = place + 0.28 + 0.06 * (np.arange(len(seeds)) % 3 - 1)
            panel.plot(spots, seeds, "o", color=DARK, markersize=2, markeredgewidth=0, alpha=0.55, clip_on=False)
        panel.set(ylim=(low, high))
        _title(panel, task)
    if several:
        for place, method in enumerate(plan.methods):
            total = results.aggregates[method]
            point(panels[-1], place, (total.iqm, total.low, total.high), appearance(plan, method))
        tops = [score_range(results, task.name) for task in plan.tasks]
        panels[-1].set(title="all tasks, IQM", ylim=(min(low for low, _ in tops), max(high for _, high in tops)))
    for panel in panels:
        panel.set_xlim(-0.5, len(plan.methods) - 0.4)
        panel.set_xticks([])
    _label(panels, "", "score (%)")
    _legend(figure, plan, plan.methods)
    return figure


def constraint(plan: Plan, training: Mapping[tuple[str, str], Training]) -> Figure:
    """Multiplier (above) and penalty with its budget (below) over training, a column a task.

    Lines are means over seeds, bands their range. A budget that all methods of a task share is black, others have the
    colour of their method.
    """
    if not plan.constrained:
        figure = Figure(figsize=(WIDTH, 0.5))
        figure.text(0.5, 0.5, "no method of this suite has a constraint", ha="center", va="center")
        return figure
    count = len(plan.tasks)
    columns = min(count, PER_ROW)
    blocks = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, 3.3 * blocks + 0.35), layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for index, task in enumerate(plan.tasks):
        block, column = divmod(index, columns)
        above, below = axes[2 * block, column], axes[2 * block + 1, column]
        _constraint(plan, task, training, (above, below))
        below.set_xlabel("step (thousands)")
        if column == 0:
            above.set_ylabel("multiplier λ")
            below.set_ylabel("penalty c")
    for axis in axes.flat:
        axis.set_visible(bool(axis.has_data()))
    budget = [Line2D([], [], color=DARK, linewidth=0.9, linestyle="--", label="budget")] if plan.budgets else []
    _legend(figure, plan, plan.constrained, marked=False, extra=budget)
    figure.align_ylabels()
    return figure


def _title(panel: Axes, task: Task) -> None:
    """Name of the task above its panel, smaller where it would run into its neighbour's."""
    size = float(panel.title.get_fontsize())
    panel.set_title(task.name, fontsize=size * min(1, TITLE / len(task.name)))


def _constraint(plan: Plan, task: Task, training: Mapping[tuple[str, str], Training], pair: tuple[Axes, Axes]) -> None:
    for axis, column in zip(pair, ("dual", "penalty"), strict=True):
        for method in plan.constrained:
            band = training[task.name, method].band(column)
            look = appearance(plan, method) | {"marker": ""}
            axis.fill_between(
                band["step"] / 1000, band["low"], band["high"], color=look["color"], alpha=0.2, linewidth=0
            )
            axis.plot(band["step"] / 1000, band["mean"], **look, linewidth=1)
        log_scale(axis)
        axis.margins(x=0.02)
    _title(pair[0], task)
    pair[0].tick_params(axis="x", labelbottom=False)
    budgets = {
        method: plan.budgets[task.name, method] for method in plan.constrained if (task.name, method) in plan.budgets
    }
    for method, budget in budgets.items():
        colour = DARK if len(set(budgets.values())) == 1 else appearance(plan, method)["color"]
        pair[1].axhline(budget, color=colour, linewidth=0.9, linestyle="--")


def _grid(plan: Plan, count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of that height in inches, at most four a row; one with few methods has half the width."""
    columns = min(count, PER_ROW)
    rows = math.ceil(count / columns)
    width = WIDTH / 2 if count == 1 and len(plan.methods) <= FEW else WIDTH
    figure = Figure(figsize=(width, rows * height + 0.35), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def score_range(results: Results, task: str) -> tuple[float, float]:
    """0 to 100, or as far as the scores of a task go beyond: a normalised return can."""
    values = np.concatenate([results.evaluations[task, method].curve().ravel() for method in results.plan.methods])
    return min(0.0, float(values.min())), max(100.0, float(values.max()))


def point(panel: Axes, place: int, estimate: tuple[float, float, float], look: dict[str, Any]) -> None:
    """Draw an estimate (value, low, high) at a place of the x axis; without a bar where there is no interval (nan)."""
    value, low, high = estimate
    if not math.isnan(low):
        panel.plot(
            [place, place],
            [low, high],
            color=look["color"],
            linewidth=1.6,
            solid_capstyle="butt",
            clip_on=False,
        )
    panel.plot(
        place,
        value,
        color=look["color"],
        marker=look["marker"],
        markersize=5,
        markeredgewidth=0,
        clip_on=False,
    )


def log_scale(axis: Axes, span: float = 300) -> None:
    """Logarithmic y axis with plain numbers: at 1, 2 and 5 of each decade, at 1 alone from a span (ratio) on."""
    axis.set_yscale("log", nonpositive="mask")
    low, high = axis.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < span else (1.0,)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _label(panels: Sequence[Axes], x: str, y: str) -> None:
    for index, panel in enumerate(panels):
        panel.set_xlabel(x)
        if index % PER_ROW == 0:
            panel.set_ylabel(y)
        if panel.get_ylim() == (0, 100):
            panel.set_yticks(range(0, 101, 20))
        if index % PER_ROW and panel.get_ylim() == panels[index - index % PER_ROW].get_ylim():
            panel.tick_params(labelleft=False)


def _legend(
    figure: Figure, plan: Plan, methods: Sequence[str], *, marked: bool = True, extra: Sequence[Line2D] = ()
) -> None:
    lines = [Line2D([], [], **appearance(plan, method), markeredgewidth=0, label=method) for method in methods]
    for line in lines:
        line.set_markersize(4 if marked else 0)
    letters = 90 * figure.get_figwidth() / WIDTH
    columns = max(1, int(letters // (max(map(len, methods)) + 8)))  # as many as fit into the width
    rows = math.ceil((len(lines) + len(extra)) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))  # figures have room for two
    figure.legend(handles=[*lines, *extra], loc="outside upper center", ncols=columns)
