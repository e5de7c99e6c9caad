"""Navigate data of OGBench's point mazes, from the shortest-path oracle that ogbench ships.

Procedure and constants are those of the published sets (arXiv 2410.20092).
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fd.datasets.collection import Episode, compact
from fd.simulation.environments import make
from fd.simulation.workers import beat

ACTION_NOISE = 0.5
ENVIRONMENTS = ("pointmaze-medium-v0", "pointmaze-large-v0", "pointmaze-giant-v0", "pointmaze-teleport-v0")

Cell = tuple[int, int]


class NavigateCollector:
    """Collects walks between random cells of one maze."""

    def __init__(self, environment: str, steps: int) -> None:
        """Make the environment.

        Args:
            environment: one of ENVIRONMENTS.
            steps: transitions of an episode.
        """
        self._env = make(environment, terminate_at_goal=False, max_episode_steps=steps + 1)
        self._maze = cast(Any, self._env.unwrapped)
        self._starts = [(int(i), int(j)) for i, j in np.argwhere(self._maze.maze_map == 0)]
        self._goals = [cell for cell in self._starts if not _in_corridor(self._maze.maze_map, cell)]

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        """Collect one episode; it has one row more than transitions."""
        global_seed, reset_seed = (int(word) for word in seed.generate_state(2))
        # The maze draws its starts and goals from numpy's global generator.
        np.random.seed(global_seed)
        ends = {"init_ij": _draw(self._starts), "goal_ij": _draw(self._goals)}
        observation, _ = self._env.reset(seed=reset_seed, options={"task_info": ends})
        names = ("observations", "actions", "terminals", "qpos", "qvel")
        rows: dict[str, list[Any]] = {name: [] for name in names}
        done = False
        while not done:
            action = self._act()
            beat()
            following, _, terminated, truncated, info = self._env.step(action)
            done = terminated or truncated
            if info["success"]:
                self._maze.set_goal(_draw(self._goals))
            row = (observation, action, done, info["prev_qpos"], info["prev_qvel"])
            for values, value in zip(rows.values(), row, strict=True):
                values.append(value)
            observation = following
        return {name: compact(values) for name, values in rows.items()}

    def _act(self) -> NDArray[Any]:
        """Unit step towards the next cell on a shortest way to the goal, with noise."""
        position = self._maze.get_xy()
        subgoal, _ = self._maze.get_oracle_subgoal(position, self._maze.cur_goal_xy)
        way = subgoal - position
        direction = way / (np.linalg.norm(way) + 1e-6)
        noise = np.random.normal(0, ACTION_NOISE, direction.shape)
        action: NDArray[Any] = np.clip(direction + noise, -1, 1)
        return action


def _draw(cells: list[Cell]) -> Cell:
    """Draw one of the cells from numpy's global generator."""
    return cells[np.random.randint(len(cells))]


def _in_corridor(maze_map: NDArray[Any], cell: Cell) -> bool:
    """Whether the cell only leads straight ahead: two opposite sides are free, the other two are walls."""
    i, j = cell
    vertical, horizontal = maze_map[i - 1, j] + maze_map[i + 1, j], maze_map[i, j - 1] + maze_map[i, j + 1]
    return bool({int(vertical), int(horizontal)} == {0, 2})
