"""The figure of the pretrained flows: loss and condition number over pretraining, and standard deviations along the axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fd.report.figures import LEGEND_ROW, PER_ROW, STEP, log_scale, title
from fd.report.style import COLOURS, DARK, WIDTH
from fd.results.flow_shape import FlowShape, Quantiles
from fd.results.statistics import Floats

HEIGHTS = (1.25, 1.25, 1.1)  # of the rows of a block of tasks, in inches
COLOUR = {  # by form of the matrix
    "state": COLOURS[3],
    "state desmoothed": COLOURS[3],
    "local": COLOURS[2],
    "local desmoothed": COLOURS[2],
    "within modes": COLOURS[1],
}
LOCAL = ("local", "local desmoothed", "within modes")
NOTHING = (math.nan, math.nan, math.nan)


def behaviour(shapes: Mapping[str, FlowShape]) -> Figure:
    """Three panels a task, below each other: loss, condition number of the curvature, and standard deviations of every matrix."""
    columns = min(len(shapes), PER_ROW)
    blocks = math.ceil(len(shapes) / columns)
    width = WIDTH / 2 if len(shapes) == 1 else WIDTH
    figure = Figure(figsize=(width, sum(HEIGHTS) * blocks + 2 * LEGEND_ROW), layout="constrained")
    axes = figure.subplots(3 * blocks, columns, squeeze=False, height_ratios=HEIGHTS * blocks)
    for index, (name, shape) in enumerate(shapes.items()):
        block, column = divmod(index, columns)
        above, middle, below = axes[3 * block : 3 * block + 3, column]
        steps = np.array(shape.steps) / 1000
        _loss(above, shape, steps)
        _conditions(middle, shape, steps)
        _widths(below, shape)
        title(above, name, shapes)
        if column == 0:
            above.set_ylabel("loss")
            middle.set_ylabel("condition\nnumber k")
        below.set_yticks(range(len(COLOUR)), list(COLOUR) if column == 0 else [])
    for axis in axes.flat:
        axis.set_visible(bool(axis.has_data()))
    lines = [Line2D([], [], **_look(form), label=form) for form in LOCAL]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines))
    figure.align_ylabels()
    return figure


def _loss(axis: Axes, shape: FlowShape, steps: Floats) -> None:
    mean, error = np.array(shape.loss.means).mean(axis=1), 2 * np.array(shape.loss.errors)
    axis.fill_between(steps, mean - error, mean + error, color=DARK, alpha=0.15, linewidth=0)
    axis.plot(steps, mean, color=DARK, marker="o", markersize=2.5, markeredgewidth=0)
    axis.margins(x=0.03)
    axis.tick_params(axis="x", labelbottom=False)


def _conditions(axis: Axes, shape: FlowShape, steps: Floats) -> None:
    for form in LOCAL:
        low, median, high = np.array([at.get(form, NOTHING) for at in shape.conditions]).T
        if form == LOCAL[-1]:
            axis.fill_between(steps, low, high, color=COLOUR[form], alpha=0.15, linewidth=0)
        axis.plot(steps, median, **_look(form), marker="o", markersize=2.5, markeredgewidth=0)
    log_scale(axis, span=30)
    axis.set_ylim(bottom=1)
    axis.margins(x=0.03)
    axis.set_xlabel(STEP)


def _widths(axis: Axes, shape: FlowShape) -> None:
    for place, form in enumerate(COLOUR):
        if form in shape.spectra:
            found = shape.spectra[form]
            _bar(axis, place - 0.15, found.narrowest, COLOUR[form], "<")
            _bar(axis, place + 0.15, found.widest, COLOUR[form], ">")
    kernel = (1 - shape.sample.time) / shape.sample.time
    axis.axvline(kernel, color=DARK, linewidth=0.8, linestyle=":")
    axis.set(ylim=(len(COLOUR) - 0.5, -0.5), xlabel="standard deviation")
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x")


def _bar(axis: Axes, place: float, found: Quantiles, colour: str, marker: str) -> None:
    low, median, high = found
    axis.plot([low, high], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
    axis.plot(median, place, color=colour, marker=marker, markersize=4, markeredgewidth=0)


def _look(form: str) -> dict[str, Any]:
    """Colour and line style of a form: dashed where the path smooths."""
    return {"color": COLOUR[form], "linestyle": "--" if form in ("state", "local") else "-"}
