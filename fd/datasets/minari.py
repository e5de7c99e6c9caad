"""Minari sets: finding or downloading them, their evaluation environment, their conversion to flat rows.

Known properties of the published sets of D4RL's tasks, and how this module treats them:

- AntMaze v1 was recorded in AntMaze v4. Ant, controller and coordinates differ from D4RL's, so its scores are not
  comparable with D4RL's.
- Its evaluation environment has the umaze flipped (Minari issue 304), so evaluation uses the environment of the data.
- Its rewards belong to the goal of each episode, which moves and is not part of the 29 numbers of a state. With `maze`,
  this module recomputes them for a single goal, the centre of D4RL's goal cell, and evaluation has this goal, D4RL's
  starts and D4RL's distance at which it is reached (fd.wrappers.AntMazeProtocol). D4RL itself draws the goal of each
  evaluation episode up to 1.5 m off that centre on each axis. Without `maze`, rewards and evaluation stay as recorded.
- Its episodes continue at the goal, with a reward of 1 at each step there, are never terminated and are cut at 700 or
  1000 steps. In D4RL, each step gives -1 and success ends the bootstrap. See `convert_minari`.
- Its reference scores are returns, summed up at the goal, not success rates: `score: success` does not read them.
- Adroit v2 replays D4RL's actions from D4RL's first states, in episodes of up to 625 steps (hammer). D4RL's evaluation
  has 200 steps, pen's 100: `horizon` sets this.
- Its rewards come from its own simulation. In door, hammer and relocate, the distance term has had the wrong sign since
  gymnasium-robotics 1.2.1 (see fd.wrappers); it is not known which version recorded the sets. Rewards are kept as
  recorded: the error is 0.2 per step and metre between palm and object, compared with bonuses of 10 to 100 per step.
  Evaluation uses D4RL's rewards.
"""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from numpy.typing import NDArray
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from fd.datasets.hdf5_check import check_hdf5, unreadable_hdf5, writing_hdf5
from fd.datasets.mazes import between, goal_of, registered, success_radius
from fd.datasets.rows import Rows, check_numbers
from fd.errors import FdError, one_line
from fd.settings.data_settings import MinariData, RobotData
from fd.simulation.environments import FlatEnv, make, quiet, register, temporary_files_removed, unit_box
from fd.storage.files import expanded
from fd.storage.locks import locked
from fd.storage.scratch import publish
from fd.storage.transitions import Transitions
from fd.storage.untrusted import read_json
from fd.wrappers import as_d4rl, pushable

OPTIONS = ("maze_map", "reward_type", "continuing_task", "reset_target")  # of an environment; a set may choose them
WIDEST = 64  # cells of a maze
GOAL_MARKS = ("g", "c")  # of maze cells that can be goals; without any, all free cells can
# Errors of a download that are not of the network: the folder cannot be written, is full, or cannot be locked.
OF_THE_FOLDER = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
)


def find_minari(data: MinariData) -> Any:
    """Return a set from Minari's local folder; download it first if it is missing there.

    Raises:
        FdError: the set is neither local nor available from Minari's remote, its files cannot be read or belong to
            another set, it was made with a different environment or version, or the home folder is not known.
    """
    register()
    if "MINARI_DATASETS_PATH" not in os.environ:  # without a home folder, Minari makes one that is called ~
        expanded("~/.minari/datasets", "dataset", "HOME, or MINARI_DATASETS_PATH to an absolute folder")
    import minari
    from minari.storage import get_dataset_path

    name = data.dataset
    path = get_dataset_path(name)
    if not (path / "data").exists():
        registered(data.environment)  # a wrong name is told before the download
        _download(name, get_dataset_path())
    _check_files(path / "data")
    try:
        dataset = minari.load_dataset(name, download=False)
    except Exception as error:  # damaged files cause exceptions of many kinds
        told = unreadable_hdf5(path, error, "cannot be read")
        raise FdError(f"dataset: {told}; if it is damaged, remove it to download it again") from error
    if dataset.id != name:
        raise FdError(f"dataset: {path} holds '{dataset.id}', allowed: '{name}'")
    _check_environment(dataset, data.environment)
    return dataset


def _download(name: str, root: Path) -> None:
    """Download a set, into `.part` first: Minari would take an interrupted download for a complete set."""
    import minari

    if not {"HF_HOME", "XDG_CACHE_HOME"} & os.environ.keys():
        expanded("~/.cache/huggingface", "dataset", "HOME, or HF_HOME to an absolute folder")
    part = root / ".part" / name.replace("/", "__")
    part.mkdir(parents=True, exist_ok=True)
    with locked(part.with_suffix(".lock")):
        if (root / name / "data").exists():  # another process was faster
            return
        try:
            with root_at(part):
                minari.download_dataset(name, force_download=True)  # resumes an interrupted download
                minari.load_dataset(name, download=False)
        except Exception as error:  # each remote's client raises its own exceptions
            if isinstance(error, OSError) and error.errno in OF_THE_FOLDER:
                told = f"cannot be written ({os.strerror(error.errno or 0)}); MINARI_DATASETS_PATH names another folder"
                raise FdError(f"dataset: {part}: {told}") from error
            raise FdError(
                f"dataset: '{name}' is not in {root} and cannot be downloaded ({_reason(error)}); without a network,"
                " generate PointMaze (`source: generate`, `collector: waypoint`) or read D4RL's files (`source: d4rl`)"
            ) from error
        publish(part / name, root / name, part)


def _check_files(folder: Path) -> None:
    """Raise an FdError unless Minari can safely load the files of a set: it makes any object that they name.

    Raises:
        FdError: one is missing; or they refer to other files, declare more data than they hold, or name foreign code.
    """
    path = _present(folder / "metadata.json")
    metadata = read_json(path)
    if not isinstance(metadata, dict) or metadata.get("data_format") != "hdf5":
        raise FdError(f"{path}: data_format is not 'hdf5', the only format allowed")
    if not {"observation_space", "action_space"} <= metadata.keys():  # Minari asks the environment for them
        try:
            spec = json.loads(metadata["env_spec"])
            code = [spec["entry_point"], *(wrapper["entry_point"] for wrapper in spec["additional_wrappers"])]
            trusted = all(str(name).startswith("gymnasium_robotics.envs.") for name in code)
        except (KeyError, TypeError, ValueError, RecursionError):
            trusted = False
        if not trusted:
            raise FdError(f"{path}: lacks a space, and env_spec is not from gymnasium-robotics, which could provide it")
    episodes, groups = metadata.get("total_episodes"), check_hdf5(_present(folder / "main_data.hdf5"))
    if not isinstance(episodes, int) or not 0 <= episodes <= groups:
        raise FdError(f"{path}: total_episodes is {episodes!r}, allowed: up to the {groups} that main_data.hdf5 has")


def _present(path: Path) -> Path:
    """The path of a file of a set; FdError if it is missing, as after a download that was broken off."""
    if not path.is_file():
        raise FdError(f"{path}: no such file, so the set is incomplete; remove {path.parents[1]} to download it again")
    return path


def _reason(error: Exception) -> str:
    """Class and message of an exception in one line."""
    return f"{type(error).__name__}: {one_line(error)}"


def _check_environment(dataset: Any, environment: str) -> None:
    """Raise an FdError unless the set was made with that environment and accepts the installed version."""
    spec = dataset.env_spec
    if spec is None:
        raise FdError(f"{dataset.id}: names no environment, which evaluation needs")
    if spec.id != environment:
        raise FdError(f"environment: {environment!r}, but {dataset.id} was made with '{spec.id}'")
    own = registered(environment).kwargs
    strange = [name for name, value in spec.kwargs.items() if name not in OPTIONS and own.get(name) != value]
    if strange:
        raise FdError(f"{dataset.id}: its environment has the option {strange[0]!r}, allowed: {', '.join(OPTIONS)}")
    if not _is_map(spec.kwargs.get("maze_map", [])):
        raise FdError(f"{dataset.id}: maze_map must be a map of up to {WIDEST} x {WIDEST} cells")
    # Only the environment's own package is checked: with another mujoco a set is usable, but its scores differ.
    owners = set(map(canonicalize_name, packages_distributions().get(str(spec.entry_point).split(".")[0], [])))
    wanted = dataset.storage.metadata.get("requirements") or []
    try:
        requirements = [Requirement(one) for one in wanted]
    except (InvalidRequirement, TypeError) as error:
        raise FdError(f"{dataset.id}: its requirements cannot be read ({_reason(error)})") from None
    for requirement in requirements:
        name, applies = canonicalize_name(requirement.name), requirement.marker is None or requirement.marker.evaluate()
        if applies and name in owners and not requirement.specifier.contains(version(name)):
            raise FdError(f"{dataset.id}: was made with {requirement}, installed is {name} {version(name)}")


def _is_map(rows: Any) -> bool:
    """Whether a value is a maze map of bounded size, or an empty list."""
    lists = isinstance(rows, list) and len(rows) <= WIDEST and all(isinstance(row, list) for row in rows)
    return lists and all(len(row) <= WIDEST and len(row) == len(rows[0]) for row in rows)


def minari_spec(dataset: Any, data: MinariData) -> EnvSpec:
    """Return the spec of a set's evaluation environment: the one of its data, even if the set recommends another.

    Raises:
        FdError: `maze` does not fit it, or is missing although the goal moves and the agent cannot see it.
    """
    spec = deepcopy(dataset.env_spec)
    spec.entry_point, spec.additional_wrappers = registered(spec.id).entry_point, ()  # the set may name outdated ones
    spec.max_episode_steps = data.horizon
    if data.maze is not None:
        spec = between(spec, start=data.maze.start, goal=data.maze.goal)
        spec.additional_wrappers = (WrapperSpec("FixedGoal", "fd.wrappers:FixedGoal", {}),)
        if spec.id.startswith("AntMaze"):
            spec.additional_wrappers += (WrapperSpec("AntMazeProtocol", "fd.wrappers:AntMazeProtocol", {}),)
    elif "maze_map" in spec.kwargs:
        goals = sum(cell in GOAL_MARKS for row in spec.kwargs["maze_map"] for cell in row)
        if goals != 1 and "desired_goal" not in data.observation:
            raise FdError(
                f"maze: null, but {dataset.id} has no single goal, and its observation lacks the goal, allowed:"
                " {start: …, goal: …}"
            )
        spec.kwargs["continuing_task"] = False
    return pushable(as_d4rl(spec))


def return_range(dataset: Any) -> list[float]:
    """Return the set's reference returns: of a random policy, of an expert policy.

    Raises:
        FdError: the set has none.
    """
    place, names = dataset.spec.dataset_id, ("ref_min_score", "ref_max_score")
    low, high = (dataset.storage.metadata.get(name) for name in names)
    if low is None or high is None:
        raise FdError(f"{place}: has no reference returns, so `return_range` is needed")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (low, high)) or low >= high:
        raise FdError(f"{place}: {names[0]} is {low!r} and {names[1]} {high!r}, so `return_range` is needed")
    return [float(low), float(high)]


@contextmanager
def root_at(folder: Path) -> Iterator[None]:
    """Minari finds its sets under `folder` within the context."""
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


def write_minari(
    root: Path, dataset: str, buffers: list[Any], *, about: tuple[str, str, str], collect: EnvSpec, evaluate: EnvSpec
) -> None:
    """Write episodes as a set.

    Args:
        root: folder of Minari sets.
        dataset: id of the set.
        buffers: the episodes, in Minari's form.
        about: what collected them, its `collector`, and what they show.
        collect: spec of the collecting environment.
        evaluate: spec of the evaluation environment.

    Raises:
        FdError: the set cannot be written.
    """
    import minari

    algorithm, collector, description = about
    with root_at(root), temporary_files_removed(), quiet(), writing_hdf5(root / dataset):
        minari.create_dataset_from_buffers(
            dataset,
            buffers,
            env=collect,
            eval_env=evaluate,
            algorithm_name=algorithm,
            author="fd",
            author_email="",
            code_permalink=f"fisher-decorator/{collector}",
            description=description,
            data_format="hdf5",
        )


def convert_minari(dataset: Any, data: MinariData) -> Transitions:
    """Flatten the episodes of a Minari set.

    A sparse reward is 1 if the step reached the goal. It becomes 0 there and -1 elsewhere, and reaching the goal ends
    the bootstrap, because the recorded terminations are never true. `cut_at_success` leaves out the steps after the
    first success.

    Raises:
        FdError: a file cannot be read, the observation does not match `observation` or `maze`, the action space is not
            a box from -1 to 1 or actions lie outside it, a sparse reward is neither 0 nor 1, or a value is NaN.
    """
    place = dataset.spec.dataset_id
    unit_box(place, dataset.spec.action_space)
    spec = minari_spec(dataset, data)
    goal = None if data.maze is None else goal_of(spec)
    rows = Rows(data, place, terminals="terminations")
    for episode in _episodes(dataset):
        at = f"{place}: episode {episode.id}"
        states, rewards = flat(place, episode.observations, data.observation), episode.rewards
        parts = {f"observations/{key}": episode.observations[key] for key in data.observation}
        for name, part in (parts or {"observations": states}).items():
            check_numbers(at, name, np.asarray(part))
        if goal is not None:
            away = np.linalg.norm(_positions(at, episode.observations, states)[1:] - goal, axis=-1)
            rewards = away <= success_radius(spec)
        rows.add(states, episode.actions, rewards, episode.terminations, place=at)
    return rows.transitions(Path(dataset.storage.data_path))


def _positions(place: str, observations: Any, states: NDArray[Any]) -> NDArray[Any]:
    """Positions of an agent in a maze, two numbers for each of the states; from them follow the rewards for a goal.

    Raises:
        FdError: the set does not have them; names the field.
    """
    if not isinstance(observations, dict) or "achieved_goal" not in observations:
        raise FdError(f"{place}: maze: given, but 'observations' lacks 'achieved_goal', allowed: null")
    found = np.asarray(observations["achieved_goal"])
    check_numbers(place, "observations/achieved_goal", found)
    if found.shape != (len(states), 2):
        raise FdError(f"{place}: 'observations/achieved_goal' has shape {found.shape}, allowed: {(len(states), 2)}")
    return found


def check_shapes(spec: EnvSpec, data: RobotData, arrays: Transitions) -> None:
    """Raise an FdError unless observations and actions have the shapes of the evaluation environment."""
    env = FlatEnv(make(spec), keys=data.observation, seeds_numpy=False)
    shapes = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    env.close()
    for name, shape in shapes.items():
        found = getattr(arrays, name).shape[1:]
        if found != shape:
            raise FdError(f"{data.dataset}: {name} have shape {found}, but {shape} in {spec.id}: a different task")


def _episodes(dataset: Any) -> Iterator[Any]:
    """Yield the episodes; raise an FdError if a file cannot be read."""
    try:
        yield from dataset.iterate_episodes()
    except Exception as error:  # damaged files cause exceptions of many kinds
        raise unreadable_hdf5(Path(dataset.storage.data_path), error, "cannot be read") from error


def flat(place: str, observations: Any, keys: tuple[str, ...]) -> NDArray[Any]:
    """Concatenate the named parts of a dict observation, or return a flat one.

    Raises:
        FdError: the keys do not match the observation; names the place, the wrong keys and the allowed ones.
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
