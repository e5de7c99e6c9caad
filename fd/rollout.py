"""Episodes of many seeds' policies in simulators that live in worker processes.

The environments are built once and serve every snapshot. They stand in two half-batches: while the simulators step one, the
policy acts on the other. Episodes are handed out in lock-step with the batches, so which environment runs what, and the
shape and content of every batch, do not depend on the number of workers; nor, then, does any number in the result.
"""

from __future__ import annotations

import multiprocessing
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.simulators import ENDED, FREE, NOWHERE, START, Episode, Floats, Key, MakeEnv, Memory, serve

# (observations [S, n, O], standard normal noise [S, n, Z]) -> actions [S, n, A], row s by the policy of seed s.
# The arguments are views of memory that is overwritten after the call.
Act = Callable[[Floats, Floats], Floats]


class Rollout:
    """A pool of simulators, ceil(environments / S) for each of S seeds, shared out over worker processes.

    Used as a context manager. The processes end when it is left, when `run` raises, and when this process dies, even by
    a signal that it cannot catch.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        *,
        name: str,
        seeds: Sequence[int],
        obs_dim: int,
        noise_dim: int,
        act_dim: int,
        environments: int,
        workers: int,
        timeout: float,
    ) -> None:
        """Start the workers and build every environment.

        Args:
            make_env: picklable. Its environments give flat observations and `info["success"]` at every step, end their
                episodes themselves, and are reproducible by `reset(seed=)`.
            name: what errors call the environment.
            seeds: training seeds, one policy each.
            obs_dim: width of an observation.
            noise_dim: standard normal numbers that the policy gets a slot and step.
            act_dim: width of an action.
            environments: alive at a time, rounded up to a multiple of the number of seeds; two or more for each seed
                let policy and simulators work at the same time.
            workers: processes, one core each.
            timeout: seconds within which an environment must be built, and a turn of steps and resets be answered.

        Raises:
            FdError: an environment cannot be built or is of other shapes, or its process dies or hangs.
        """
        self._name, self._seeds, self._timeout = name, tuple(seeds), timeout
        each = -(-environments // len(self._seeds))
        workers = min(workers, each * len(self._seeds))
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks in whatever state they are
        slots = each * len(self._seeds)
        memory = Memory.allocate(context, slots, workers, obs_dim=obs_dim, noise_dim=noise_dim, act_dim=act_dim)
        self._phases, self._keys, self._outcomes, self._places = (
            rows.array for rows in (memory.phases, memory.keys, memory.outcomes, memory.places)
        )
        self._halves = _halves(len(self._seeds), each, workers=workers, memory=memory)
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection[Any, Any]] = []
        self._answers: list[select.poll] = []  # Connection.poll makes one of these at each call, which costs more
        try:
            for worker in range(workers):
                self._start(context, make_env, worker=worker, memory=memory)
            for worker in (owner for half in self._halves for owner in half.owners):
                self._receive(worker)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the pool, which is ready since its construction."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers at once, for nothing of theirs is worth saving. Closing twice does no harm."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
            process.close()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self._answers = [], [], []

    def run(
        self, act: Act, *, step: int, episodes: int, on_episode: Callable[[Episode], object] | None = None
    ) -> list[Episode]:
        """Run episodes 0, 1, … of every seed at one snapshot.

        Args:
            act: the policies of all seeds. It is called with one shape, or two when n is odd.
            step: of the snapshot; part of the random streams.
            episodes: of each seed.
            on_episode: called with each episode when it ends.

        Returns:
            S * episodes rows, sorted by seed and episode.

        Raises:
            FdError: an environment raises, dies or hangs, or an action is not finite. The pool is closed then.
        """
        rows: list[Episode] = []
        queues = [iter([Key(seed, step, episode) for episode in range(episodes)]) for seed in self._seeds]
        try:
            for half in self._halves:
                self._assign(half, queues)
                if half.busy():  # an answer that nobody collects would be taken for that of a later turn
                    self._send(half)
            while any(half.busy() for half in self._halves):
                for half in filter(_Half.busy, self._halves):
                    ended = self._collect(half)
                    rows += ended
                    if on_episode is not None:
                        for row in ended:
                            on_episode(row)
                    self._assign(half, queues)
                    if half.busy():
                        self._decide(act, half, step)
                        self._send(half)
        except BaseException:
            self.close()
            raise
        return sorted(rows, key=lambda row: (row.seed, row.episode))

    def _start(self, context: SpawnContext, make_env: MakeEnv, *, worker: int, memory: Memory) -> None:
        here, there = context.Pipe()
        self._connections.append(here)
        self._answers.append(select.poll())
        self._answers[-1].register(here, select.POLLIN)
        shares = [[slot for slot in half.slots if half.owner(slot) == worker] for half in self._halves]
        details = {"shares": shares, "memory": memory, "worker": worker}
        process = context.Process(target=serve, args=(there, make_env), kwargs=details, daemon=True)
        process.start()
        self._processes.append(process)
        there.close()  # the worker's end is its alone, so that its death is the end of the stream

    def _assign(self, half: _Half, queues: list[Iterator[Key]]) -> None:
        """Give the next episodes of each seed to its free slots."""
        for slot in half.in_phase(FREE):
            key = next(queues[half.seed_index(slot)], None)
            if key is not None:
                self._keys[slot] = key.seed, key.step, key.episode
                self._phases[slot] = START

    def _decide(self, act: Act, half: _Half, step: int) -> None:
        """Act on a half-batch. Rows without an episode hold an old observation; their actions go nowhere."""
        actions = act(half.observations, half.noise)
        if actions.shape != half.actions.shape:
            raise FdError(
                f"{self._name}: the policy gave actions of shape {actions.shape}, allowed: {half.actions.shape}"
            )
        if not np.isfinite(actions).all():
            seed = self._seeds[int(np.argwhere(~np.isfinite(actions))[0][0])]
            finite = "are finite" if np.isfinite(half.observations).all() else "are not finite either"
            raise FdError(
                f"{self._name}: the policy of seed {seed}, snapshot {step} gave NaN or infinity as an action"
                f" (the observations {finite})"
            )
        half.actions[:] = actions

    def _send(self, half: _Half) -> None:
        """Ask a half-batch's workers for a turn: start the episodes that wait, step the running ones."""
        for worker in half.workers:
            try:
                self._connections[worker].send_bytes(bytes([half.index]))
            except OSError:
                raise self._death(worker) from None

    def _collect(self, half: _Half) -> list[Episode]:
        """Wait for a half-batch's workers; return the episodes that ended, in the order of their slots."""
        for worker in half.workers:
            self._receive(worker)
        ended = half.in_phase(ENDED)
        self._phases[ended] = FREE
        return [self._episode(slot) for slot in ended]

    def _receive(self, worker: int) -> None:
        """Wait for a worker's next answer."""
        try:
            if not self._answers[worker].poll(1000 * self._timeout):
                raise FdError(f"{self._name}: {self._place(worker)}: hangs, no answer in {self._timeout:g} s")
            answer = self._connections[worker].recv_bytes()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if answer:
            raise FdError(f"{self._name}: {self._place(worker)}: {answer.decode()}")

    def _key(self, slot: int) -> Key:
        return Key(*(int(number) for number in self._keys[slot]))

    def _episode(self, slot: int) -> Episode:
        key, (return_, success, length) = self._key(slot), self._outcomes[slot]
        return Episode(
            key.seed, key.step, key.episode, return_=float(return_), success=bool(success), length=int(length)
        )

    def _death(self, worker: int) -> FdError:
        self._processes[worker].join(self._timeout)
        code = self._processes[worker].exitcode
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return FdError(f"{self._name}: {self._place(worker)}: its process died with exit code {code}{hint}")

    def _place(self, worker: int) -> str:
        """What the worker is doing."""
        slot, steps = (int(number) for number in self._places[worker])
        if slot == NOWHERE:
            return "a simulator process between two turns"
        if self._phases[slot] == FREE:
            return "an environment being built"
        return f"the environment of {self._key(slot)}, in " + (f"step {steps}" if steps else "reset")


@dataclass(frozen=True)
class _Half:
    """A half-batch: a run of slots, their rows as [S, n, width] arrays, and the worker of each slot."""

    index: int
    slots: range
    observations: Floats
    noise: Floats
    actions: Floats
    phases: NDArray[np.int8]
    owners: list[int]
    workers: list[int]

    def busy(self) -> bool:
        """Return whether it has an episode to run."""
        return bool((self.phases != FREE).any())

    def in_phase(self, phase: int) -> list[int]:
        """Return the slots in a phase."""
        return [self.slots[index] for index in np.flatnonzero(self.phases == phase)]

    def owner(self, slot: int) -> int:
        """Return the worker of a slot."""
        return self.owners[slot - self.slots.start]

    def seed_index(self, slot: int) -> int:
        """Return the index of the seed whose policy acts in a slot."""
        return (slot - self.slots.start) // int(self.observations.shape[1])


def _halves(seeds: int, each: int, *, workers: int, memory: Memory) -> list[_Half]:
    """Two half-batches of `each` slots a seed together, or one when there is but one slot a seed."""
    halves: list[_Half] = []
    for n in filter(None, (each - each // 2, each // 2)):
        first = halves[-1].slots.stop if halves else 0
        slots = range(first, first + seeds * n)
        dealt = [number % workers for number in range(len(slots))]
        # Dealt in opposite directions, so that what one half has too much for a worker the other has too little.
        owners = [workers - 1 - worker for worker in dealt] if halves else dealt
        observations, noise, actions = (
            rows.array[slots.start : slots.stop].reshape(seeds, n, -1)
            for rows in (memory.observations, memory.noise, memory.actions)
        )
        phases = memory.phases.array[slots.start : slots.stop]
        half = _Half(len(halves), slots, observations, noise, actions, phases, owners, sorted(set(owners)))
        halves.append(half)
    return halves
