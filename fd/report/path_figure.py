"""The figure of the paths of evaluated episodes over the map of their maze."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from fd.report.figures import LEGEND_ROW, PER_ROW, TITLE
from fd.report.style import BACKGROUND, COLOURS, DARK, WIDTH
from fd.results.films import Film, Films, Maze, Walk

LOOKS = {True: (COLOURS[2], "-", "success"), False: (COLOURS[3], (0, (3, 1)), "failure")}
START, GOAL = ("o", "start"), ("*", "goal")
PANEL = 1.85  # inches, height of a panel with its title


def paths(films: Films) -> Figure:
    """A panel for each method on each task in a maze: failures below, successes above."""
    panels = {
        (task, method): film for task, of_task in films.items() for method, film in of_task.items() if film.record.maze
    }
    if not panels:
        figure = Figure(figsize=(WIDTH, 0.5))
        figure.text(0.5, 0.5, "no episodes in a maze were replayed", ha="center", va="center")
        return figure
    columns = min(PER_ROW, len(panels))
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
    lines = [Line2D([], [], color=colour, linestyle=line, label=text) for colour, line, text in LOOKS.values()]
    lines += [
        Line2D([], [], color=DARK, marker=mark, linestyle="", markeredgewidth=0, label=text)
        for mark, text in (START, GOAL)
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines) if columns > 2 else 2)
    return figure


def reached(film: Film) -> int:
    """Number of episodes that succeed."""
    return sum(walk.success for walk in film.record.paths)


def _panel(axis: Axes, film: Film) -> None:
    assert film.record.maze is not None
    _walls(axis, film.record.maze)
    for success in (False, True):
        colour, line, _ = LOOKS[success]
        some = [walk for walk in film.record.paths if walk.success == success]
        axis.plot(*_joined(some), color=colour, linestyle=line, linewidth=0.7, alpha=0.7)
    for (mark, _), places in (
        (START, [w.points[0] for w in film.record.paths]),
        (GOAL, [w.goal for w in film.record.paths]),
    ):
        axis.plot(*zip(*sorted(set(places)), strict=True), mark, color=DARK, markersize=4, markeredgewidth=0, alpha=0.7)
    axis.set_xlabel(f"{reached(film)} of {len(film.record.paths)}")
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)


def _walls(axis: Axes, maze: Maze) -> None:
    first, width = np.array(maze.first), np.array(maze.next) - np.array(maze.first)
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    cells = [(j, i) for i, row in enumerate(maze.walls) for j, wall in enumerate(row) if wall]
    squares = [Path(first + (np.array(cell) + corners) * width, closed=True) for cell in cells]
    axis.add_patch(PathPatch(Path.make_compound_path(*squares), facecolor=BACKGROUND, edgecolor="none"))


def _joined(walks: Sequence[Walk]) -> tuple[list[float], list[float]]:
    """x and y of all paths as one line, with gaps."""
    points = [point for walk in walks for point in (*walk.points, (math.nan, math.nan))]
    return [x for x, _ in points], [y for _, y in points]
