"""The worker's side of `fd.rollout`: a process that runs episodes alone, with its own simulators and its own copy of the policy.

It needs nothing from another process until a job is done, so that it never waits. Torch is not
imported here; `make_act` brings what it needs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError

Floats = NDArray[np.float32]
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
# (observations [S, m, O], standard normal noise [S, m, Z]) -> actions [S, m, A] in an array of their own, row s by the
# policy of seed s. The arguments are overwritten after the call.
Act = Callable[[Floats, Floats], Floats]
MakeAct = Callable[[int], Act]


@dataclass(frozen=True)
class Key:
    """Whose episode it is: training seed, step of the snapshot, number of the episode."""

    seed: int
    step: int
    episode: int

    def __str__(self) -> str:
        """Name the episode in errors."""
        return f"seed {self.seed}, snapshot {self.step}, episode {self.episode}"


@dataclass(frozen=True)
class Episode:
    """What came of an episode; `success`: `info["success"]` was true in one of its steps."""

    seed: int
    step: int
    episode: int
    return_: float
    success: bool
    length: int


@dataclass(frozen=True)
class Job:
    """Episodes for one worker: of every seed those with these numbers, m at most, at the snapshot of `step`."""

    step: int
    episodes: range


@dataclass(frozen=True)
class Batch:
    """What a policy acts on: `each` environments (m) for each seed, and the shape of a row; `name` is for errors."""

    name: str
    seeds: tuple[int, ...]
    each: int
    obs_shape: tuple[int, ...]
    noise_dim: int
    act_dim: int


class Place:
    """What a worker is doing, in memory that it shares with its parent, who reads it when the worker dies or hangs.

    The memory's file is unlinked from the start, so that no death of this process leaves it behind.
    """

    def __init__(self, context: SpawnContext) -> None:
        self._text, self._beats = context.RawArray("c", 256), context.RawValue("Q")
        self.enter("an environment being built")

    def enter(self, text: str) -> None:
        """Tell what comes next."""
        self._text.value = text.encode()
        self._beats.value += 1

    @property
    def beats(self) -> int:
        """Number of calls of `enter`: a worker in which it stands still makes no progress."""
        return int(self._beats.value)

    def __str__(self) -> str:
        """Name the place in errors."""
        return str(self._text.value.decode())


def streams(key: Key) -> tuple[int, np.random.Generator]:
    """Return the environment seed, below 2**32, and the policy's noise stream of one episode.

    They are the two children of `SeedSequence(seed, spawn_key=(step, episode))`: an episode can be replayed alone.
    """
    environment, noise = np.random.SeedSequence(key.seed, spawn_key=(key.step, key.episode)).spawn(2)
    return int(environment.generate_state(1)[0]), np.random.Generator(np.random.PCG64(noise))


def serve(connection: Connection[Any, Any], place: Place, make_env: MakeEnv, make_act: MakeAct, batch: Batch) -> None:
    """Build the environments, then run jobs until the process is ended from outside.

    Args:
        connection: gets None when all environments are built, then for each Job each Episode as it ends; and, as the last
            message, an FdError when something fails.
        place: where this tells what it is doing.
        make_env: see `fd.rollout.Rollout`.
        make_act: likewise.
        batch: the environments to build.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        simulators = _Simulators(make_env, make_act, batch, place)
        connection.send(None)
        while True:
            place.enter("a simulator process between two jobs")
            for episode in simulators.run(connection.recv()):
                connection.send(episode)
    except FdError as error:
        fault = error
    except Exception as error:  # noqa: BLE001 any simulator, any fault: the parent names it and ends the stage
        fault = FdError(f"{batch.name}: {place}: {type(error).__name__}: {' '.join(str(error).split())}")
    with contextlib.suppress(OSError):  # the parent may be gone
        connection.send(fault)


class _Simulators:
    """The environments of a worker, and the policy that acts in all of them at once."""

    def __init__(self, make_env: MakeEnv, make_act: MakeAct, batch: Batch, place: Place) -> None:
        self._make_act, self._batch, self._place = make_act, batch, place
        self._step: int | None = None  # of the snapshot whose policy is loaded
        shape = len(batch.seeds), batch.each
        self._observations = np.zeros((*shape, *batch.obs_shape), np.float32 if len(batch.obs_shape) == 1 else np.uint8)
        self._noise = np.zeros((*shape, batch.noise_dim), np.float32)
        self._slots = {
            index: _Slot(self._build(make_env), self._observations[index], self._noise[index], place)
            for index in np.ndindex(shape)
        }

    def run(self, job: Job) -> Iterator[Episode]:
        """Run the episodes of a job in lock-step; give each when it ends."""
        if job.step != self._step:
            self._place.enter(f"the policy of snapshot {job.step} being loaded")
            self._act, self._step = self._make_act(job.step), job.step
        # So that what stands in a batch depends on the job alone, in rows without an episode, too.
        self._observations.fill(0)
        self._noise.fill(0)
        running = {(s, i): slot for (s, i), slot in self._slots.items() if i < len(job.episodes)}
        for (s, i), slot in running.items():
            slot.start(Key(self._batch.seeds[s], job.step, job.episodes[i]))
        while running:
            actions = self._actions()
            for index, slot in list(running.items()):
                episode = slot.step(actions[index])
                if episode is not None:
                    del running[index]
                    yield episode

    def _build(self, make_env: MakeEnv) -> gymnasium.Env[Any, Any]:
        """Make an environment and check that it has the shapes of the data."""
        self._place.enter("an environment being built")
        try:
            env = make_env()
        except FdError as error:
            raise FdError(f"{self._batch.name}: {error}") from None
        shapes, allowed = (
            (env.observation_space.shape, env.action_space.shape),
            (self._batch.obs_shape, (self._batch.act_dim,)),
        )
        if shapes != allowed:
            raise FdError(
                f"{self._batch.name}: observations and actions have shapes {shapes[0]} and {shapes[1]}, the data have"
                f" {allowed[0]} and {allowed[1]}"
            )
        return env

    def _actions(self) -> Floats:
        """Act in every row. The actions of rows without an episode go nowhere."""
        self._place.enter(f"the policy of snapshot {self._step}")
        actions = self._act(self._observations, self._noise)
        allowed = (*self._noise.shape[:2], self._batch.act_dim)
        if actions.shape != allowed:
            raise FdError(f"{self._batch.name}: the policy gave actions of shape {actions.shape}, allowed: {allowed}")
        if not np.isfinite(actions).all():
            seed = self._batch.seeds[int(np.argwhere(~np.isfinite(actions))[0][0])]
            finite = "are finite" if np.isfinite(self._observations).all() else "are not finite either"
            raise FdError(
                f"{self._batch.name}: the policy of seed {seed}, snapshot {self._step} gave NaN or infinity as an action"
                f" (the observations {finite})"
            )
        return actions


class _Slot:
    """An environment, its rows of the batch, and the episode it is in."""

    def __init__(self, env: gymnasium.Env[Any, Any], observation: Floats, noise: Floats, place: Place) -> None:
        self._env, self._observation, self._noise, self._place = env, observation, noise, place

    def start(self, key: Key) -> None:
        """Reset the environment and show its first observation and noise."""
        self._key, self._text = key, f"the environment of {key}, in "
        self._place.enter(self._text + "reset")
        seed, self._generator = streams(key)
        self._return, self._success, self._length = 0.0, False, 0
        observation, _ = self._env.reset(seed=seed)
        self._show(observation)

    def step(self, action: Floats) -> Episode | None:
        """Execute the action; return the episode if it ended, and else show the next observation and noise."""
        self._length += 1
        self._place.enter(f"{self._text}step {self._length}")
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._return += float(reward)
        self._success |= bool(info["success"])
        if terminated or truncated:
            key = self._key
            return Episode(key.seed, key.step, key.episode, self._return, self._success, self._length)
        self._show(observation)
        return None

    def _show(self, observation: Floats) -> None:
        self._observation[:] = observation
        self._generator.standard_normal(out=self._noise, dtype=np.float32)


def _end_with_parent() -> None:
    """End this process when its parent is gone, whatever the simulator is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
