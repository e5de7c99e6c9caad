"""The training loop: step, log, checkpoint, resume.

All random numbers come in blocks of BLOCK steps from streams addressed by (seed, purpose, block), so that a killed run resumes from
its last checkpoint with identical output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fd.errors import FdError
from fd.networks.adam import Optimiser
from fd.runtime import signals
from fd.runtime.progress import Progress
from fd.training.checkpoint import COLUMNS, Checkpoint
from fd.training.execution import Update, executed
from fd.training.random_streams import generator

BLOCK = 64  # steps whose random numbers are drawn at once
TOLD = ("flow_loss", "critic_loss", "value_loss", "policy_loss", "q", "penalty", "dual")  # shown by the progress bar


@dataclass(frozen=True)
class Schedule:
    """Length of a run, in steps, and the steps after which it is logged and marked.

    Attributes:
        marks: multiples of `log_every` after which the state and what evaluation needs is saved; the last is `steps`.
    """

    steps: int
    batch_size: int
    log_every: int
    marks: Sequence[int]


@dataclass(frozen=True)
class Run:
    """A training run: the facts that all of its parts need.

    Attributes:
        seeds: training seeds, in the order of the first axis of every tensor.
        schedule: its length and marks.
        checkpoint: keeps its state, its log and its snapshots.
        label: its name in progress and errors.
        execution: of an update, see `fd.training.execution.execution`.
    """

    seeds: Sequence[int]
    schedule: Schedule
    checkpoint: Checkpoint
    label: str
    execution: str = "eager"


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


class Window:
    """The metrics of the steps since the last row of the log, at most `size` steps, in memory that is allocated once.

    On the CPU, a metric that is not finite ends the run at its step. On a GPU, reading a number would stall the queue, so the check
    waits for the next row; its message still names the step.
    """

    def __init__(self, seeds: Sequence[int], label: str, size: int) -> None:
        self._seeds, self._label, self._size = seeds, label, size
        self._steps: list[tuple[int, list[str]]] = []
        self._values = torch.empty(0)  # [size, metrics, S]

    def add(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Copies the metrics of a step, each [S]."""
        names, values = list(metrics), list(metrics.values())
        if not len(self._values):
            self._values = values[0].new_empty(self._size, len(COLUMNS), len(self._seeds))
        row = self._values[len(self._steps), : len(names)]
        torch.stack(values, out=row)
        self._steps.append((step, names))
        if self._on_cpu:
            self._check(step, names, row)

    def means(self) -> dict[str, list[float]]:
        """Mean of every metric over the steps that have it, one number per seed; empties the window.

        Raises:
            FdError: a metric is not finite.
        """
        values, phases = self._values[: len(self._steps)].cpu(), dict[tuple[str, ...], list[int]]()
        for row, (_, found) in enumerate(self._steps):
            phases.setdefault(tuple(found), []).append(row)
        sums, counts = dict[str, Tensor](), Counter[str]()
        for names, rows in phases.items():
            block = values[rows, : len(names)]
            if not block.isfinite().all():
                for row in rows:
                    self._check(self._steps[row][0], list(names), values[row, : len(names)])
            for name, total in zip(names, block.sum(dim=0), strict=True):
                sums[name] = sums.get(name, 0) + total
                counts[name] += len(rows)
        self._steps = []
        return {name: (total / counts[name]).tolist() for name, total in sums.items()}

    def state(self) -> list[Any]:
        """The content as JSON values: of every step its number, the names and the values [metrics][S]."""
        rows = self._values[: len(self._steps)].tolist()
        return [(step, names, row[: len(names)]) for (step, names), row in zip(self._steps, rows, strict=True)]

    def restore(self, state: list[Any], like: Tensor) -> None:
        """Restores the content from the result of `state`; `like` gives the type and device of the numbers."""
        for step, names, row in state:
            self.add(step, dict(zip(names, like.new_tensor(row), strict=True)))

    @property
    def _on_cpu(self) -> bool:
        return self._values.device.type == "cpu"

    def _check(self, step: int, names: list[str], values: Tensor) -> None:
        finite = values.isfinite()
        if not finite.all():
            metric, seed = (int(place) for place in (~finite).nonzero()[0])
            raise FdError(
                f"{self._label}: {names[metric]} of seed {self._seeds[seed]} is {values[metric, seed].item()} in step {step},"
                " allowed: finite numbers (snapshots up to the last checkpoint are kept)"
            )


def train(
    update: Update, draws: Draws, module: nn.Module, adam: Optimiser, run: Run, *, period: int = 1
) -> None:  # fmt: skip
    """Updates a module in every remaining step of a run.

    Args:
        update: called with the phase of a step and its random numbers, updates `module` and returns metrics, each [S].
        draws: the random numbers.
        module, adam: updated here, and saved in checkpoints.
        run: its seeds, schedule, checkpoint, label and execution.
        period: number of phases, which alternate step by step.

    Raises:
        FdError: a metric or a weight is not finite; earlier checkpoints stay.
        Interrupted: a signal asked this process to end; the state after its last step is saved.
    """
    seeds, schedule, checkpoint, label = run.seeds, run.schedule, run.checkpoint, run.label
    done = checkpoint.restore(module, adam)
    window = Window(seeds, label, schedule.log_every)
    window.restore(checkpoint.unlogged, next(module.parameters()))
    update = executed(update, module, run.execution, label)
    with Progress(schedule.steps, label, done=done) as progress, signals.deferred():
        for index in range(done, schedule.steps):
            at = index + 1
            window.add(at, update(index % period, draws.at(index)))
            if at % schedule.log_every == 0:
                means = window.means()
                checkpoint.log(at, seeds, means)
                told = {name: sum(values) / len(values) for name, values in means.items() if name in TOLD}
                progress.advance(schedule.log_every, text=" ".join(f"{name} {mean:.3g}" for name, mean in told.items()))
            marked, signal = at in schedule.marks, signals.asked()
            if marked or signal is not None:
                _check_weights(module, seeds, at, label)
                if marked:
                    checkpoint.mark(at)
                checkpoint.save(at, module, adam, window.state())
            if signal is not None:
                saved = f"{label}: step {at} of {schedule.steps} is saved, the next run resumes there"
                raise signals.Interrupted(signal, saved)
    if (signal := signals.asked()) is not None:  # since the last step
        raise signals.Interrupted(signal)


def _check_weights(module: nn.Module, seeds: Sequence[int], at: int, label: str) -> None:
    for name, parameter in module.named_parameters():
        finite = parameter.detach().reshape(len(seeds), -1).isfinite().all(dim=1).tolist()
        if not all(finite):
            seed = seeds[finite.index(False)]
            raise FdError(f"{label}: {name} of seed {seed} is NaN or infinite after step {at}, allowed: finite numbers")
