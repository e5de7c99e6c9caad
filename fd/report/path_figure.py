"""The figure of the paths of evaluated episodes over the map of their maze."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from fd.report.figures import LEGEND_ROW, PER_ROW, TITLE
from fd.report.style import BACKGROUND, COLOURS, DARK, WIDTH
from fd.results.films import Film, Films, Maze, Point, Walk

LOOKS: dict[bool, dict[str, Any]] = {  # of failures, drawn first, and successes
    False: {"color": COLOURS[3], "marker": "x", "label": "failure and its end"},
    True: {"color": COLOURS[2], "marker": "", "label": "success"},
}
MARK: dict[str, Any] = {"color": DARK, "linestyle": "", "markeredgewidth": 0}
START, GOAL = (
    MARK | {"marker": "o", "markersize": 4, "label": "start"},
    MARK | {"marker": "*", "markersize": 7, "label": "goal"},
)
PANEL = 1.95  # inches, height of a panel with its title


def paths(films: Films) -> Figure:
    """A panel for each method on each task in a maze: failures below, successes above."""
    panels = {
        (task, method): film for task, of_task in films.items() for method, film in of_task.items() if film.record.maze
    }
    if not panels:
        figure = Figure(figsize=(WIDTH, 0.5))
        figure.text(0.5, 0.5, "no episodes in a maze were replayed", ha="center", va="center")
        return figure
    columns = min(PER_ROW, max(sum(name == task for name, _ in panels) for task, _ in panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH * columns / PER_ROW, PANEL * rows + LEGEND_ROW), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    tasks = {task for task, _ in panels}
    for axis, ((task, method), film) in zip(axes, panels.items(), strict=False):
        _panel(axis, film)
        title = method if len(tasks) == 1 else f"{task}\n{method}"
        size = float(axis.title.get_fontsize()) * min(1, TITLE / max(map(len, title.split("\n"))))
        axis.set_title(title, fontsize=size, parse_math=False)
    for axis in axes[len(panels) :]:
        axis.remove()
    lines = [Line2D([], [], **look, markersize=4) for look in reversed(LOOKS.values())]
    lines += [Line2D([], [], **mark) for mark in (START, GOAL)]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines) if columns > 2 else 2)
    return figure


def reached(film: Film) -> int:
    """Number of episodes that succeed."""
    return sum(walk.success for walk in film.record.paths)


def _panel(axis: Axes, film: Film) -> None:
    assert film.record.maze is not None
    walks, maze = film.record.paths, film.record.maze
    _walls(axis, maze)
    for success, look in LOOKS.items():
        some = [walk for walk in walks if walk.success == success]
        axis.plot(*_joined(some), color=look["color"], linewidth=0.6, alpha=0.6)
        ends = [walk.points[-1] for walk in some]
        axis.plot(*_columns(ends), color=look["color"], marker=look["marker"], linestyle="", markersize=3)
    for mark, places in (START, [walk.points[0] for walk in walks]), (GOAL, [walk.goal for walk in walks]):
        axis.plot(*_columns(_centres(maze, places)), **mark)
    axis.set_xlabel(f"{reached(film)} of {len(walks)}")
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)


def _walls(axis: Axes, maze: Maze) -> None:
    first, width = np.array(maze.first), np.array(maze.next) - np.array(maze.first)
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    cells = [(j, i) for i, row in enumerate(maze.walls) for j, wall in enumerate(row) if wall]
    squares = [Path(first + (np.array(cell) + corners) * width, closed=True) for cell in cells]
    axis.add_patch(PathPatch(Path.make_compound_path(*squares), facecolor=BACKGROUND, edgecolor="none"))


def _centres(maze: Maze, places: Sequence[Point]) -> list[Point]:
    """The centres of the cells in which the places lie."""
    first, width = np.array(maze.first), np.array(maze.next) - np.array(maze.first)
    found = {tuple(np.rint((np.array(place) - first) / width)) for place in places}
    return [(float(x), float(y)) for x, y in (first + np.array(cell) * width for cell in sorted(found))]


def _joined(walks: Sequence[Walk]) -> tuple[list[float], list[float]]:
    """x and y of all paths as one line, with gaps."""
    return _columns([point for walk in walks for point in (*walk.points, (math.nan, math.nan))])


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
