"""The figure of an ablation: scores above, mean displacement of the policy below, one column per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fd.report.figures import log_scale, point, score_range
from fd.report.style import COLOURS, DARK, WIDTH, style, svg
from fd.results.estimates import Results

LOOK: dict[str, Any] = {"color": COLOURS[2], "marker": "o"}
MOVED: dict[str, Any] = {"color": COLOURS[3], "marker": "D"}
PER_ROW = 3  # tasks
LABEL = 7  # points, of the tick labels
SPAN = 100  # ratio of the displacement axis from which a decade has only one tick
# All lengths below are in inches.
CHARACTER, LINE = 0.059, 0.11  # mean width and height of the tick labels' characters
LEFT, RIGHT, GAP, TITLE = 0.7, 0.12, 0.5, 0.27
SCORE, DISPLACEMENT, BETWEEN = 1.6, 1.0, 0.12  # heights of the two panels and of the gap between them
NARROWEST, SLOT = 1.5, 0.45  # least width of a panel; width of a value if there is room
BESIDE = 0.13  # distance from a mean to its seeds if there is room


@dataclass(frozen=True)
class FigureLayout:
    """Positions of panels, in inches: as wide as their labels need; labels that do not fit on the page are turned."""

    columns: int
    rows: int
    width: float  # of a panel
    turned: bool
    labels: float  # height of the tick labels
    displacement: bool  # whether there are panels of the displacement

    @classmethod
    def of(cls, tasks: int, labels: Sequence[str], *, displacement: bool) -> FigureLayout:
        """The layout for a number of tasks and the labels of the values."""
        columns = min(tasks, PER_ROW)
        longest = CHARACTER * max(map(len, labels))
        room = (WIDTH - LEFT - RIGHT - GAP * (columns - 1)) / columns
        turned = (longest + CHARACTER) * len(labels) > room
        slot = SLOT if turned else max(SLOT, longest + CHARACTER)
        width = min(room, max(NARROWEST, slot * len(labels)))
        height = (longest + LINE) / math.sqrt(2) if turned else LINE
        return cls(columns, math.ceil(tasks / columns), width, turned, height + 0.12, displacement)

    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return LEFT + RIGHT + self.columns * (self.width + GAP) - GAP, self.rows * self._block()

    def boxes(self, index: int) -> list[tuple[float, float, float, float]]:
        """(left, bottom, width, height) of the panels of a task, as fractions of the figure; the upper panel first."""
        width, height = self.size()
        row, column = divmod(index, self.columns)
        left, top = LEFT + column * (self.width + GAP), height - row * self._block() - TITLE
        boxes = [(left, top - SCORE, self.width, SCORE)]
        if self.displacement:
            boxes.append((left, top - SCORE - BETWEEN - DISPLACEMENT, self.width, DISPLACEMENT))
        return [(x / width, y / height, w / width, h / height) for x, y, w, h in boxes]

    def _block(self) -> float:
        below = BETWEEN + DISPLACEMENT if self.displacement else 0.0
        return TITLE + SCORE + below + self.labels


def render_ablation_figure(
    results: Results, values: Sequence[tuple[str, str]], moved: Mapping[tuple[str, str], float]
) -> str:
    """The figure as SVG.

    Args:
        results: scores of the methods.
        values: (label, method), in the order of the x axis.
        moved: mean delta^2 by (task, method), for the methods that have one.
    """
    with style():
        return svg(_figure(results, values, moved))


def _figure(results: Results, values: Sequence[tuple[str, str]], moved: Mapping[tuple[str, str], float]) -> Figure:
    tasks, labels = [task.name for task in results.plan.tasks], [label for label, _ in values]
    layout = FigureLayout.of(len(tasks), labels, displacement=bool(moved))
    figure = Figure(figsize=layout.size())
    for index, task in enumerate(tasks):
        panels = [figure.add_axes(box) for box in layout.boxes(index)]
        _scores(panels[0], results, task, values, beside=min(0.24, BESIDE * len(values) / layout.width))
        panels[0].set_title(task)
        if moved:
            _displacement(panels[1], [moved.get((task, method), math.nan) for _, method in values])
        for panel, name in zip(panels, ("score (%)", "mean δ²"), strict=False):
            panel.set_xlim(-0.6, len(values) - 0.4)
            panel.set_xticks(range(len(values)), [])
            panel.tick_params(labelsize=LABEL)
            if index % layout.columns == 0:
                panel.set_ylabel(name)
                panel.yaxis.set_label_coords(-0.54 / layout.width, 0.5)
        _name_values(panels[-1], labels, layout)
    return figure


def _scores(panel: Axes, results: Results, task: str, values: Sequence[tuple[str, str]], *, beside: float) -> None:
    """Draws mean and interval of every value, and its seeds at the distance `beside`."""
    low, high = score_range(results, task)
    for place, (_, method) in enumerate(values):
        summary = results.summaries[task, method]
        point(panel, place, (summary.mean, *np.clip((summary.low, summary.high), low, high)), LOOK)
        seeds = results.finals[task, method]
        spots = place + beside + 0.25 * beside * (np.arange(len(seeds)) % 3 - 1)
        panel.plot(spots, seeds, "o", color=DARK, markersize=2, markeredgewidth=0, alpha=0.55, clip_on=False)
    panel.set_ylim(low, high)
    if (low, high) == (0, 100):
        panel.set_yticks(range(0, 101, 20))


def _displacement(panel: Axes, moved: Sequence[float]) -> None:
    """Draws mean delta^2 of every value, nan if it has none; the axis spans at least a decade."""
    shown = [value for value in moved if value > 0]
    if shown:
        margin = max(1.6, math.sqrt(10 * min(shown) / max(shown)))
        panel.set_ylim(min(shown) / margin, max(shown) * margin)
    for place, value in enumerate(moved):
        point(panel, place, (value, math.nan, math.nan), MOVED)
    log_scale(panel, span=SPAN)


def _name_values(panel: Axes, labels: Sequence[str], layout: FigureLayout) -> None:
    panel.set_xticks(range(len(labels)), labels, parse_math=False)
    if layout.turned:
        for text in panel.get_xticklabels():
            text.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
