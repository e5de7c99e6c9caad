"""The worker's side of `fd.simulation.rollout`: runs episodes with its own simulators and its own copy of the policy.

A worker needs nothing from other processes until a job is done, so it never waits. This module does not import torch;
`make_act` does, if the policy needs it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.simulation.workers import enter

Floats = NDArray[np.float32]
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
# (observations [S, m, O], standard normal noise [S, m, Z]) -> actions [S, m, A] in a new array, row s by the
# policy of seed s. The arguments are overwritten after the call.
Act = Callable[[Floats, Floats], Floats]
MakeAct = Callable[[int], Act]


@dataclass(frozen=True)
class Key:
    """Identifies an episode: training seed, step of the snapshot, number of the episode."""

    seed: int
    step: int
    episode: int

    def __str__(self) -> str:
        """Name the episode in errors."""
        return f"seed {self.seed}, snapshot {self.step}, episode {self.episode}"


@dataclass(frozen=True)
class Episode:
    """Result of an episode; `success`: `info["success"]` was true in at least one of its steps."""

    seed: int
    step: int
    episode: int
    return_: float
    success: bool
    length: int


@dataclass(frozen=True)
class EpisodeJob:
    """A job of a worker: for every seed, the episodes with these numbers, at most m, at the snapshot of `step`."""

    step: int
    episodes: range


@dataclass(frozen=True)
class EpisodeBatch:
    """Layout of a policy's input: `each` environments (m) per seed, and the shape of a row; errors show `name`."""

    name: str
    seeds: tuple[int, ...]
    each: int
    obs_shape: tuple[int, ...]
    noise_dim: int
    act_dim: int


def streams(key: Key) -> tuple[int, np.random.Generator]:
    """Return the environment seed, below 2**32, and the policy's noise stream of one episode.

    They are the two children of `SeedSequence(seed, spawn_key=(step, episode))`: an episode can be replayed alone.
    """
    environment, noise = np.random.SeedSequence(key.seed, spawn_key=(key.step, key.episode)).spawn(2)
    return int(environment.generate_state(1)[0]), np.random.Generator(np.random.PCG64(noise))


def build_environment(make_env: MakeEnv, name: str, shapes: tuple[tuple[int, ...], ...]) -> gymnasium.Env[Any, Any]:
    """Make an environment and check that it has the shapes of the data.

    Args:
        make_env: see `fd.simulation.rollout.Rollout`.
        name: name of the environment in errors.
        shapes: of an observation and of an action.

    Raises:
        FdError: the environment cannot be made or has other shapes.
    """
    enter("an environment being built")
    try:
        env = make_env()
    except FdError as error:
        raise FdError(f"{name}: {error}") from None
    found = (env.observation_space.shape, env.action_space.shape)
    if found != shapes:
        raise FdError(
            f"{name}: observations and actions have shapes {found[0]} and {found[1]}, the data have {shapes[0]} and"
            f" {shapes[1]}"
        )
    return env


class Simulators:
    """The environments of a worker, and the policy that acts in all of them at once."""

    def __init__(self, make_env: MakeEnv, make_act: MakeAct, batch: EpisodeBatch) -> None:
        """Build the environments; see `fd.simulation.rollout.Rollout`."""
        self._make_act, self._batch = make_act, batch
        self._step: int | None = None  # snapshot of the loaded policy
        shape, shapes = (len(batch.seeds), batch.each), (batch.obs_shape, (batch.act_dim,))
        self._observations = np.zeros((*shape, *batch.obs_shape), np.float32 if len(batch.obs_shape) == 1 else np.uint8)
        self._noise = np.zeros((*shape, batch.noise_dim), np.float32)
        self._slots = {
            index: _Slot(build_environment(make_env, batch.name, shapes), self._observations[index], self._noise[index])
            for index in np.ndindex(shape)
        }

    def __call__(self, job: EpisodeJob) -> Iterator[Episode]:
        """Run the episodes of a job in lock-step; yield each when it ends."""
        if job.step != self._step:
            enter(f"the policy of snapshot {job.step} being loaded")
            first = self._step is None
            self._act, self._step = self._make_act(job.step), job.step
            if first:
                gc.freeze()  # environments and libraries stay: scanning them for garbage takes 2 % of the time
        # The batch must depend on the job alone, also in rows without an episode.
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

    def _actions(self) -> Floats:
        """Act in every row. The actions of rows without an episode are not used."""
        enter(f"the policy of snapshot {self._step}")
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
    """An environment, its rows of the batch, and its current episode."""

    def __init__(self, env: gymnasium.Env[Any, Any], observation: Floats, noise: Floats) -> None:
        self._env, self._observation, self._noise = env, observation, noise

    def start(self, key: Key) -> None:
        """Reset the environment and write its first observation and noise to the batch."""
        self._key, self._text = key, f"the environment of {key}, in "
        enter(self._text + "reset")
        seed, self._generator = streams(key)
        self._return, self._success, self._length = 0.0, False, 0
        observation, _ = self._env.reset(seed=seed)
        self._show(observation)

    def step(self, action: Floats) -> Episode | None:
        """Execute the action; return the episode if it ended, else write the next observation and noise."""
        self._length += 1
        enter(f"{self._text}step {self._length}")
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
