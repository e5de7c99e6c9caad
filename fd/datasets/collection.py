"""Episodes collected in parallel processes, one file an episode.

The randomness of an episode depends on its own index alone, so the files are the same whatever the number of
workers, and a collection that was stopped goes on from the files that are complete.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.runtime.progress import Progress
from fd.simulation.workers import Workers, enter
from fd.storage.transitions import read_npz

# Seconds without a step of its simulator after which a collector hangs: a step takes 1 to 300 ms, making one 10 s.
TIMEOUT = 120.0

Episode = dict[str, NDArray[Any]]


class Collector(Protocol):
    """Collects one episode from a seed of its own, with an `fd.simulation.workers.beat` at each step; made once in a worker."""

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        """Return the arrays of the episode, by name."""
        ...


def collect_episodes(
    make: Callable[[], Collector],
    seeds: list[list[int]],
    *,
    folder: Path,
    workers: int,
    label: str,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Return the files of one episode for each seed, in order; `read_shard` gives the arrays of one.

    Nothing but the episodes being collected is held in memory, however many there are.

    Args:
        make: picklable; called in each worker.
        seeds: entropy of each episode.
        folder: where the episodes are kept; complete ones found there are not collected again.
        workers: number of processes.
        label: what the progress and errors are called.
        timeout: seconds within which a collector must beat.

    Raises:
        FdError: a collector fails or hangs, or its process dies; names the episode and its seed.
        OSError: of a collector, or of its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:06d}.npz" for index in range(len(seeds))]
    missing = [(path, seed) for path, seed in zip(paths, seeds, strict=True) if not path.exists()]
    with Progress(len(paths), label, unit="episodes", done=len(paths) - len(missing)) as progress:
        shares = [(make,)] * min(workers, len(missing))
        with Workers(label, _collecting, shares, timeout=timeout) as pool:
            for fault in pool.do([(job, 1) for job in missing]):
                if fault is not None:
                    raise fault
                progress.advance(1)
    return paths


def read_shard(path: Path, *names: str) -> Episode:
    """The named arrays of the file of one episode; all when none is named.

    Raises:
        FdError: the file is damaged.
    """
    try:
        return read_npz(path, names)
    except FdError as error:
        raise FdError(f"{error}; remove it to collect the episode again") from None


def _collecting(make: Callable[[], Collector]) -> Callable[[tuple[Path, list[int]]], Iterator[OSError | None]]:
    """Make a worker's collector; return what collects an episode and writes its file."""
    enter("a collector being made")
    return partial(_collect, make())


def _collect(collector: Collector, job: tuple[Path, list[int]]) -> Iterator[OSError | None]:
    """Collect an episode and write its file; give what the system says against it, such as a full disk, or None."""
    path, entropy = job
    enter(f"episode {int(path.stem)} of seed {entropy}")
    try:
        episode = collector(np.random.SeedSequence(entropy))
        temporary = path.with_name(f".{path.name}")
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **episode)
        os.replace(temporary, path)
    except OSError as error:
        yield error
    else:
        yield None


def compact(rows: list[Any]) -> NDArray[Any]:
    """Return rows as one array in the types of OGBench's files: floats as float32, others as they are."""
    values = np.array(rows)
    return values.astype(np.float32) if values.dtype.kind == "f" else values
