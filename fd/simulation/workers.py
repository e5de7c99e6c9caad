"""Worker processes: starts them, hands them jobs, watches and ends them, whatever their jobs are.

A worker makes the function that does its jobs, then does one job after the other and waits for nothing else. It writes
its current activity to memory shared with its parent, so that an error says where the worker died or hung.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fd.errors import FdError
from fd.runtime import signals
from fd.runtime.limits import check_room, gib, memory_limit

MakeServe = Callable[..., Callable[[Any], Iterable[Any]]]  # arguments -> (a job -> its answers)
START = 60.0  # seconds that a worker may take for its imports, in addition to the timeout
# Least memory in bytes of a worker with its libraries (measured: 160 MiB) and of a simulator (1 MiB in OGBench's mazes, 180 MiB in cube).
LEAST_PROCESS, LEAST_SIMULATOR = 100 * 2**20, 2**20
_IDLE = "a process between two jobs"
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Large memory pages, if the kernel grants them on request: several simulators that take turns then step 6 % faster.
# A value set by the user is kept.
_ENVIRONMENT["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
# The same kernels of numpy's matrix products on all processors that support them. Otherwise OpenBLAS chooses by the
# processor, and the inverse kinematics of OGBench's manipulation gives different episodes.
if (_PROCESSOR := Path("/proc/cpuinfo")).exists() and "avx2" in _PROCESSOR.read_text().split():
    _ENVIRONMENT["OPENBLAS_CORETYPE"] = os.environ.get("OPENBLAS_CORETYPE", "Haswell")


class Place:
    """A worker's current activity, in memory shared with its parent, which reads it when the worker dies or hangs.

    The memory's file is unlinked from the start, so that it never remains after this process dies.
    """

    def __init__(self, context: SpawnContext) -> None:
        self._text, self._beats = context.RawArray("c", 256), context.RawValue("Q")
        self.enter("a process being started")

    def enter(self, text: str) -> None:
        """Record the next activity."""
        self._text.value = text.encode()[:255]
        self.beat()

    def beat(self) -> None:
        """Record progress."""
        self._beats.value += 1

    @property
    def beats(self) -> int:
        """Number of calls of `enter` and `beat`; a worker makes no progress while it stays the same."""
        return int(self._beats.value)

    def __str__(self) -> str:
        """Name the place in errors."""
        return str(self._text.value.decode(errors="replace"))


_place: Place | None = None  # of this process, if it is a worker


def enter(text: str) -> None:
    """Tell the parent of this worker the next activity; does nothing in other processes."""
    if _place is not None:
        _place.enter(text)


def beat() -> None:
    """Tell the parent of this worker that there was progress; does nothing in other processes."""
    if _place is not None:
        _place.beat()


class Workers:
    """A pool of worker processes, each with one thread. Used as a context manager.

    The processes end when the context is left, when the pool is garbage-collected, and when this process dies, even by
    a signal that it cannot catch. They block the signals of `fd.runtime.signals`, which reach a whole process group:
    the parent ends them.
    """

    def __init__(
        self, name: str, make: MakeServe, shares: Sequence[tuple[Any, ...]], *, timeout: float, simulators: int = 1
    ) -> None:
        """Start a process for each share and wait until all are ready.

        Args:
            name: name of the work in errors.
            make: picklable. Each process calls it with its share; it returns a function from a job to its answers. An
                FdError of either is raised here; other exceptions become an FdError that names the worker's activity.
            shares: arguments of `make`, picklable.
            timeout: seconds within which a worker that has something to do must call `enter` or `beat`.
            simulators: least number in each process.

        Raises:
            FdError: a worker fails, dies or hangs, or this process may not use the memory or start the processes that are needed.
        """
        self._name, self._timeout = name, timeout
        check_room(
            len(shares) * (LEAST_PROCESS + simulators * LEAST_SIMULATOR),
            what=f"{name}: {len(shares)} processes of {simulators} simulators",
            allowed="a smaller compute.workers or evaluate.environments",
            limit=memory_limit(alone=False),
        )
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks in whatever state they are
        try:
            self._workers = [_Worker.of(context, name, make, share) for share in shares]
        except OSError as error:
            raise self._unstarted(error) from None
        # Runs also at the end of the program, before multiprocessing waits for processes that it cannot terminate.
        Finalize(self, _end, (self._workers,), exitpriority=0)
        try:
            # Signal handlers run in the main thread: their exceptions cannot come between the start of a process and
            # its record. A threading.Thread has locks that such an exception can leave locked.
            _thread.start_new_thread(_start, (list(self._workers),))
            for _ in self.answers():
                pass
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the pool; its workers are ready."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers at once, because they hold nothing worth saving. Closing twice does no harm."""
        _end(self._workers)

    def do(self, jobs: Sequence[tuple[Any, int]]) -> Iterator[Any]:
        """Hand each job, given as (job, number of its answers), to the next free worker.

        Yields:
            Answers, as they come.

        Raises:
            FdError: a worker fails, dies or hangs. This closes the pool, and so does closing the iterator before its
                end.
        """
        if jobs and not self._workers:
            raise ValueError("the pool is closed")
        waiting = iter(jobs)
        try:
            for worker, first in zip(self._workers, waiting, strict=False):
                self.ask(worker, *first)
            for worker, answer in self.answers():
                if not worker.due and (job := next(waiting, None)):
                    self.ask(worker, *job)
                yield answer
        except BaseException:
            self.close()
            raise

    def ask(self, worker: _Worker, job: Any, answers: int = 1) -> None:
        """Hand a job to a worker that has none."""
        worker.due, worker.since = answers, time.monotonic()
        try:
            worker.connection.send(job)
        except OSError:
            raise self._death(worker) from None

    def answers(self) -> Iterator[tuple[_Worker, Any]]:
        """Yield the workers' answers until none is due."""
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
        """Raise an FdError if a worker that has not answered hangs."""
        beats, now = worker.place.beats, time.monotonic()
        if beats != worker.beats:
            worker.beats, worker.since = beats, now
        elif now - worker.since > self._timeout:
            raise FdError(f"{self._name}: {worker.place}: hangs, no progress in {self._timeout:g} s")

    def _unstarted(self, error: Exception) -> Exception:
        """What to raise if a process cannot be started: an FdError at a limit of open files or processes."""
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
            return error
        return FdError(
            f"{self._name}: a process cannot be started: {error.strerror} (allowed: a smaller compute.workers, or higher"
            " limits in `ulimit -n` and `ulimit -u`)"
        )

    def _death(self, worker: _Worker) -> Exception:
        if worker.error is not None:
            return self._unstarted(worker.error)
        worker.process.join(self._timeout)
        code, (limit, source) = worker.process.exitcode, memory_limit(alone=False)
        hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        hint += f": {gib(limit)} are the limit of {source}" if hint and source else ""
        return FdError(f"{self._name}: {worker.place}: its process died with exit code {code}{hint}")


@dataclass(eq=False)
class _Worker:
    """A worker process, the parent's end of its pipe, and its progress.

    Attributes:
        theirs: the worker's end, closed here once the worker has it, so that its death ends the stream.
        starting: held while the process is started; reentrant, because `kill` may be interrupted and called again.
        since: time (`time.monotonic`) at which the parent last saw progress.
        beats: number of beats of its place at that time.
        due: number of answers still expected: one when it is ready, then those of its job.
        wanted: whether the process may still be started.
        error: why it could not be started.
    """

    process: SpawnProcess
    connection: Connection[Any, Any]
    theirs: Connection[Any, Any]
    place: Place
    starting: threading.RLock
    since: float = float("inf")
    beats: int = 0
    due: int = 1
    wanted: bool = True
    error: Exception | None = None

    @classmethod
    def of(cls, context: SpawnContext, name: str, make: MakeServe, share: tuple[Any, ...]) -> Self:
        """Return a worker; its process is not yet started."""
        place, (ours, theirs) = Place(context), context.Pipe()
        process = context.Process(target=_work, args=(theirs, place, name, make, share), daemon=True)
        return cls(process, ours, theirs, place, threading.RLock(), beats=place.beats)

    def start(self) -> None:
        """Start the process; signals that ask it to end are blocked from its first instruction, as in this thread."""
        with self.starting:
            try:
                if self.wanted:
                    resource_tracker.ensure_running()  # starting the tracker unblocks the signals
                    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ASKS)
                    self.process.start()
            except Exception as error:  # noqa: BLE001 the main thread raises it
                self.error = error
            self.since = time.monotonic() + START
            self.theirs.close()

    def kill(self) -> None:
        """End the process, also one that is being started."""
        self.wanted = False
        with self.starting:
            if self.process.pid is not None:
                self.process.kill()

    def join(self) -> None:
        """Wait until the killed process has ended."""
        if self.process.pid is not None:
            self.process.join()
        self.connection.close()


def _start(workers: list[_Worker]) -> None:
    """Start the processes with one thread each, because they share the cores, and with large memory pages."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    for worker in workers:
        worker.start()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _end(workers: list[_Worker]) -> None:
    """End the processes; after an exception it can be called again."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    workers.clear()


def _work(connection: Connection[Any, Any], place: Place, name: str, make: MakeServe, share: tuple[Any, ...]) -> None:
    """Body of a worker: send None when it is ready, then the answers to every job, until the parent ends the process.

    If something fails, the last message is an FdError.
    """
    global _place
    _place = place
    _end_with_parent()
    try:
        serve = make(*share)
        place.enter(_IDLE)
        connection.send(None)
        while True:
            for answer in serve(connection.recv()):
                connection.send(answer)
            place.enter(_IDLE)
    except FdError as error:
        fault = error
    except Exception as error:  # noqa: BLE001 a simulator may raise anything: the parent names it and ends the stage
        fault = FdError(f"{name}: {place}: {type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": "))
    with contextlib.suppress(OSError):  # the parent may be gone
        connection.send(fault)


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent is gone, even while foreign code holds the interpreter's lock.

    The parent holds the other end of the sentinel, a pipe. When that is closed, the kernel sends SIGIO, which
    ends this process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if wait([parent.sentinel], 0):  # the parent was gone before
        os._exit(1)
