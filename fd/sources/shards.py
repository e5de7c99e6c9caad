"""Episodes collected in parallel processes, one file an episode.

The randomness of an episode depends on its own index alone, so the files are the same whatever the number of
workers, and a collection that was stopped goes on from the files that are complete.
"""

import os
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.progress import Progress

Episode = dict[str, NDArray[Any]]


class Collector(Protocol):
    """Collects one episode from a seed of its own; made once in each worker."""

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        """Return the arrays of the episode, by name."""
        ...


def collect(
    make: Callable[[], Collector],
    seeds: list[list[int]],
    *,
    folder: Path,
    workers: int,
    label: str,
) -> list[Path]:
    """Return the files of one episode for each seed, in order; `read` gives the arrays of one.

    Nothing but the episodes being collected is held in memory, however many there are.

    Args:
        make: picklable; called in each worker.
        seeds: entropy of each episode.
        folder: where the episodes are kept; complete ones found there are not collected again.
        workers: number of processes.
        label: what the progress is called.

    Raises:
        FdError: a worker died.
        Exception: whatever a worker raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:06d}.npz" for index in range(len(seeds))]
    missing = [(path, seed) for path, seed in zip(paths, seeds, strict=True) if not path.exists()]
    with Progress(len(paths), label, unit="episodes", done=len(paths) - len(missing)) as progress:
        _run(make, missing, workers=min(workers, len(missing)), advance=progress.advance)
    return paths


def read(path: Path, *names: str) -> Episode:
    """The named arrays of the file of one episode; all when none is named.

    Raises:
        FdError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        raise FdError(f"{path}: damaged ({error}); remove it to collect the episode again") from None


def _run(
    make: Callable[[], Collector],
    work: list[tuple[Path, list[int]]],
    *,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Share the work among processes and wait for all of them; none is left behind."""
    processes: dict[Connection, SpawnProcess] = {}
    try:
        with _single_threaded():
            for index in range(workers):
                connection, process = _start(partial(_work, make, work[index::workers]))
                processes[connection] = process
        open_connections = set(processes)
        while open_connections:
            for ready in wait(list(open_connections)):
                assert isinstance(ready, Connection)
                if _receive(ready, processes[ready]):
                    advance(1)
                else:
                    open_connections.remove(ready)
    finally:
        for connection, process in processes.items():
            connection.close()
            process.terminate()
            process.join()


def _start(target: Callable[[Connection], None]) -> tuple[Connection, SpawnProcess]:
    """Start a process that holds the only sending end of the returned connection."""
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(sending,), daemon=True)
    process.start()
    sending.close()
    return receiving, process


def _receive(connection: Connection, process: SpawnProcess) -> bool:
    """Whether one more episode came in; False when the worker has ended its share."""
    try:
        message = connection.recv()
    except EOFError:
        process.join()
        raise FdError(f"a collecting process died with exit code {process.exitcode}") from None
    if isinstance(message, Exception):
        raise message
    assert isinstance(message, bool)
    return message


def _work(make: Callable[[], Collector], work: list[tuple[Path, list[int]]], results: Connection) -> None:
    """Body of a worker. Sending fails once the parent is gone, and that ends the worker, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends this process
    try:
        collector = make()
        for path, entropy in work:
            episode = collector(np.random.SeedSequence(entropy))
            temporary = path.with_name(f".{path.name}")
            with temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **episode)
            os.replace(temporary, path)
            results.send(True)
        results.send(False)
    except BrokenPipeError:
        return
    except Exception as error:  # noqa: BLE001  (the parent raises it)
        results.send(error)


def compact(rows: list[Any]) -> NDArray[Any]:
    """Return rows as one array in the types of OGBench's files: floats as float32, others as they are."""
    values = np.array(rows)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside use one thread each: they share the cores among themselves."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
