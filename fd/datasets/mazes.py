"""Mazes of gymnasium-robotics: distances in them, and tasks with one start and one goal."""

from collections import deque
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from fd.errors import FdError
from fd.simulation.environments import make, register
from fd.wrappers import AntMazeProtocol

Cell = tuple[int, int]

SUCCESS_RADIUS = 0.45  # metres; of the environments' own sparse reward


def distances(maze_map: list[list[Any]], goal: Cell) -> dict[Cell, int]:
    """Number of moves to the goal from each cell that is connected to it, by breadth-first search."""
    found = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for i, j in neighbours(cell):
            if (i, j) not in found and maze_map[i][j] != 1:
                found[i, j] = found[cell] + 1
                queue.append((i, j))
    return found


def neighbours(cell: Cell) -> list[Cell]:
    """The four cells beside a cell; a wall encloses every maze, so none lies outside."""
    i, j = cell
    return [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]


def between(spec: EnvSpec, *, start: Cell, goal: Cell) -> EnvSpec:
    """Spec of the same maze with one start and one goal cell; episodes end at the goal.

    Raises:
        FdError: the environment is not a maze, a cell is not free, start and goal are the same, or no path joins them.
    """
    spec = deepcopy(spec)
    if "maze_map" not in spec.kwargs:
        raise FdError(f"maze: given for {spec.id}, which is not a maze, allowed: null")
    maze_map = [[1 if cell == 1 else 0 for cell in row] for row in spec.kwargs["maze_map"]]
    free = [(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell == 0]
    for key, cell in (("start", start), ("goal", goal)):
        if cell not in free:
            allowed = ", ".join(f"[{i}, {j}]" for i, j in free)
            raise FdError(f"{key}: {list(cell)} is not a free cell of {spec.id}, allowed: {allowed}")
    if start == goal or start not in distances(maze_map, goal):
        raise FdError(f"goal: {list(goal)} cannot be reached from start {list(start)} in {spec.id}")
    for (i, j), mark in ((start, "r"), (goal, "g")):
        maze_map[i][j] = mark  # type: ignore[call-overload]
    spec.kwargs |= {"maze_map": maze_map, "continuing_task": False}
    return spec


def success_radius(spec: EnvSpec) -> float:
    """Distance in metres within which the goal of a maze is reached."""
    d4rl = any(wrapper.name == AntMazeProtocol.__name__ for wrapper in spec.additional_wrappers)
    return AntMazeProtocol.GOAL_RADIUS if d4rl else SUCCESS_RADIUS


def registered(environment: str) -> EnvSpec:
    """Copy the spec of an environment of gymnasium-robotics; the registry returns its own object.

    Raises:
        FdError: there is no such environment.
    """
    register()
    try:
        return deepcopy(gymnasium.spec(environment))
    except gymnasium.error.Error:
        raise FdError(f"environment: '{environment}' does not exist in gymnasium-robotics") from None


def goal_of(spec: EnvSpec) -> NDArray[np.float64]:
    """Return the centre of the one goal cell of a maze."""
    env = make(spec)
    unwrapped: Any = env.unwrapped
    (goal,) = unwrapped.maze.unique_goal_locations
    env.close()
    return np.asarray(goal)
