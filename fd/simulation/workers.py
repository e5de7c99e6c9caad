"""Worker processes: started, handed jobs, watched and ended in one way, whatever they do.

A worker makes what does its jobs, then does them one after the other and waits for nothing else. What it is doing
stands in memory that it shares with its parent, so that a death or a hang can be placed.
"""

from __future__ import annotations

import _thread
import contextlib
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

MakeServe = Callable[..., Callable[[Any], Iterable[Any]]]  # arguments -> (a job -> its answers)
START = 60.0  # seconds more than at other times that a worker may take for its imports
_IDLE = "a process between two jobs"
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Memory in large pages, where the kernel gives them on request: several simulators that take turns then step 6 % faster.
# A user's own value stands.
_ENVIRONMENT["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
# The same kernels of numpy's matrix products on all processors that have them: OpenBLAS else chooses by the processor, and what the
# inverse kinematics of OGBench's manipulation then gives is another episode.
if (_PROCESSOR := Path("/proc/cpuinfo")).exists() and "avx2" in _PROCESSOR.read_text().split():
    _ENVIRONMENT["OPENBLAS_CORETYPE"] = os.environ.get("OPENBLAS_CORETYPE", "Haswell")


class Place:
    """What a worker is doing, in memory that it shares with its parent, who reads it when the worker dies or hangs.

    The memory's file is unlinked from the start, so that no death of this process leaves it behind.
    """

    def __init__(self, context: SpawnContext) -> None:
        self._text, self._beats = context.RawArray("c", 256), context.RawValue("Q")
        self.enter("a process being started")

    def enter(self, text: str) -> None:
        """Tell what comes next."""
        self._text.value = text.encode()[:255]
        self.beat()

    def beat(self) -> None:
        """Tell that there was progress."""
        self._beats.value += 1

    @property
    def beats(self) -> int:
        """Number of calls of `enter` and `beat`: a worker in which it stands still makes no progress."""
        return int(self._beats.value)

    def __str__(self) -> str:
        """Name the place in errors."""
        return str(self._text.value.decode(errors="replace"))


_place: Place | None = None  # of this process, if it is a worker


def enter(text: str) -> None:
    """Tell the parent of this worker what comes next; does nothing in other processes."""
    if _place is not None:
        _place.enter(text)


def beat() -> None:
    """Tell the parent of this worker that there was progress; does nothing in other processes."""
    if _place is not None:
        _place.beat()


class Workers:
    """A pool of worker processes, each with one thread. Used as a context manager.

    The processes end when it is left, when it is forgotten, and when this process dies, even by a signal that it cannot
    catch. Signals of `fd.runtime.signals`, which reach a whole process group, do nothing to them: it is their parent who ends.
    """

    def __init__(self, name: str, make: MakeServe, shares: Sequence[tuple[Any, ...]], *, timeout: float) -> None:
        """Start a process for each share and wait until all are ready.

        Args:
            name: what errors call the work.
            make: picklable. Called in each process with its share, it returns what gives the answers to a job. An
                FdError that either raises is raised here; other exceptions become one, which names the worker's place.
            shares: arguments of `make`, picklable.
            timeout: seconds within which a worker that has something to do must call `enter` or `beat`.

        Raises:
            FdError: a worker fails, dies or hangs.
        """
        self._name, self._timeout = name, timeout
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks in whatever state they are
        self._workers = [_Worker.of(context, name, make, share) for share in shares]
        # Also before multiprocessing waits, at the end of the program, for processes that it cannot terminate.
        Finalize(self, _end, (self._workers,), exitpriority=0)
        try:
            # Signal handlers run in the main thread: what they raise cannot come between the start of a process and its
            # record. A threading.Thread has locks that such an exception can leave locked.
            _thread.start_new_thread(_start, (list(self._workers),))
            for _ in self.answers():
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
        _end(self._workers)

    def do(self, jobs: Sequence[tuple[Any, int]]) -> Iterator[Any]:
        """Hand each job, given with its number of answers, to the next worker that is free.

        Yields:
            Answers, as they come.

        Raises:
            FdError: a worker fails, dies or hangs. The pool is closed then, as it is when the iterator is closed before
                its end.
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
            raise FdError(f"{self._name}: {worker.place}: hangs, no progress in {self._timeout:g} s")

    def _death(self, worker: _Worker) -> Exception:
        if worker.error is not None:
            return worker.error
        worker.process.join(self._timeout)
        code = worker.process.exitcode
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return FdError(f"{self._name}: {worker.place}: its process died with exit code {code}{hint}")


@dataclass(eq=False)
class _Worker:
    """A worker process, the parent's end of its pipe, and what it is doing.

    Attributes:
        theirs: the worker's end, closed here as soon as it has it, so that its death is the end of the stream.
        starting: held while the process is started; reentrant, for `kill` may be interrupted and called again.
        since: time (`time.monotonic`) at which it was last found to have made progress.
        beats: those of its place then.
        due: answers that it owes: one when it is ready, then those of its job.
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
        """Return a worker whose process is not started."""
        place, (ours, theirs) = Place(context), context.Pipe()
        process = context.Process(target=_work, args=(theirs, place, name, make, share), daemon=True)
        return cls(process, ours, theirs, place, threading.RLock())

    def start(self) -> None:
        """Start the process, with the signals that ask it to end blocked from its first instruction on, as then in this thread."""
        with self.starting:
            try:
                if self.wanted:
                    resource_tracker.ensure_running()  # its start unblocks the signals
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
        """Wait for the end of a process that was killed."""
        if self.process.pid is not None:
            self.process.join()
        self.connection.close()


def _start(workers: list[_Worker]) -> None:
    """Start the processes, with one thread each, for they share the cores among themselves, and large pages of memory."""
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
    """Body of a worker: answer None when it is ready, then every job, until the process is ended from outside.

    The last message is an FdError when something fails.
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
    except Exception as error:  # noqa: BLE001 any simulator, any fault: the parent names it and ends the stage
        fault = FdError(f"{name}: {place}: {type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": "))
    with contextlib.suppress(OSError):  # the parent may be gone
        connection.send(fault)


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent is gone, even while foreign code holds the interpreter's lock.

    The parent holds the other end of the sentinel, a pipe. When that is closed, the kernel sends SIGIO, which
    terminates.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if wait([parent.sentinel], 0):  # it was gone before
        os._exit(1)
