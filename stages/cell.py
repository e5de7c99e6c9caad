"""Shared by the training stages: setting up the machine, the behaviour flow, and making and publishing a cell."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fd.errors import FdError
from fd.method.spec import Spec
from fd.networks.mlp import StackedMLP, observing
from fd.runtime import memory
from fd.runtime.device import device_name, select_device, tell_device
from fd.settings.machine_settings import Compute
from fd.settings.training_settings import Network
from fd.storage import run_record, scratch
from fd.storage.files import write_record
from fd.storage.outputs import check_file, check_folder
from fd.storage.tensors import read_tensors
from fd.storage.transitions import Manifest, read_manifest
from fd.storage.unfinished import ANNOUNCED
from fd.training.execution import execution
from fd.training.random_streams import generator


@dataclass(frozen=True)
class Machine:
    """How this machine trains a run.

    Attributes:
        device: device of the networks.
        execution: how an update is executed, see `fd.training.execution.execution`.
        tf32: see `fd.runtime.device.set_precision`.
        numerics: choices that affect results and that DVC does not track, as JSON values.
    """

    device: torch.device
    execution: str
    tf32: bool
    numerics: list[Any]


def machine(compute: Compute, network: Network | Spec, *, seeds: int, batch_size: int, place: str) -> Machine:
    """Sets this process up for training.

    Args:
        compute: section `compute` of the settings.
        network: shape of the networks to be trained.
        seeds: number of seeds.
        batch_size: batch size of a seed.
        place: name of the settings in error messages.

    Raises:
        FdError: the machine does not support these settings, or has less memory than training needs at least.
    """
    device = select_device(
        compute.device, compute.threads, tf32=compute.tf32, deterministic=compute.deterministic,
        images=bool(network.encoder),
    )  # fmt: skip
    memory.check_memory(network.hidden, seeds=seeds, batch_size=batch_size, device=device, place=place)
    how = execution(compute.execution, device)
    return Machine(device, how, compute.tf32, [device_name(device), how, compute.tf32, compute.deterministic])


def untrained_flow(network: Network, manifest: Manifest, seeds: Sequence[int], place: str) -> StackedMLP:
    """The behaviour flow of every seed before its training; FdError, which names `place`, if it cannot read the data's observations."""
    return observing(
        network.observed(manifest.obs_shape, place), network.encoder, network.hidden,
        generators=[generator(seed, "weights", 0) for seed in seeds],
        inputs=manifest.act_dim + 1, outputs=manifest.act_dim,
    )  # fmt: skip


def pretrained(
    file: Path, data: Path, seeds: tuple[int, ...], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and record of the behaviour flows that `pretrain` trained on a data folder for these seeds.

    Raises:
        FdError: they were trained on different data or seeds, or the file is damaged.
    """
    tensors, record = read_tensors(file, device)
    known = record.get("data_sha256") == read_manifest(data).sha256
    if not known or tuple(record.get("seeds", ())) != seeds:
        raise FdError(
            f"{file}: was trained on different data or seeds {record.get('seeds')}, allowed: {data}, {list(seeds)}"
        )
    return tensors, record


@dataclass(frozen=True)
class Cell:
    """A cell that a stage is making.

    Attributes:
        stage: name of the stage.
        name: name of the cell, `task` or `task/method`.
        out: final folder of the cell; its record is the JSON file beside it.
        work: scratch folder that keeps its state while it is unfinished.
        device: device that trains it.
        start: time (`time.monotonic`) at which the stage began.
    """

    stage: str
    name: str
    out: Path
    work: Path
    device: torch.device
    start: float

    @property
    def built(self) -> Path:
        """The unfinished folder; `publish` moves it to `out` as a whole."""
        return self.work / "out"

    @property
    def label(self) -> str:
        """Name of the cell in progress bars and error messages."""
        return f"{self.stage} {self.name.replace('/', ' ')}"

    def announce(self, *, steps: int, budget: float | None = None) -> None:
        """Writes what `fidec watch` shows beside the log of the unfinished cell: machine, steps, and budget if it has one."""
        facts = {"label": self.label, "host": socket.gethostname(), "steps": steps, "budget": budget}
        write_record(self.work / ANNOUNCED, facts)

    def publish(self, record: dict[str, Any]) -> None:
        """Writes the record of the cell, and moves the finished folder to `out`."""
        path = self.out.with_name(f"{self.out.name}.json")
        run_record.write_run_record(path, record, output=self.built, device=self.device, start=self.start)
        scratch.publish(self.built, self.out, self.work)


@contextmanager
def making(stage: str, name: str, out: Path, on: Machine, depends: Sequence[Any]) -> Iterator[Cell]:
    """Locks a cell against other processes while it is made, and tells where and how.

    Interrupted work resumes if the code, the numerics of the machine and `depends` (JSON values) are the same.

    Raises:
        FdError: the output cannot be written, or another process is making the cell.
    """
    start = time.monotonic()
    check_folder(out)
    check_file(out.with_name(f"{out.name}.json"))
    with scratch.claimed(stage, name):
        cell = Cell(stage, name, out, scratch.folder(stage, name, *depends, *on.numerics), on.device, start)
        tell_device(cell.label, on.device, execution=on.execution, tf32=on.tf32)
        yield cell
