"""Simulators with one interface: flat float32 observations, actions in [-1, 1], a success flag at every step.

What the suites need around their environments is kept here: their registration, their seeding, the temporary
files and the warnings that they cause.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from fd.errors import FdError
from fd.transitions import Manifest

Floats = NDArray[np.float32]


class FlatEnv(gymnasium.Wrapper[Floats, Floats, Any, NDArray[Any]]):
    """An environment of either suite behind the common interface."""

    def __init__(self, env: gymnasium.Env[Any, Any], *, keys: tuple[str, ...], seeds_numpy: bool) -> None:
        """Wrap an environment.

        Args:
            env: actions are a box from -1 to 1.
            keys: parts of a dict observation, concatenated in this order; empty when it is flat.
            seeds_numpy: its reset draws from numpy's global generator.

        Raises:
            FdError: the action space is another, or the observation has not these keys.
        """
        super().__init__(env)
        self._keys, self._seeds_numpy = keys, seeds_numpy
        name = env.spec.id if env.spec else str(env)
        with quiet():
            inner, space = env.action_space, env.observation_space
        actions = unit_box(name, inner)
        parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {}
        if set(keys) - set(parts) or bool(keys) != bool(parts):
            raise FdError(f"{name}: observation: {list(keys)} given, allowed: {', '.join(parts) or '[]'}")
        width = sum(_width(parts[key]) for key in keys) if keys else _width(space)
        # Fixed here, since ogbench's property builds its space, with a warning, at every access.
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, actions.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode; the same seed gives the same one."""
        if seed is not None and self._seeds_numpy:
            np.random.seed(seed)
        with quiet():
            observation, info = self.env.reset(seed=seed, options=options)
        return self._flat(observation), info

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take one step; info["success"] is there at every one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["success"] = bool(info.get("success", False))
        return self._flat(observation), float(reward), bool(terminated), bool(truncated), info

    def _flat(self, observation: Any) -> Floats:
        """The observation as one float32 vector."""
        if self._keys:
            return np.concatenate([observation[key] for key in self._keys], dtype=np.float32, casting="same_kind")
        return np.asarray(observation, np.float32)


class FixedGoal(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A PointMaze with one goal cell whose goal is the cell's centre, to which its data are relabelled.

    Left alone, each reset moves the goal by up to a quarter of a cell, out of the agent's sight.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment; that it takes no other argument is recorded in its spec."""
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode and put the goal back to its centre."""
        observation, info = self.env.reset(seed=seed, options=options)
        unwrapped = cast(Any, self.env.unwrapped)
        (goal,) = unwrapped.maze.unique_goal_locations
        unwrapped.goal = goal.copy()
        unwrapped.update_target_site_pos()
        return observation | {"desired_goal": goal.copy()}, info


def make_env(manifest: Manifest) -> FlatEnv:
    """Make the evaluation environment of a task; episodes are cut at the manifest's horizon.

    Raises:
        FdError: the environment does not exist, or is not of the form that the manifest says.
    """
    environment = manifest.environment
    suite = environment.get("suite")
    if suite == "ogbench":
        env = make(environment["name"], max_episode_steps=manifest.horizon)
        return FlatEnv(env, keys=(), seeds_numpy=True)
    if suite == "minari":
        spec = EnvSpec.from_json(json.dumps(environment["spec"]))
        env = make(spec, max_episode_steps=manifest.horizon)
        return FlatEnv(env, keys=tuple(environment["observation"]), seeds_numpy=False)
    raise FdError(f"environment.suite: {suite!r} does not exist, allowed: ogbench, minari")


def make(spec: str | EnvSpec, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment of either suite, quietly and without leaving the model file that mazes write.

    Raises:
        FdError: there is no such environment.
    """
    register()
    try:
        with temporary_files_removed(), quiet():
            return gymnasium.make(spec, disable_env_checker=True, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        raise FdError(f"environment: {' '.join(str(error).split())}") from None


def register() -> None:
    """Register the environments of both suites."""
    # Without a display, dm_control warns when it looks for a renderer that nothing here needs.
    os.environ.setdefault("MUJOCO_GL", "disabled")
    from farama_notifications import notifications

    # A line about the Adroit environments of this version, printed at every import in every process.
    notifications.pop("gymnasium_robotics", None)
    import gymnasium_robotics  # noqa: F401  (registers its environments)
    import ogbench  # noqa: F401  (registers its environments)


@contextmanager
def quiet() -> Iterator[None]:
    """No warning about the float64 bounds of ogbench's action space inside."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*Box (low|high)'s precision lowered", category=UserWarning)
        yield


@contextmanager
def temporary_files_removed() -> Iterator[None]:
    """Temporary files made inside are removed at the end; mazes leave theirs."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="fd-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def unit_box(name: str, space: gymnasium.Space[Any]) -> gymnasium.spaces.Box:
    """Return the action space of that name as the box from -1 to 1 that it has to be.

    Raises:
        FdError: it is another.
    """
    if isinstance(space, gymnasium.spaces.Box) and (space.low == -1).all() and (space.high == 1).all():
        return space
    raise FdError(f"{name}: action space {space} is not supported, allowed: a box from -1 to 1")


def _width(space: gymnasium.Space[Any]) -> int:
    """Width of a flat observation."""
    shape = space.shape
    if shape is None or len(shape) != 1:
        raise FdError(f"observation space {space} is not supported, allowed: vectors")
    return shape[0]
