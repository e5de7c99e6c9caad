"""The worker's side of `fd.rollout`: a process that owns simulators and runs the episodes it is handed.

A worker answers each message with one of its own. Observations, noise and actions travel through shared memory; the
pipe carries which episodes to start, and which ended. Torch is not imported here: workers stay small and quick to start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
NOWHERE = -1


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
class Memory:
    """Flat ctypes arrays that the parent and all workers share. A slot owns a row of each of the first three."""

    observations: Any  # float32, rows of width O
    noise: Any  # float32, rows of width A
    actions: Any  # float32, rows of width A
    places: Any  # int32, for each worker the slot it is in (or NOWHERE) and its step there (0: reset)
    obs_dim: int
    act_dim: int

    def rows(self) -> tuple[Floats, Floats, Floats]:
        """Return [slots, O], [slots, A] and [slots, A] views of observations, noise and actions."""
        return (
            np.frombuffer(self.observations, np.float32).reshape(-1, self.obs_dim),
            np.frombuffer(self.noise, np.float32).reshape(-1, self.act_dim),
            np.frombuffer(self.actions, np.float32).reshape(-1, self.act_dim),
        )

    def spots(self) -> NDArray[np.int32]:
        """Return the [workers, 2] view of places."""
        return np.frombuffer(self.places, np.int32).reshape(-1, 2)


def streams(key: Key) -> tuple[int, np.random.Generator]:
    """Return the environment seed, below 2**32, and the policy's noise stream of one episode.

    They are the two children of `SeedSequence(seed, spawn_key=(step, episode))`: an episode can be replayed alone.
    """
    environment, noise = np.random.SeedSequence(key.seed, spawn_key=(key.step, key.episode)).spawn(2)
    return int(environment.generate_state(1)[0]), np.random.Generator(np.random.PCG64(noise))


def serve(
    connection: Connection[Any, Any], make_env: MakeEnv, *, shares: list[list[int]], memory: Memory, worker: int
) -> None:
    """Build an environment for each slot, then take turns until the process is ended from outside.

    Args:
        connection: gets {} for each environment built, then {slot: Episode} with the episodes that ended for each
            message (half, {slot: Key to start}); and, as the last answer, a text when an environment fails.
        make_env: see `fd.rollout.Rollout`.
        shares: this worker's slots in each half-batch.
        memory: shared with the parent and the other workers.
        worker: its row of `memory.places`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = memory.spots()[worker]
    try:
        slots = {}
        for slot in (slot for share in shares for slot in share):
            place[:] = slot, 0
            slots[slot] = _Slot(make_env(), slot, memory)
            connection.send({})
        while True:
            place[0] = NOWHERE
            half, starts = connection.recv()
            connection.send(_turn({slot: slots[slot] for slot in shares[half]}, starts, place))
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except Exception as error:  # noqa: BLE001 any simulator, any fault: the parent names it and ends the stage
        connection.send(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _turn(slots: dict[int, _Slot], starts: dict[int, Key], place: NDArray[np.int32]) -> dict[int, Episode]:
    """Start the given episodes and step the other running ones; return those that ended."""
    ended = {}
    for number, slot in slots.items():
        if number in starts:
            place[:] = number, 0
            slot.start(starts[number])
        elif slot.running:
            place[:] = number, slot.length + 1
            if slot.step():
                ended[number] = slot.episode()
    return ended


class _Slot:
    """An environment, its rows in the shared memory, and the episode it is in."""

    def __init__(self, env: gymnasium.Env[Any, Any], number: int, memory: Memory) -> None:
        shapes = (env.observation_space.shape, env.action_space.shape)
        if shapes != ((memory.obs_dim,), (memory.act_dim,)):
            raise ValueError(
                f"observations and actions have shapes {shapes[0]} and {shapes[1]},"
                f" the data have ({memory.obs_dim},) and ({memory.act_dim},)"
            )
        self._env = env
        self._observation, self._noise, self._action = (rows[number] for rows in memory.rows())
        self.running = False
        self.length = 0

    def start(self, key: Key) -> None:
        """Reset the environment and show its first observation and noise."""
        seed, self._generator = streams(key)
        self._key, self._return, self._success = key, 0.0, False
        self.running, self.length = True, 0
        observation, _ = self._env.reset(seed=seed)
        self._show(observation)

    def step(self) -> bool:
        """Execute the action; return whether the episode ended."""
        # A copy: an environment may keep the action, whose row the parent overwrites.
        observation, reward, terminated, truncated, info = self._env.step(self._action.copy())
        self.length += 1
        self._return += float(reward)
        self._success |= bool(info["success"])
        self._show(observation)
        self.running = not (terminated or truncated)
        return not self.running

    def episode(self) -> Episode:
        """Return the row of the episode that ended."""
        return Episode(
            seed=self._key.seed,
            step=self._key.step,
            episode=self._key.episode,
            return_=self._return,
            success=self._success,
            length=self.length,
        )

    def _show(self, observation: Floats) -> None:
        self._observation[:] = observation
        self._generator.standard_normal(out=self._noise, dtype=np.float32)


def _end_with_parent() -> None:
    """End this process when its parent is gone, whatever the simulator is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
