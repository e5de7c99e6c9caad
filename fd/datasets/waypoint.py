"""A Minari PointMaze set, collected by a noisy waypoint controller that walks between random cells.

The controller is imperfect on purpose, so that a policy can improve on it: its gains differ from episode to episode
and its actions are noisy. The set is relabelled to one goal, and its evaluation environment has that goal and one
start.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from numpy.typing import NDArray

from fd.datasets.collection import Episode
from fd.datasets.mazes import SUCCESS_RADIUS, Cell, between, distances, goal_of, neighbours, registered
from fd.datasets.minari import write_minari
from fd.simulation.environments import make
from fd.simulation.workers import beat

# Ranges of the gains, drawn log-uniformly: action = position gain * way to go - velocity gain * velocity.
POSITION_GAIN = (1.5, 10.0)
VELOCITY_GAIN = (0.25, 1.5)


class WaypointCollector:
    """Collects walks in one maze."""

    def __init__(self, environment: str, horizon: int, action_noise: float, noise_across: float) -> None:
        """Make the environment.

        Args:
            environment: id of a PointMaze environment.
            horizon: steps of an episode.
            action_noise: standard deviation of the noise on each action, which is clipped to [-1, 1].
            noise_across: factor on the noise across the way to the next waypoint; 1: the same in every direction.
        """
        self._env = make(maze_spec(environment, horizon))
        unwrapped: Any = self._env.unwrapped
        self._maze = unwrapped.maze
        self._action_noise, self._noise_across = action_noise, noise_across
        self._ways = {goal: distances(self._maze.maze_map, goal) for goal in self._cells()}

    def _cells(self) -> list[Cell]:
        """Free cells of the maze."""
        maze_map = self._maze.maze_map
        return [(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell != 1]

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        """Collect one episode: observation [T + 1, 4] (position, velocity) and actions [T, 2]."""
        random = np.random.default_rng(seed)
        cells = list(self._ways)
        position_gain, velocity_gain = (
            np.exp(random.uniform(*np.log(bounds))) for bounds in (POSITION_GAIN, VELOCITY_GAIN)
        )
        start, goal = random.choice(len(cells), size=2, replace=False)
        row, _ = self._env.reset(seed=int(random.integers(2**31)), options={"reset_cell": np.array(cells[start])})
        observations, actions = [row["observation"]], []
        truncated = False
        while not truncated:
            position, velocity = np.split(observations[-1], 2)
            if np.linalg.norm(self._centre(cells[goal]) - position) <= SUCCESS_RADIUS:
                goal = random.choice(np.delete(np.arange(len(cells)), goal))
            way = self._waypoint(position, cells[goal]) - position
            noise = self._action_noise * random.standard_normal(2)
            along = way / max(float(np.linalg.norm(way)), 1e-9)
            noise = noise - (1 - self._noise_across) * (noise - (noise @ along) * along)
            action = position_gain * way - velocity_gain * velocity + noise
            actions.append(np.clip(action, -1, 1).astype(np.float32))
            beat()
            row, _, _, truncated, _ = self._env.step(actions[-1])
            observations.append(row["observation"])
        return {"observation": np.array(observations), "actions": np.array(actions)}

    def _centre(self, cell: Cell) -> NDArray[np.float64]:
        """Position of a cell's centre."""
        centre: NDArray[np.float64] = self._maze.cell_rowcol_to_xy(np.array(cell))
        return centre

    def _waypoint(self, position: NDArray[np.float64], goal: Cell) -> NDArray[np.float64]:
        """Centre of the next cell on a shortest path to the goal, or of the goal itself."""
        way = self._ways[goal]
        i, j = (int(index) for index in self._maze.cell_xy_to_rowcol(position))
        nearer = [cell for cell in neighbours((i, j)) if way.get(cell, np.inf) < way.get((i, j), np.inf)]
        return self._centre(nearer[0] if nearer else goal)


def maze_spec(environment: str, horizon: int) -> EnvSpec:
    """Spec of a PointMaze in which episodes end only after `horizon` steps.

    Raises:
        FdError: there is no such environment.
    """
    spec = registered(environment)
    spec.kwargs |= {"continuing_task": True, "reset_target": False}
    spec.max_episode_steps = horizon
    return spec


def waypoint_spec(environment: str, horizon: int, *, start: Cell, goal: Cell) -> EnvSpec:
    """Spec of the same maze with one start and one goal cell; episodes end at the goal.

    Raises:
        FdError: a cell is not free, start and goal are the same, or no path joins them.
    """
    spec = between(maze_spec(environment, horizon), start=start, goal=goal)
    spec.additional_wrappers = (WrapperSpec("FixedGoal", "fd.wrappers:FixedGoal", {}),)
    return spec


def write_walks(root: Path, dataset: str, episodes: list[Episode], *, collect: EnvSpec, evaluate: EnvSpec) -> None:
    """Write episodes as a Minari set, relabelled to the goal of the evaluation environment.

    Args:
        root: folder of Minari sets.
        dataset: id of the set.
        episodes: as the collector returns them.
        collect: spec of the collecting environment.
        evaluate: spec of the evaluation environment.

    Raises:
        FdError: the set cannot be written.
    """
    goal = goal_of(evaluate)
    buffers = [_relabelled(episode, goal) for episode in episodes]
    about = ("noisy waypoint controller", "waypoint", "Walks between random cells, relabelled to one goal")
    write_minari(root, dataset, buffers, about=about, collect=collect, evaluate=evaluate)


def _relabelled(episode: Episode, goal: NDArray[np.float64]) -> Any:
    """An episode in Minari's form, with the reward that its environment gives for this goal."""
    from minari.data_collector import EpisodeBuffer

    observation, steps = episode["observation"], len(episode["actions"])
    achieved = observation[:, :2]
    reached = np.linalg.norm(achieved[1:] - goal, axis=-1) <= SUCCESS_RADIUS
    return EpisodeBuffer(
        observations={
            "observation": observation,
            "achieved_goal": achieved,
            "desired_goal": np.tile(goal, (steps + 1, 1)),
        },
        actions=episode["actions"],
        rewards=reached.astype(np.float64),
        terminations=np.zeros(steps, np.bool_),
        truncations=np.arange(1, steps + 1) == steps,
    )
