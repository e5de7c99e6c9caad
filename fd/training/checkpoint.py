"""Checkpoints of a run in its scratch folder, with its snapshots and its log."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fd.errors import FdError
from fd.networks.adam import Optimiser
from fd.storage.files import write_text
from fd.storage.tensors import load_net, read_tensors, write_tensors
from fd.storage.unfinished import PROGRESS

STATE = "state.safetensors"
LOG = "train.csv"
COLUMNS = (
    "step", "seed", "flow_loss", "critic_loss", "value_loss", "policy_loss", "dual_loss", "q", "q_loss",
    "q_mean", "q_min", "q_max", "v_mean", "v_min", "v_max", "penalty", "dual", "delta2", "trace",
    "advantage", "log_likelihood", "mse", "grad_norm",
)  # fmt: skip


class Checkpoint:
    """Saved state of a run, from which a killed run resumes.

    Args:
        folder: scratch folder of the run; made if absent.
        out: folder that the stage will publish; the log LOG is written there.
        snapshot: called with the step at every mark; writes the files that evaluation needs.
        also: called with the step before every state is saved; writes state outside the networks.
        start: steps done before this run.

    Attributes:
        unlogged: metrics of the steps after the last row of the log, see `fd.training.loop.Window.state`.
    """

    def __init__(
        self, folder: Path, out: Path, snapshot: Callable[[int], object], *,
        also: Callable[[int], object] = lambda step: None, start: int = 0,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self._resumable = (
            out.exists()
        )  # else the run was killed just after publishing, and the state's snapshots are gone
        out.mkdir(parents=True, exist_ok=True)
        self.folder, self._out, self._snapshot, self._also, self._start = folder, out, snapshot, also, start
        self._rows: list[dict[str, Any]] = []
        self.unlogged: list[Any] = []

    def restore(self, module: nn.Module, adam: Optimiser) -> int:
        """Loads the last state, if there is one, and returns the steps done.

        Raises:
            FdError: it is damaged or belongs to another run.
        """
        path, step = self.folder / STATE, self._start
        if path.exists() and self._resumable:
            record = load_state(path, module, adam)
            if record["key"] != self.folder.name:
                raise FdError(f"{path}: belongs to {record['key']}; remove it")
            self._rows, self.unlogged, step = record["rows"], record["unlogged"], int(record["step"])
        write_text(self.folder / PROGRESS, _table(self._rows, header=True))
        return step

    def log(self, step: int, seeds: Sequence[int], metrics: dict[str, list[float]]) -> None:
        """Adds a row per seed: the metrics' means since the last row."""
        rows = [
            {"step": step, "seed": seed} | {name: f"{values[i]:.6g}" for name, values in metrics.items()}
            for i, seed in enumerate(seeds)
        ]
        self._rows += rows
        with (self.folder / PROGRESS).open("a", encoding="utf-8", newline="\n") as file:
            file.write(_table(rows))

    def mark(self, step: int) -> None:
        """Writes the snapshot and the log of this step; the caller then saves the state."""
        self._snapshot(step)
        write_text(self._out / LOG, _table(self._rows, header=True))

    def save(self, step: int, module: nn.Module, adam: Optimiser, unlogged: list[Any]) -> None:
        """Writes the state from which the run can resume."""
        self._also(step)
        tensors = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
        tensors |= {f"adam.{name}": value for name, value in adam.moments().items()}
        record = {"key": self.folder.name, "step": step, "rows": self._rows, "unlogged": unlogged}
        write_tensors(self.folder / STATE, tensors, record)


def _table(rows: Sequence[dict[str, Any]], *, header: bool = False) -> str:
    """Rows of the log as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def load_state(path: Path, module: nn.Module, adam: Optimiser) -> dict[str, Any]:
    """Loads the state that a Checkpoint saved into a module and its optimiser, and returns its record.

    Networks that were not trained before begin with fresh moments; moments of networks no longer trained are dropped.
    """
    tensors, record = read_tensors(path, next(module.parameters()).device)
    load_net(module, tensors, "net.", path)
    adam.load_moments({name.removeprefix("adam."): tensor for name, tensor in tensors.items()})
    return record
