"""The worker's side of `fd.rollout`: a process that owns simulators and runs the episodes it is handed.

A worker answers each message with one of its own. All else travels through shared memory: observations, noise and actions,
which episodes to start, what came of those that ended. An ordinary turn is then a byte on the pipe each way and nothing to
pickle, and the end of the pipe still tells at once that a process died. Torch is not imported here: workers stay small and
quick to start.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
NOWHERE = -1
# Phases of a slot. The parent frees and starts it between two turns of its half-batch; in a turn it is its worker's.
FREE, START, RUNNING, ENDED = range(4)


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


class Shared:
    """A numpy array of zeros that can be sent to a process at its start, and is the same memory there.

    Its file is unlinked from the start, so that no death of this process leaves it behind.
    """

    def __init__(self, context: SpawnContext, dtype: type[np.number[Any]], *shape: int) -> None:
        self._bytes = context.RawArray("b", math.prod(shape) * np.dtype(dtype).itemsize)
        self._dtype, self._shape = dtype, shape

    @property
    def array(self) -> NDArray[Any]:
        """The memory as an array."""
        return np.frombuffer(self._bytes, self._dtype).reshape(self._shape)


@dataclass(frozen=True)
class Memory:
    """What the parent and all workers share: a row for each slot, and in `places` for each worker."""

    observations: Shared  # float32
    noise: Shared  # float32
    actions: Shared  # float32
    phases: Shared  # int8
    keys: Shared  # int64: seed, step and episode of its Key
    outcomes: Shared  # float64: return, success and length of the episode that ended
    places: Shared  # int32: the slot that the worker is in (or NOWHERE) and its step there (0: reset)

    @classmethod
    def allocate(
        cls, context: SpawnContext, slots: int, workers: int, *, obs_dim: int, noise_dim: int, act_dim: int
    ) -> Memory:
        """Return zeroed memory; all slots are free."""
        return cls(
            observations=Shared(context, np.float32, slots, obs_dim),
            noise=Shared(context, np.float32, slots, noise_dim),
            actions=Shared(context, np.float32, slots, act_dim),
            phases=Shared(context, np.int8, slots),
            keys=Shared(context, np.int64, slots, 3),
            outcomes=Shared(context, np.float64, slots, 3),
            places=Shared(context, np.int32, workers, 2),
        )


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
        connection: gets an empty message for each environment built, then for each message, the number of a half-batch
            as one byte, when its turn is done; and, as the last answer, a text when an environment fails.
        make_env: see `fd.rollout.Rollout`.
        shares: this worker's slots in each half-batch.
        memory: shared with the parent and the other workers.
        worker: its row of `memory.places`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends the workers
    if sys.platform == "linux":  # a worker that wakes up does not interrupt the policy, for which all workers wait
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = memory.places.array[worker]
    try:
        slots = {}
        for slot in (slot for share in shares for slot in share):
            place[:] = slot, 0
            slots[slot] = _Slot(make_env(), slot, memory, place)
            connection.send_bytes(b"")
        halves = [[slots[slot] for slot in share] for share in shares]
        while True:
            place[0] = NOWHERE
            (half,) = connection.recv_bytes()
            for mine in halves[half]:
                mine.turn()
            connection.send_bytes(b"")
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except Exception as error:  # noqa: BLE001 any simulator, any fault: the parent names it and ends the stage
        connection.send_bytes(f"{type(error).__name__}: {' '.join(str(error).split())}".encode())


class _Slot:
    """An environment, its rows in the shared memory, and the episode it is in."""

    def __init__(self, env: gymnasium.Env[Any, Any], number: int, memory: Memory, place: NDArray[np.int32]) -> None:
        self._observation, self._noise, self._action, self._key, self._outcome = (
            rows.array[number]
            for rows in (memory.observations, memory.noise, memory.actions, memory.keys, memory.outcomes)
        )
        shapes, allowed = (
            (env.observation_space.shape, env.action_space.shape),
            (self._observation.shape, self._action.shape),
        )
        if shapes != allowed:
            raise ValueError(
                f"observations and actions have shapes {shapes[0]} and {shapes[1]}, the data have {allowed[0]} and {allowed[1]}"
            )
        self._env, self._number, self._phases, self._place = env, number, memory.phases.array, place

    def turn(self) -> None:
        """Start the episode that waits, or take a step of the one that runs."""
        phase = self._phases[self._number]
        if phase == START:
            self._place[:] = self._number, 0
            self._start(Key(*(int(number) for number in self._key)))
            self._phases[self._number] = RUNNING
        elif phase == RUNNING:
            self._place[:] = self._number, self._length + 1
            if self._step():
                self._outcome[:] = self._return, self._success, self._length
                self._phases[self._number] = ENDED

    def _start(self, key: Key) -> None:
        """Reset the environment and show its first observation and noise."""
        seed, self._generator = streams(key)
        self._return, self._success, self._length = 0.0, False, 0
        observation, _ = self._env.reset(seed=seed)
        self._show(observation)

    def _step(self) -> bool:
        """Execute the action; return whether the episode ended."""
        # A copy: an environment may keep the action, whose row the parent overwrites.
        observation, reward, terminated, truncated, info = self._env.step(self._action.copy())
        self._length += 1
        self._return += float(reward)
        self._success |= bool(info["success"])
        self._show(observation)
        return terminated or truncated

    def _show(self, observation: Floats) -> None:
        self._observation[:] = observation
        self._generator.standard_normal(out=self._noise, dtype=np.float32)


def _end_with_parent() -> None:
    """End this process when its parent is gone, whatever the simulator is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
