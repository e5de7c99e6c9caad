"""Minari sets: finding or downloading them, their evaluation environment, their conversion to flat rows.

What is known of the published sets of D4RL's tasks, and what is done about it:

- AntMaze v1 was recorded in AntMaze v4: another ant, controller and coordinates than D4RL's, so scores are not D4RL's.
- Its evaluation environment has the umaze flipped (Minari issue 304), so evaluation takes place in the environment of
  the data.
- Its rewards are those of the goal of each episode, which moves and which the 29 numbers of a state do not tell. With
  `maze` they are computed anew for the one goal that D4RL has, which is also that of evaluation. Without, they stay as
  recorded.
- Its episodes go on at the goal, are never terminated and are cut at 700 or 1000 steps, with a reward of 1 at each step
  there; D4RL has -1 a step, and success ends the bootstrap. See `convert`.
- Its reference scores are returns summed up at the goal, no shares of episodes: `score: success` reads none.
- Adroit v2 replays D4RL's actions from D4RL's first states, in episodes of up to 625 steps (hammer); D4RL's evaluation
  has 200, pen's 100: `horizon`.
- Its rewards are those of its own simulation. That of door, hammer and relocate has had a wrong sign since
  gymnasium-robotics 1.2.1 (see fd.robotics); which version recorded the sets is not known. They are kept as recorded:
  the error is 0.2 a step and metre between palm and object, beside bonuses of 10 to 100 a step. Evaluation has D4RL's.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from numpy.typing import NDArray
from packaging.requirements import Requirement

from fd.environments import FlatEnv, make, register, unit_box
from fd.errors import FdError
from fd.params import MinariData, RobotData
from fd.robotics import as_d4rl
from fd.sources.mazes import SUCCESS_RADIUS, between, goal_of, registered
from fd.transitions import Transitions, assemble, check

GOAL_MARKS = ("g", "c")  # of cells of a maze that can be goals; without any, all free cells can


def find(data: MinariData) -> Any:
    """Return a set from Minari's local folder, or download it there first; a set that is there needs no network.

    Raises:
        FdError: it is neither there nor to be had from Minari's remote, its files cannot be read or are those of
            another set, or it was made with another environment or another version of it.
    """
    register()
    import minari
    from minari.storage import get_dataset_path

    name = data.dataset
    path = get_dataset_path(name)
    if not (path / "data").exists():
        _download(name, get_dataset_path())
    try:
        dataset = minari.load_dataset(name, download=False)
    except Exception as error:  # whatever its files hold
        raise FdError(f"dataset: {path} cannot be read ({_reason(error)}); remove it to download it again") from error
    if dataset.id != name:
        raise FdError(f"dataset: {path} holds '{dataset.id}', allowed: '{name}'")
    _check_environment(dataset, data.environment)
    return dataset


def _download(name: str, root: Path) -> None:
    """Download a set, into another folder first: Minari takes what an interrupted download leaves for a whole set."""
    import minari

    part = root / ".part" / name.replace("/", "__")
    part.mkdir(parents=True, exist_ok=True)
    with FileLock(part.with_suffix(".lock")):
        if (root / name / "data").exists():  # another process was faster
            return
        try:
            with root_at(part):
                minari.download_dataset(name, force_download=True)  # goes on with what is there
                minari.load_dataset(name, download=False)
        except Exception as error:  # each remote raises exceptions of its own client
            raise FdError(
                f"dataset: '{name}' is not in {root} and cannot be downloaded ({_reason(error)}); without a network,"
                " PointMaze can be made (`source: generate`, `collector: waypoint`), D4RL's files read (`source: d4rl`)"
            ) from error
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(part / name, root / name)
        shutil.rmtree(part)


def _reason(error: Exception) -> str:
    """Class and message of an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _check_environment(dataset: Any, environment: str) -> None:
    """Raise an FdError unless the set was made with that environment, and the installed one is what it asks for."""
    spec = dataset.env_spec
    if spec is None:
        raise FdError(f"{dataset.id}: names no environment, so nothing can be evaluated on it")
    if spec.id != environment:
        raise FdError(f"environment: {environment!r}, but {dataset.id} was made with '{spec.id}'")
    # The package of the environment alone: with another mujoco a set can be used, its scores are just not the same.
    owners = packages_distributions().get(str(spec.entry_point).split(".")[0], [])
    for requirement in map(Requirement, dataset.storage.metadata.get("requirements") or []):
        if requirement.name in owners and not requirement.specifier.contains(_installed(requirement.name)):
            there = f"{requirement.name} {_installed(requirement.name)}"
            raise FdError(f"{dataset.id}: was made with {requirement}, installed is {there}")


def _installed(package: str) -> str:
    """Version of a package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def evaluation_spec(dataset: Any, data: MinariData) -> EnvSpec:
    """Return the spec of a set's evaluation environment: that of its data, whatever else the set recommends.

    Raises:
        FdError: `maze` does not fit it, or is needed, as the goal moves out of the agent's sight.
    """
    spec = deepcopy(dataset.env_spec)
    spec.entry_point, spec.additional_wrappers = registered(spec.id).entry_point, ()  # the set names those of its day
    spec.max_episode_steps = data.horizon
    if data.maze is not None:
        spec = between(spec, start=data.maze.start, goal=data.maze.goal)
        spec.additional_wrappers = (WrapperSpec("FixedGoal", "fd.environments:FixedGoal", {}),)
    elif "maze_map" in spec.kwargs:
        goals = sum(cell in GOAL_MARKS for row in spec.kwargs["maze_map"] for cell in row)
        if goals != 1 and "desired_goal" not in data.observation:
            raise FdError(
                f"maze: null, but {dataset.id} has no single goal, nor its observation, allowed: {{start: …, goal: …}}"
            )
        spec.kwargs["continuing_task"] = False
    return as_d4rl(spec)


def return_range(dataset: Any) -> list[float]:
    """Return the set's reference returns, that of a random and that of an expert policy.

    Raises:
        FdError: the set has none.
    """
    metadata = dataset.storage.metadata
    if "ref_min_score" not in metadata or "ref_max_score" not in metadata:
        raise FdError(f"{dataset.spec.dataset_id}: has no reference returns, so `return_range` is needed")
    return [float(metadata["ref_min_score"]), float(metadata["ref_max_score"])]


@contextmanager
def root_at(folder: Path) -> Iterator[None]:
    """Minari's sets are those under `folder` inside."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(folder.resolve())  # Minari measures a set's size wrongly below a relative path
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def convert(dataset: Any, data: MinariData) -> Transitions:
    """Flatten the episodes of a Minari set.

    A sparse reward is 1 where the step reached the goal; it becomes 0 there and -1 elsewhere, and ends the bootstrap
    there, as the recorded terminations are never true. `cut_at_success` leaves out the steps after the first such one.

    Raises:
        FdError: a file cannot be read, the observation is not as `observation` says, the actions are no box from -1
            to 1, a sparse reward is neither 0 nor 1, or a value is NaN.
    """
    place = dataset.spec.dataset_id
    unit_box(place, dataset.spec.action_space)
    goal = None if data.maze is None else goal_of(evaluation_spec(dataset, data))
    rows = Rows(data, place)
    for episode in _episodes(dataset):
        states = flat(place, episode.observations, data.observation)
        rewards = episode.rewards
        if goal is not None:
            rewards = (
                np.linalg.norm(flat(place, episode.observations, ("achieved_goal",))[1:] - goal, axis=-1)
                <= SUCCESS_RADIUS
            )
        rows.add(states, episode.actions, rewards, episode.terminations)
    return rows.transitions(Path(dataset.storage.data_path))


class Rows:
    """Collects episodes as flat rows."""

    def __init__(self, data: RobotData, place: str) -> None:
        """Start with none; messages name the place."""
        self._data, self._place = data, place
        self._episodes: list[dict[str, NDArray[Any]]] = []

    def add(
        self, states: NDArray[Any], actions: NDArray[Any], rewards: NDArray[Any], terminals: NDArray[Any], /
    ) -> None:
        """Add an episode of T + 1 states and T steps.

        Raises:
            FdError: a sparse reward is neither 0 nor 1.
        """
        if self._data.reward == "sparse":
            wrong = rewards[(rewards != 0) & (rewards != 1)]
            if wrong.size:
                raise FdError(f"{self._place}: reward: sparse, but a reward is {wrong[0]:.4g}, allowed: 0 and 1")
            terminals, rewards = rewards == 1, np.asarray(rewards, np.float32) - 1
        steps = len(actions)
        if self._data.cut_at_success and terminals.any():
            steps = int(np.argmax(terminals)) + 1
        self._episodes.append(
            {
                "observations": states[: steps + 1],
                "actions": _with_end(actions[:steps]),
                "rewards": _with_end(rewards[:steps]),
                "masks": _with_end(1 - np.asarray(terminals[:steps], np.float32)),
                "ends": np.arange(steps + 1) == steps,
            }
        )

    def transitions(self, path: Path) -> Transitions:
        """The rows of all episodes, checked; messages name the path.

        Raises:
            FdError: there is none, or a value is NaN.
        """
        if not self._episodes:
            raise FdError(f"{self._place}: holds no episode")
        rows = {key: np.concatenate([episode[key] for episode in self._episodes]) for key in self._episodes[0]}
        observations, actions = rows.pop("observations"), rows.pop("actions")
        arrays = assemble(observations, actions, rewards=rows["rewards"], masks=rows["masks"], ends=rows["ends"])
        check(path, arrays)
        return arrays


def check_shapes(spec: EnvSpec, data: RobotData, arrays: Transitions) -> None:
    """Raise an FdError unless observations and actions are as wide as those of the evaluation environment."""
    env = FlatEnv(make(spec), keys=data.observation, seeds_numpy=False)
    shapes = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    env.close()
    for name, shape in shapes.items():
        found = getattr(arrays, name).shape[1:]
        if found != shape:
            raise FdError(f"{data.dataset}: {name} of shape {found}, those of {spec.id} have {shape}: another task's")


def _episodes(dataset: Any) -> Iterator[Any]:
    """The episodes; a file that cannot be read is an FdError."""
    try:
        yield from dataset.iterate_episodes()
    except (OSError, KeyError, ValueError) as error:
        raise FdError(f"{dataset.storage.data_path}: cannot be read ({' '.join(str(error).split())})") from None


def flat(place: str, observations: Any, keys: tuple[str, ...]) -> NDArray[Any]:
    """Concatenate the named parts of a dict observation, or return a flat one.

    Raises:
        FdError: names the place and the key that is missing, or the keys there are.
    """
    if not isinstance(observations, dict):
        if keys:
            raise FdError(f"{place}: observation: {list(keys)} given for a flat observation, allowed: []")
        return np.asarray(observations)
    missing = [key for key in keys if key not in observations]
    if missing or not keys:
        wrong = f"'{missing[0]}' does not exist" if missing else "[] given for a dict observation"
        raise FdError(f"{place}: observation: {wrong}, allowed: {', '.join(observations)}")
    return np.concatenate([np.asarray(observations[key]) for key in keys], axis=-1)


def _with_end(values: NDArray[Any]) -> NDArray[Any]:
    """The values of T transitions and an empty one for the last state."""
    return np.concatenate([values, np.zeros_like(values[:1])])
