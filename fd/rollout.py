"""Episodes of many seeds' policies in simulators, in worker processes that each run whole batches of them alone.

The environments are built once and serve every snapshot. Jobs, ranges of episodes at one snapshot, go to whichever worker is
free. All batches have one shape, and their content depends on the job alone: no number in the result depends on the
number of workers.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from fd.errors import FdError
from fd.simulators import Batch, Episode, Job, MakeAct, MakeEnv, Place, serve


class Rollout:
    """A pool of worker processes, each with m = ceil(environments / S) simulators for each of S seeds.

    Used as a context manager. The processes end when it is left, when `run` raises, and when this process dies, even by
    a signal that it cannot catch.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        make_act: MakeAct,
        *,
        name: str,
        seeds: Sequence[int],
        obs_shape: tuple[int, ...],
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
            make_act: picklable. Given the step of a snapshot, it returns the policies of all seeds (see
                `fd.simulators.Act`); every worker calls it when it comes to another snapshot. An FdError that it raises
                is that of `run`.
            name: what errors call the environment.
            seeds: training seeds, one policy each.
            obs_shape: of an observation; images are three-dimensional, in bytes.
            noise_dim: standard normal numbers that the policy gets for an environment and step.
            act_dim: width of an action.
            environments: alive in a worker, rounded up to a multiple of the number of seeds.
            workers: processes, one core each; more than there will be jobs, ceil(episodes / m) a snapshot, are of no use.
            timeout: seconds within which a worker must make some progress: build an environment, reset it, take a step,
                load a policy or act.

        Raises:
            FdError: an environment cannot be built or is of other shapes, or its process dies or hangs.
        """
        each = -(-environments // len(seeds))
        self._batch = Batch(name, tuple(seeds), each, obs_shape=obs_shape, noise_dim=noise_dim, act_dim=act_dim)
        self._timeout = timeout
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._start(make_env, make_act)
            for _ in self._answers():
                pass
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
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.connection.close()
        self._workers = []

    def run(
        self, steps: Sequence[int], *, episodes: int, on_episode: Callable[[Episode], object] | None = None
    ) -> Iterator[tuple[int, list[Episode]]]:
        """Run episodes 0, 1, … of every seed at every snapshot.

        Args:
            steps: of the snapshots, distinct; part of the random streams.
            episodes: of each seed and snapshot.
            on_episode: called with each episode when it ends.

        Yields:
            The step of a snapshot and its S * episodes rows, sorted by seed and episode, as soon as all have ended.

        Raises:
            FdError: an environment or a policy raises or hangs, its process dies, or an action is not finite. The pool
                is closed then, as it is when the iterator is closed before its end.
        """
        if not self._workers:
            raise ValueError("the pool is closed")
        starts = range(0, episodes, self._batch.each)
        numbers = [range(start, min(start + self._batch.each, episodes)) for start in starts]
        jobs = iter([Job(step, some) for step in steps for some in numbers])
        rows: defaultdict[int, list[Episode]] = defaultdict(list)
        try:
            for worker in self._workers:
                self._hand_over(worker, jobs)
            for worker, row in self._answers():
                if not worker.due:
                    self._hand_over(worker, jobs)
                rows[row.step].append(row)
                if on_episode is not None:
                    on_episode(row)
                if len(rows[row.step]) == len(self._batch.seeds) * episodes:
                    yield row.step, sorted(rows[row.step], key=lambda row: (row.seed, row.episode))
        except BaseException:
            self.close()
            raise

    def _start(self, make_env: MakeEnv, make_act: MakeAct) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks in whatever state they are
        place = Place(context)
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, place, make_env, make_act, self._batch), daemon=True)
        process.start()
        self._workers.append(_Worker(process, here, place, since=time.monotonic()))
        there.close()  # the worker's end is its alone, so that its death is the end of the stream

    def _hand_over(self, worker: _Worker, jobs: Iterator[Job]) -> None:
        """Give the next job, if there is one, to a worker that has none."""
        job = next(jobs, None)
        if job is not None:
            worker.due, worker.since = len(self._batch.seeds) * len(job.episodes), time.monotonic()
            try:
                worker.connection.send(job)
            except OSError:
                raise self._death(worker) from None

    def _answers(self) -> Iterator[tuple[_Worker, Any]]:
        """Give the workers' answers until none is due."""
        while busy := {worker.connection: worker for worker in self._workers if worker.due}:
            ready = wait(list(busy), min(1.0, self._timeout / 4))
            for connection, worker in busy.items():
                if connection in ready:
                    answer = self._receive(worker)
                    worker.due -= 1
                    yield worker, answer
                else:
                    self._check(worker)

    def _receive(self, worker: _Worker) -> Any:
        """Return the answer of a worker that has one."""
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if isinstance(answer, FdError):
            raise answer
        return answer

    def _check(self, worker: _Worker) -> None:
        """Raise an error if a worker, which has given no answer, hangs."""
        beats, now = worker.place.beats, time.monotonic()
        if beats != worker.beats:
            worker.beats, worker.since = beats, now
        elif now - worker.since > self._timeout:
            raise FdError(f"{self._batch.name}: {worker.place}: hangs, no progress in {self._timeout:g} s")

    def _death(self, worker: _Worker) -> FdError:
        worker.process.join(self._timeout)
        code = worker.process.exitcode
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return FdError(f"{self._batch.name}: {worker.place}: its process died with exit code {code}{hint}")


@dataclass
class _Worker:
    """A worker process, the parent's end of its pipe, and what it is doing.

    Attributes:
        since: time (`time.monotonic`) at which it was last found to have made progress.
        beats: those of its place then.
        due: answers that it owes: one when its environments are built, then one for each episode of its job.
    """

    process: SpawnProcess
    connection: Connection[Any, Any]
    place: Place
    since: float
    beats: int = 0
    due: int = 1
