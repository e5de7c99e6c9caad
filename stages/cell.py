"""What the stages that train share: the machine that they train on, and the cell that they make."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fd.method.spec import Spec
from fd.runtime import memory
from fd.runtime.device import select_device
from fd.settings.machine_settings import Compute
from fd.settings.training_settings import Network
from fd.storage import run_record, scratch
from fd.training.execution import execution


@dataclass(frozen=True)
class Machine:
    """Where a run is trained.

    Attributes:
        device: of the networks.
        execution: of an update, see `fd.training.execution.execution`.
        numerics: what results depend on beside the settings that DVC tracks, as JSON values.
    """

    device: torch.device
    execution: str
    numerics: list[Any]


def machine(compute: Compute, network: Network | Spec, *, seeds: int, batch_size: int, place: str) -> Machine:
    """Sets this process up for training.

    Args:
        compute: section of the settings.
        network: shape of the networks to be trained.
        seeds: number of them.
        batch_size: of a seed.
        place: what errors call the settings.

    Raises:
        FdError: the machine cannot do what is asked, or has less memory than it takes at least.
    """
    device = select_device(
        compute.device, compute.threads, tf32=compute.tf32, deterministic=compute.deterministic,
        images=bool(network.encoder),
    )  # fmt: skip
    memory.check_memory(network.hidden, seeds=seeds, batch_size=batch_size, device=device, place=place)
    how = execution(compute.execution, device)
    return Machine(device, how, [device.type, how, compute.tf32, compute.deterministic])


@dataclass(frozen=True)
class Cell:
    """A cell of a stage while it is made.

    Attributes:
        stage: name of the stage.
        name: of the cell, `task` or `task/method`.
        out: folder that it becomes; the record stands beside it.
        work: scratch folder, of its state while it is unfinished.
        start: time (`time.monotonic`) at which the stage began.
    """

    stage: str
    name: str
    out: Path
    work: Path
    start: float

    @property
    def built(self) -> Path:
        """The folder in the making, which takes its place as a whole."""
        return self.work / "out"

    @property
    def label(self) -> str:
        """What progress and errors call the cell."""
        return f"{self.stage} {self.name.replace('/', ' ')}"

    def publish(self, record: dict[str, Any]) -> None:
        """Writes the record of what was made, and moves the folder to its place."""
        run_record.write_run_record(
            self.out.with_name(f"{self.out.name}.json"), record, output=self.built, start=self.start
        )
        scratch.publish(self.built, self.out, self.work)


@contextmanager
def making(stage: str, name: str, out: Path, depends: Sequence[Any]) -> Iterator[Cell]:
    """Keeps other processes out of a cell, whose unfinished work is found again under the code and `depends` (JSON values).

    Raises:
        FdError: another process is at work on the cell.
    """
    start = time.monotonic()
    with scratch.claimed(stage, name):
        yield Cell(stage, name, out, scratch.folder(stage, name, *depends), start)
