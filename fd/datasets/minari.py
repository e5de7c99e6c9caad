"""Minari sets: finding or downloading them, their evaluation environment, their conversion to flat rows.

What is known of the published sets of D4RL's tasks, and what is done about it:

- AntMaze v1 was recorded in AntMaze v4: another ant, controller and coordinates than D4RL's, so scores are not D4RL's.
- Its evaluation environment has the umaze flipped (Minari issue 304), so evaluation takes place in the environment of
  the data.
- Its rewards are those of the goal of each episode, which moves and which the 29 numbers of a state do not tell. With
  `maze` they are computed anew for the one goal that D4RL has, which is also that of evaluation. Without, they stay as
  recorded.
- Its episodes go on at the goal, are never terminated and are cut at 700 or 1000 steps, with a reward of 1 at each step
  there; D4RL has -1 a step, and success ends the bootstrap. See `convert_minari`.
- Its reference scores are returns summed up at the goal, no shares of episodes: `score: success` reads none.
- Adroit v2 replays D4RL's actions from D4RL's first states, in episodes of up to 625 steps (hammer); D4RL's evaluation
  has 200, pen's 100: `horizon`.
- Its rewards are those of its own simulation. That of door, hammer and relocate has had a wrong sign since
  gymnasium-robotics 1.2.1 (see fd.wrappers); which version recorded the sets is not known. They are kept as recorded:
  the error is 0.2 a step and metre between palm and object, beside bonuses of 10 to 100 a step. Evaluation has D4RL's.
"""

import json
import math
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
from packaging.requirements import InvalidRequirement, Requirement

from fd.datasets.hdf5_check import check_hdf5
from fd.datasets.mazes import SUCCESS_RADIUS, between, goal_of, registered
from fd.datasets.rows import Rows, check_numbers
from fd.errors import FdError, one_line
from fd.settings.data_settings import MinariData, RobotData
from fd.simulation.environments import FlatEnv, make, register, unit_box
from fd.storage.transitions import Transitions
from fd.storage.untrusted import read_json
from fd.wrappers import as_d4rl

OPTIONS = ("maze_map", "reward_type", "continuing_task", "reset_target")  # of an environment, that a set may choose
WIDEST = 64  # cells of a maze
GOAL_MARKS = ("g", "c")  # of cells of a maze that can be goals; without any, all free cells can


def find_minari(data: MinariData) -> Any:
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
    _check_files(path / "data")
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


def _check_files(folder: Path) -> None:
    """Raise an FdError unless Minari can be trusted with the files of a set: it makes any object that they name.

    Raises:
        FdError: the files refer to others, declare more than they hold, or would make an environment of other code.
    """
    path = folder / "metadata.json"
    metadata = read_json(path)
    if not isinstance(metadata, dict) or metadata.get("data_format") != "hdf5":
        raise FdError(f"{path}: data_format is not 'hdf5', the one that is read")
    if not {"observation_space", "action_space"} <= metadata.keys():  # Minari asks the environment for them
        try:
            spec = json.loads(metadata["env_spec"])
            code = [spec["entry_point"], *(wrapper["entry_point"] for wrapper in spec["additional_wrappers"])]
            trusted = all(str(name).startswith("gymnasium_robotics.envs.") for name in code)
        except (KeyError, TypeError, ValueError, RecursionError):
            trusted = False
        if not trusted:
            raise FdError(f"{path}: lacks a space, and env_spec is none of gymnasium-robotics, which would tell it")
    episodes, groups = metadata.get("total_episodes"), check_hdf5(folder / "main_data.hdf5")
    if not isinstance(episodes, int) or not 0 <= episodes <= groups:
        raise FdError(f"{path}: total_episodes is {episodes!r}, allowed: up to the {groups} that main_data.hdf5 has")


def _reason(error: Exception) -> str:
    """Class and message of an exception in one line."""
    return f"{type(error).__name__}: {one_line(error)}"


def _check_environment(dataset: Any, environment: str) -> None:
    """Raise an FdError unless the set was made with that environment, and the installed one is what it asks for."""
    spec = dataset.env_spec
    if spec is None:
        raise FdError(f"{dataset.id}: names no environment, so nothing can be evaluated on it")
    if spec.id != environment:
        raise FdError(f"environment: {environment!r}, but {dataset.id} was made with '{spec.id}'")
    own = registered(environment).kwargs
    strange = [name for name, value in spec.kwargs.items() if name not in OPTIONS and own.get(name) != value]
    if strange:
        raise FdError(f"{dataset.id}: its environment has the option {strange[0]!r}, allowed: {', '.join(OPTIONS)}")
    if not _is_map(spec.kwargs.get("maze_map", [])):
        raise FdError(f"{dataset.id}: maze_map is no map of up to {WIDEST} x {WIDEST} cells")
    # The package of the environment alone: with another mujoco a set can be used, its scores are just not the same.
    owners = packages_distributions().get(str(spec.entry_point).split(".")[0], [])
    wanted = dataset.storage.metadata.get("requirements") or []
    try:
        requirements = [Requirement(one) for one in wanted]
    except (InvalidRequirement, TypeError) as error:
        raise FdError(f"{dataset.id}: its requirements cannot be read ({_reason(error)})") from None
    for requirement in requirements:
        if requirement.name in owners and not requirement.specifier.contains(_installed(requirement.name)):
            there = f"{requirement.name} {_installed(requirement.name)}"
            raise FdError(f"{dataset.id}: was made with {requirement}, installed is {there}")


def _is_map(rows: Any) -> bool:
    """Whether a value is a map of a maze, of bounded size, or no map at all."""
    lists = isinstance(rows, list) and len(rows) <= WIDEST and all(isinstance(row, list) for row in rows)
    return lists and all(len(row) <= WIDEST and len(row) == len(rows[0]) for row in rows)


def _installed(package: str) -> str:
    """Version of a package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def minari_spec(dataset: Any, data: MinariData) -> EnvSpec:
    """Return the spec of a set's evaluation environment: that of its data, whatever else the set recommends.

    Raises:
        FdError: `maze` does not fit it, or is needed, as the goal moves out of the agent's sight.
    """
    spec = deepcopy(dataset.env_spec)
    spec.entry_point, spec.additional_wrappers = registered(spec.id).entry_point, ()  # the set names those of its day
    spec.max_episode_steps = data.horizon
    if data.maze is not None:
        spec = between(spec, start=data.maze.start, goal=data.maze.goal)
        spec.additional_wrappers = (WrapperSpec("FixedGoal", "fd.wrappers:FixedGoal", {}),)
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
    low, high = (dataset.storage.metadata.get(name) for name in ("ref_min_score", "ref_max_score"))
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (low, high)) or low >= high:
        raise FdError(f"{dataset.spec.dataset_id}: has no reference returns, so `return_range` is needed")
    return [float(low), float(high)]


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


def convert_minari(dataset: Any, data: MinariData) -> Transitions:
    """Flatten the episodes of a Minari set.

    A sparse reward is 1 where the step reached the goal; it becomes 0 there and -1 elsewhere, and ends the bootstrap
    there, as the recorded terminations are never true. `cut_at_success` leaves out the steps after the first such one.

    Raises:
        FdError: a file cannot be read, the observation is not as `observation` says, the actions are no box from -1
            to 1, a sparse reward is neither 0 nor 1, or a value is NaN.
    """
    place = dataset.spec.dataset_id
    unit_box(place, dataset.spec.action_space)
    goal = None if data.maze is None else goal_of(minari_spec(dataset, data))
    rows = Rows(data, place)
    for episode in _episodes(dataset):
        states = flat(place, episode.observations, data.observation)
        check_numbers(place, "observations", states)
        rewards = episode.rewards
        if goal is not None:
            rewards = (
                np.linalg.norm(flat(place, episode.observations, ("achieved_goal",))[1:] - goal, axis=-1)
                <= SUCCESS_RADIUS
            )
        rows.add(states, episode.actions, rewards, episode.terminations)
    return rows.transitions(Path(dataset.storage.data_path))


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
    except Exception as error:  # whatever its files hold
        raise FdError(f"{dataset.storage.data_path}: cannot be read ({_reason(error)})") from error


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
    parts = [np.asarray(observations[key]) for key in keys]
    if len({part.shape[:-1] for part in parts}) > 1 or parts[0].ndim == 0:
        raise FdError(f"{place}: observation: {list(keys)} are of shapes {[part.shape for part in parts]}")
    return np.concatenate(parts, axis=-1)
