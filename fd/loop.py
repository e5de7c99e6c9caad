"""The training loop: step, log, checkpoint, resume.

All random numbers come in blocks of BLOCK steps from streams addressed by (seed, purpose, block), so that a run that was killed goes
on from its last checkpoint to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fd.checkpoint import Checkpoint
from fd.errors import FdError
from fd.progress import Progress
from fd.streams import generator

BLOCK = 64  # steps whose random numbers are drawn at once


@dataclass(frozen=True)
class Schedule:
    """Length of a run and its marks, in steps; `save_every` divides `steps`, `log_every` divides `save_every`."""

    steps: int
    batch_size: int
    log_every: int
    save_every: int


class Draws:
    """Random numbers of one block for all seeds, each [S, BLOCK, ...]; `draw` is called with each seed's generator."""

    def __init__(
        self, seeds: Sequence[int], purpose: str, device: torch.device, draw: Callable[[torch.Generator], list[Tensor]]
    ) -> None:
        self._seeds, self._purpose, self._device, self._draw = seeds, purpose, device, draw
        self._block, self._drawn = -1, list[Tensor]()

    def at(self, index: int) -> list[Tensor]:
        """The numbers of step `index`, each [S, ...]."""
        block, offset = divmod(index, BLOCK)
        if block != self._block:
            streams = [generator(seed, self._purpose, block, device=self._device) for seed in self._seeds]
            self._drawn = [torch.stack(parts) for parts in zip(*map(self._draw, streams), strict=True)]
            self._block = block
        return [numbers[:, offset] for numbers in self._drawn]


def run(
    one: Callable[[int], dict[str, Tensor]], module: nn.Module, adam: torch.optim.Adam, schedule: Schedule, *,
    seeds: Sequence[int], checkpoint: Checkpoint, label: str,
) -> None:  # fmt: skip
    """Calls `one` with the number of every step still to do; `one` updates `module` and returns metrics, each [S].

    Raises:
        FdError: a metric is not finite.
    """
    done = checkpoint.restore(module, adam)
    sums: dict[str, Tensor] = {}
    with Progress(schedule.steps, label, done=done) as progress:
        for index in range(done, schedule.steps):
            for name, value in one(index).items():
                sums[name] = sums[name] + value if name in sums else value
            at = index + 1
            if at % schedule.log_every == 0:
                means = {name: (value / schedule.log_every).tolist() for name, value in sums.items()}
                sums = {}
                _check_finite(means, seeds, at, label)
                checkpoint.log(at, seeds, means)
                progress.advance(
                    schedule.log_every, text=" ".join(f"{n} {sum(v) / len(v):.3g}" for n, v in means.items())
                )
            if at % schedule.save_every == 0:
                checkpoint.save(at, module, adam)


def _check_finite(means: dict[str, list[float]], seeds: Sequence[int], at: int, label: str) -> None:
    for name, numbers in means.items():
        for seed, number in zip(seeds, numbers, strict=True):
            if not abs(number) < float("inf"):
                raise FdError(f"{label}: {name} of seed {seed} is {number} by step {at}, allowed: finite numbers")
