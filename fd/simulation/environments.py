"""Simulators with one interface: float32 vectors or uint8 images, actions in [-1, 1], a success flag at every step.

This module also handles the registration and seeding of the suites' environments, and their temporary files and
warnings.
"""

import importlib
import json
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import distribution
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.random import mtrand
from numpy.typing import NDArray

from fd.errors import FdError, one_line
from fd.storage.transitions import Manifest
from fd.wrappers import KNOWN

Floats = NDArray[np.float32]
Observation = NDArray[np.float32] | NDArray[np.uint8]

# Renderers by the value of MUJOCO_GL, and its values that name none.
RENDERERS = {"egl": "EGL", "osmesa": "OSMesa", "glfw": "GLFW", "glx": "GLFW"}
NO_RENDERER = ("", "0", "1", "disable", "disabled", "enable", "enabled", "false", "off", "on", "true")
ALLOWED = (
    "no value or egl (on Debian the packages libegl1 and libgl1-mesa-dri, or the GPU's driver), osmesa (libosmesa6),"
    " glfw (with a display)"
)


class FlatEnv(gymnasium.Wrapper[Observation, Floats, Any, NDArray[Any]]):
    """An environment of either suite behind the common interface.

    An observation is a float32 vector [O], or the last n images [H, W, C * n] as uint8, oldest first. At the start of
    an episode, its first image fills the missing ones.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], *, keys: tuple[str, ...], seeds_numpy: bool, frame_stack: int = 1
    ) -> None:
        """Wrap an environment.

        Args:
            env: environment with a box from -1 to 1 as its action space.
            keys: parts of a dict observation, concatenated in this order; empty when it is flat.
            seeds_numpy: whether it draws from numpy's global generator: in resets, and in steps of mazes that teleport.
            frame_stack: number of images in an observation.

        Raises:
            FdError: the action space is not supported, the observation lacks a key, or frames to stack are not images.
        """
        super().__init__(env)
        self._keys = keys
        # Generator of numpy's global functions while this environment runs, if it uses them.
        self._numbers = np.random.MT19937() if seeds_numpy else None
        name = env.spec.id if env.spec else str(env)
        with quiet():
            inner, space = env.action_space, env.observation_space
        actions = unit_box(name, inner)
        parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {}
        if set(keys) - set(parts) or bool(keys) != bool(parts):
            raise FdError(f"{name}: observation: {list(keys)} given, allowed: {', '.join(parts) or '[]'}")
        self._frames: deque[Observation] = deque(maxlen=frame_stack)
        # Stored here, because ogbench's property builds its space, with a warning, at every access.
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, actions.shape, np.float32)
        if space.dtype == np.uint8 and len(space.shape or ()) == 3:
            height, width, channels = space.shape or ()
            self.observation_space = gymnasium.spaces.Box(0, 255, (height, width, channels * frame_stack), np.uint8)
        elif frame_stack > 1:
            raise FdError(
                f"{name}: frame_stack: {frame_stack} needs images, but its observations are vectors, allowed: 1"
            )
        else:
            size = sum(_width(parts[key]) for key in keys) if keys else _width(space)
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same seed gives the same episode."""
        with quiet(), self._own_numbers():
            if seed is not None and self._numbers is not None:
                np.random.seed(seed)
            observation, info = self.env.reset(seed=seed, options=options)
        first = self._flat(observation)
        self._frames.extend([first] * (self._frames.maxlen or 1))
        return self._stacked(), info

    def step(self, action: Floats) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step; info["success"] is set at every step."""
        with self._own_numbers():
            observation, reward, terminated, truncated, info = self.env.step(action)
        info["success"] = bool(info.get("success", False))
        self._frames.append(self._flat(observation))
        return self._stacked(), float(reward), bool(terminated), bool(truncated), info

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """Within the context, numpy's global functions draw from this environment's own generator, if it uses them.

        Numpy draws normal numbers in pairs and keeps the second for the next call; entering and leaving discards it.
        """
        if self._numbers is None:
            yield
            return
        others = mtrand.get_bit_generator()
        mtrand.set_bit_generator(self._numbers)  # takes 0.4 µs; copying the state takes 100 µs
        try:
            yield
        finally:
            mtrand.set_bit_generator(others)

    def _flat(self, observation: Any) -> Observation:
        """One observation as a float32 vector, or an unchanged image."""
        if self._keys:
            return np.concatenate([observation[key] for key in self._keys], dtype=np.float32, casting="same_kind")
        return np.asarray(observation, self.observation_space.dtype)

    def _stacked(self) -> Observation:
        """The frames, oldest first."""
        stacked: Observation = np.concatenate(cast(Any, self._frames), axis=-1)
        return stacked


def make_env(manifest: Manifest, *, frame_stack: int = 1) -> FlatEnv:
    """Make the evaluation environment of a task; episodes are cut at the manifest's horizon.

    Args:
        manifest: manifest of the task's data folder.
        frame_stack: number of images in an observation.

    Raises:
        FdError: the environment does not exist, does not match the manifest, or cannot be rendered.
    """
    environment = manifest.environment
    suite = environment.get("suite")
    if suite == "ogbench":
        env = make(environment["name"], max_episode_steps=manifest.horizon)
        return FlatEnv(env, keys=(), seeds_numpy=True, frame_stack=frame_stack)
    if suite == "minari":
        spec = _trusted(environment["spec"])
        env = make(spec, max_episode_steps=manifest.horizon)
        keys = tuple(environment["observation"])
        return FlatEnv(env, keys=keys, seeds_numpy=False, frame_stack=frame_stack)
    raise FdError(f"environment.suite: {suite!r} does not exist, allowed: ogbench, minari")


def _trusted(values: Any) -> EnvSpec:
    """Return the spec in a manifest. Gymnasium runs the code that a spec names, so only known code is allowed.

    Raises:
        FdError: it is not a spec, or names code other than the registered environment and this project's wrappers.
    """
    try:
        spec = EnvSpec.from_json(json.dumps(values))
        wrappers = [str(wrapper.entry_point) for wrapper in spec.additional_wrappers]
    except (AttributeError, KeyError, TypeError, ValueError, gymnasium.error.Error) as error:
        raise FdError(f"environment.spec: cannot be read ({one_line(error)})") from None
    register()
    known = gymnasium.registry.get(spec.id)
    if known is not None and spec.entry_point != known.entry_point:
        raise FdError(f"environment.spec: {spec.id} is made by {spec.entry_point!r}, allowed: {known.entry_point!r}")
    strange = [name for name in wrappers if name not in KNOWN]
    if known is None or strange:
        raise FdError(
            f"environment.spec: {(strange or [spec.id])[0]!r} is not known, allowed: registered environments and this"
            " project's wrappers"
        )
    return spec


def make(spec: str | EnvSpec, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment of either suite, without its warnings and without leaving the model file that mazes write.

    Raises:
        FdError: there is no such environment, or it needs a renderer and there is none.
    """
    register()
    known = spec if isinstance(spec, EnvSpec) else gymnasium.registry.get(spec)
    if known is not None and renders(known, **kwargs):  # mazes render a first image while they are made
        _provide_renderer(known.id)
    try:
        with temporary_files_removed(), quiet(), _without_renderer():
            env = gymnasium.make(spec, disable_env_checker=True, **kwargs)
    except (gymnasium.error.UnregisteredEnv, ImportError) as error:
        raise FdError(f"environment: {one_line(error)}") from None
    return env


def renders(spec: EnvSpec, **kwargs: Any) -> bool:
    """Whether the observations of an OGBench environment are images, if it is made with these arguments."""
    return bool((spec.kwargs | kwargs).get("ob_type") == "pixels")


def _provide_renderer(name: str) -> None:
    """Let mujoco render with the renderer that MUJOCO_GL names, or with EGL, which needs no display, if it names none.

    Raises:
        FdError: MUJOCO_GL names no renderer, or rendering fails; names the environment, the variable and what is allowed.
    """
    value = os.environ.get("MUJOCO_GL", "")
    chosen = value.strip().lower()
    renderer = "egl" if chosen in NO_RENDERER else chosen
    given = f"MUJOCO_GL={value!r}" if value else "MUJOCO_GL is not set"
    if renderer not in RENDERERS:
        raise FdError(f"{name}: its images cannot be rendered: {given} names no renderer, allowed: {ALLOWED}")
    try:
        _try_renderer(renderer)
    except Exception as error:  # noqa: BLE001  (a missing library raises AttributeError, for example)
        device = os.environ.get("MUJOCO_EGL_DEVICE_ID")
        given += f", MUJOCO_EGL_DEVICE_ID={device!r}" if device else ""
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise FdError(
            f"{name}: its images cannot be rendered by {RENDERERS[renderer]} ({reason}; {given}), allowed: {ALLOWED}"
        ) from None


@cache
def _try_renderer(renderer: str) -> None:
    """Make a renderer the one that mujoco uses, and check once in a process that it works."""
    if renderer in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = renderer  # mujoco refuses another value, and nothing else here uses OpenGL
    import mujoco
    from mujoco.rendering.classic import gl_context

    gl_context.GLContext = importlib.import_module(f"mujoco.{RENDERERS[renderer].lower()}").GLContext
    with warnings.catch_warnings(action="ignore"):  # GLFW warns of what then raises an exception
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 1, 1).close()


def register() -> None:
    """Register the environments of both suites."""
    # Gymnasium imports glfw. Without the path of its library, glfw starts an interpreter to find the version, which
    # takes longer than the import and prints an error if this process is killed meanwhile. A path in the user's
    # environment may lead nowhere.
    library = str(distribution("glfw").locate_file("glfw/x11/libglfw.so"))
    if os.path.exists(library):
        os.environ["PYGLFW_LIBRARY"] = library
    from farama_notifications import notifications

    # Its notice about the Adroit environments would be printed at every import in every process.
    notifications.pop("gymnasium_robotics", None)
    with _without_renderer():
        import gymnasium_robotics  # noqa: F401  (registers its environments)
        import ogbench  # noqa: F401  (registers its environments)


@contextmanager
def _without_renderer() -> Iterator[None]:
    """Within the context, mujoco and dm_control are imported without a renderer, which only images need.

    With a value of MUJOCO_GL that has no library on this machine, their import would raise errors of any kind. Without
    a value and a display, dm_control warns.
    """
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings about the float64 bounds of ogbench's action space and about old environment versions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*Box (low|high)'s precision lowered", category=UserWarning)
        # Data belong to the environment version that recorded them.
        warnings.filterwarnings("ignore", message=r".*is out of date", category=DeprecationWarning)
        yield


@contextmanager
def temporary_files_removed() -> Iterator[None]:
    """Remove the temporary files made within the context at its end; mazes leave theirs behind."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="fd-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def unit_box(name: str, space: gymnasium.Space[Any]) -> gymnasium.spaces.Box:
    """Return the action space if it is a box from -1 to 1; the message names `name`.

    Raises:
        FdError: it is not such a box.
    """
    if isinstance(space, gymnasium.spaces.Box) and (space.low == -1).all() and (space.high == 1).all():
        return space
    raise FdError(f"{name}: action space {one_line(space)} is not supported, allowed: a box from -1 to 1")


def _width(space: gymnasium.Space[Any]) -> int:
    """Width of a flat observation."""
    shape = space.shape
    if shape is None or len(shape) != 1:
        raise FdError(f"observation space {space} is not supported, allowed: vectors")
    return shape[0]
