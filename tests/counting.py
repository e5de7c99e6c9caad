"""A collector for tests: it counts its calls, and some seeds make it fail."""

import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from fd.datasets.collection import Episode, collect_episodes, read_shard


class Counting:
    """Collects its seed and leaves a trace of every call; some seeds make it fail."""

    def __init__(self, traces: Path) -> None:
        self._traces = traces

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        assert isinstance(seed.entropy, list)
        index = seed.entropy[-1]
        with (self._traces / f"{index}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if index == 66:
            raise OSError(28, "No space left on device")
        if index == 77:
            os._exit(3)
        if index == 88:
            time.sleep(60)
        if index >= 1000:
            time.sleep(0.1)
        return {"index": np.array([index])}


def run(folder: Path, indices: list[int], workers: int = 2) -> list[int]:
    """Collect with the counting collector."""
    (folder / "traces").mkdir(exist_ok=True)
    paths = collect_episodes(
        partial(Counting, folder / "traces"),
        [[0, index] for index in indices],
        folder=folder / "episodes",
        workers=workers,
        label="test",
    )
    return [int(read_shard(path)["index"][0]) for path in paths]
