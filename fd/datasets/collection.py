"""Episodes collected in parallel processes, one file per episode.

The randomness of an episode depends on its own index alone, so the files are the same whatever the number of
workers, and a stopped collection resumes from the complete files.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.runtime.progress import Progress
from fd.simulation.workers import Workers, enter
from fd.storage.files import replacing
from fd.storage.transitions import read_npz

# Seconds without a simulator step after which a collector counts as hung: a step takes 1 to 300 ms, building it 10 s.
TIMEOUT = 120.0

Episode = dict[str, NDArray[Any]]


class Collector(Protocol):
    """Collects one episode per seed, calling `fd.simulation.workers.beat` at each step; each worker makes its own."""

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
    """Return the episode files, one for each seed, in order; `read_shard` reads one.

    Memory holds only the episodes that are being collected, however many there are in all.

    Args:
        make: picklable; called in each worker.
        seeds: entropy of each episode.
        folder: keeps the episodes; complete ones found there are not collected again.
        workers: number of processes.
        label: name of the work in progress lines and errors.
        timeout: seconds within which a collector must call `beat`.

    Raises:
        FdError: a collector fails or hangs, or its process dies; names the episode and its seed.
        OSError: a collector raises it, or its file cannot be written.
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
    """Read the named arrays of an episode file; all of them if no name is given.

    Raises:
        FdError: the file cannot be read or is damaged.
    """
    try:
        return read_npz(path, names)
    except FdError as error:
        raise FdError(f"{error}; if it is damaged, remove it to collect the episode again") from None


def _collecting(make: Callable[[], Collector]) -> Callable[[tuple[Path, list[int]]], Iterator[OSError | None]]:
    """Make a worker's collector; return the function that collects an episode and writes its file."""
    enter("a collector being made")
    return partial(_collect, make())


def _collect(collector: Collector, job: tuple[Path, list[int]]) -> Iterator[OSError | None]:
    """Collect an episode and write its file; yield the OSError that prevents it, such as a full disk, or None."""
    path, entropy = job
    enter(f"episode {int(path.stem)} of seed {entropy}")
    try:
        episode = collector(np.random.SeedSequence(entropy))
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **episode)
    except OSError as error:
        yield error
    else:
        yield None


def compact(rows: list[Any]) -> NDArray[Any]:
    """Return rows as one array in the types of OGBench's files: floats as float32, others as they are."""
    values = np.array(rows)
    return values.astype(np.float32) if values.dtype.kind == "f" else values
