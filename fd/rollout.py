"""Episodes of many seeds' policies in simulators that live in worker processes.

The environments are built once and serve every snapshot. Environment j of a seed runs its episodes j, j + n, j + 2n, …; a worker steps its
environments, and while it waits for actions another one is at work. A call of the policy always has the rows of all environments,
of which those of the waiting worker are used. So no number in the result depends on the number of workers or on who is faster.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import Any, Self

import numpy as np

from fd.errors import FdError
from fd.simulators import NOWHERE, Episode, Floats, Key, MakeEnv, Memory, serve

# (observations [S, n, O], standard normal noise [S, n, A]) -> actions [S, n, A], row s by the policy of seed s.
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
            act_dim: width of an action.
            environments: alive at a time, rounded up to a multiple of the number of seeds.
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
        memory = _allocate(context, slots, workers, widths=(obs_dim, act_dim))
        self._places = memory.spots()
        self._observations, self._noise, self._actions = (
            rows.reshape(len(self._seeds), each, rows.shape[1]) for rows in memory.rows()
        )
        self._each, self._step = each, 0
        self._shares = [range(worker, slots, workers) for worker in range(workers)]  # the slots of each worker
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection[Any, Any]] = []
        try:
            for worker in range(workers):
                self._start(context, make_env, worker=worker, memory=memory)
            for worker, share in enumerate(self._shares):
                for _ in share:
                    self._wait({worker: time.monotonic()})
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
        self._processes, self._connections = [], []

    def run(
        self, act: Act, *, step: int, episodes: int, on_episode: Callable[[Episode], object] | None = None
    ) -> list[Episode]:
        """Run episodes 0, 1, … of every seed at one snapshot.

        Args:
            act: the policies of all seeds. It is always called with the same shapes.
            step: of the snapshot; part of the random streams.
            episodes: of each seed.
            on_episode: called with each episode when it ends.

        Returns:
            S * episodes rows, sorted by seed and episode.

        Raises:
            FdError: an environment raises, dies or hangs, or an action is not finite. The pool is closed then.
        """
        rows: list[Episode] = []
        self._step = step
        episodes_of = {
            slot: [
                Key(self._seeds[slot // self._each], step, n) for n in range(slot % self._each, episodes, self._each)
            ]
            for share in self._shares
            for slot in share
        }
        left = [sum(len(episodes_of[slot]) for slot in share) for share in self._shares]
        try:
            asked = {worker: time.monotonic() for worker, count in enumerate(left) if count}
            for worker in asked:
                self._send(worker, {slot: episodes_of[slot] for slot in self._shares[worker]})
            while asked:
                for worker in self._wait(asked):
                    for row in self._receive(worker):
                        rows.append(row)
                        left[worker] -= 1
                        if on_episode is not None:
                            on_episode(row)
                    del asked[worker]
                    if left[worker]:
                        self._decide(act, worker)
                        self._send(worker, None)
                        asked[worker] = time.monotonic()
        except BaseException:
            self.close()
            raise
        return sorted(rows, key=lambda row: (row.seed, row.episode))

    def _start(self, context: SpawnContext, make_env: MakeEnv, *, worker: int, memory: Memory) -> None:
        here, there = context.Pipe()
        self._connections.append(here)
        details = {"share": self._shares[worker], "memory": memory, "worker": worker}
        process = context.Process(target=serve, args=(there, make_env), kwargs=details, daemon=True)
        process.start()
        self._processes.append(process)
        there.close()  # the worker's end is its alone, so that its death is the end of the stream

    def _decide(self, act: Act, worker: int) -> None:
        """Act for a worker. Other rows are old, or change meanwhile; their actions go nowhere."""
        actions = act(self._observations, self._noise)
        if actions.shape != self._actions.shape:
            raise FdError(
                f"{self._name}: the policy gave actions of shape {actions.shape}, allowed: {self._actions.shape}"
            )
        share = self._shares[worker]
        mine = slice(share.start, None, share.step)
        flat, rows = (array.reshape(-1, array.shape[-1])[mine] for array in (actions, self._observations))
        if not np.isfinite(flat).all():
            slot = share[int(np.argwhere(~np.isfinite(flat))[0][0])]
            finite = "are finite" if np.isfinite(rows).all() else "are not finite either"
            raise FdError(
                f"{self._name}: the policy of seed {self._seeds[slot // self._each]}, snapshot {self._step} gave NaN or"
                f" infinity as an action (the observations {finite})"
            )
        self._actions.reshape(-1, actions.shape[-1])[mine] = flat

    def _send(self, worker: int, message: dict[int, list[Key]] | None) -> None:
        """Ask a worker for a turn: with a message, to begin these episodes, by slot; without, to go on."""
        try:
            self._connections[worker].send(message)
        except OSError:
            raise self._death(worker) from None

    def _wait(self, asked: dict[int, float]) -> list[int]:
        """Return those workers that have answered, one at least; `asked`: when each was asked, by `time.monotonic`."""
        connections = {id(self._connections[worker]): worker for worker in asked}
        first = min(asked, key=lambda worker: asked[worker])
        left = max(asked[first] + self._timeout - time.monotonic(), 0)
        ready = wait([self._connections[worker] for worker in asked], left)
        if not ready:
            raise FdError(f"{self._name}: {self._place(first)}: hangs, no answer in {self._timeout:g} s")
        return sorted(connections[id(connection)] for connection in ready)

    def _receive(self, worker: int) -> list[Episode]:
        """Return a worker's answer: the episodes that ended in the turn."""
        try:
            answer: str | list[Episode] = self._connections[worker].recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if isinstance(answer, str):
            raise FdError(f"{self._name}: {self._place(worker)}: {answer}")
        return answer

    def _death(self, worker: int) -> FdError:
        self._processes[worker].join(self._timeout)
        code = self._processes[worker].exitcode
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return FdError(f"{self._name}: {self._place(worker)}: its process died with exit code {code}{hint}")

    def _place(self, worker: int) -> str:
        """What the worker is doing."""
        slot, steps, episode = (int(number) for number in self._places[worker])
        if slot == NOWHERE:
            return "a simulator process between two turns"
        if episode == NOWHERE:
            return "an environment being built"
        key = Key(self._seeds[slot // self._each], self._step, episode)
        return f"the environment of {key}, in " + (f"step {steps}" if steps else "reset")


def _allocate(context: SpawnContext, slots: int, workers: int, *, widths: tuple[int, int]) -> Memory:
    """Zeroed memory. Its file is unlinked from the start, so that no death of this process leaves it behind."""
    return Memory(
        observations=context.RawArray("f", slots * widths[0]),
        noise=context.RawArray("f", slots * widths[1]),
        actions=context.RawArray("f", slots * widths[1]),
        places=context.RawArray("i", workers * 3),
        obs_dim=widths[0],
        act_dim=widths[1],
    )
