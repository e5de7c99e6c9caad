"""Checkpoints of a run in its scratch folder, and the snapshots and the log that they grow there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fd.errors import FdError
from fd.files import SEAL, check_seal, one_line, replacing, seal, write_text

STATE = "state.safetensors"
LOG = "train.csv"
FLOW = "flow.safetensors"  # of a behaviour folder, and of a run whose flow is frozen
COLUMNS = (
    "step", "seed", "flow_loss", "critic_loss", "value_loss", "policy_loss", "dual_loss", "q", "q_loss",
    "q_mean", "q_min", "q_max", "v_mean", "v_min", "v_max", "penalty", "dual", "delta2", "trace",
    "advantage", "log_likelihood", "mse", "grad_norm",
)  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Writes named tensors and a JSON record to a sealed safetensors file, whole or not at all.

    Raises:
        FdError: it cannot be written, for want of space, say.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry, for the order of several is not fixed; the file begins with it, and so with the seal.
    metadata = {"fd": json.dumps({"seal": SEAL, "values": record}, sort_keys=True)}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            raise FdError(f"{path}: cannot be written: {one_line(error)}") from None
        seal(temporary)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the record that `write_tensors` wrote; no byte of the file is used before all are held against its seal.

    Raises:
        FdError: there is no such file, or it is not as it was written.
    """
    if not path.is_file():
        raise FdError(f"{path}: no such file; run the stage that makes it")
    check_seal(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            record = json.loads(file.metadata()["fd"])["values"]
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise FdError(f"{path}: is not a file of weights written by this project: {one_line(error)}") from None


class Checkpoint:
    """State of a run, kept so that a killed run goes on from it.

    Args:
        folder: scratch folder of the run; made if absent.
        out: folder that the stage will publish; the log LOG is written there.
        snapshot: called with the step at every mark, to write what evaluation needs.
        also: called with the step before every state, to write what belongs to it beside the networks.
        start: steps that were done before this run.

    Attributes:
        unlogged: metrics of the steps after the last row of the log, see `fd.loop.Window.state`.
    """

    def __init__(
        self, folder: Path, out: Path, snapshot: Callable[[int], object], *,
        also: Callable[[int], object] = lambda step: None, start: int = 0,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self._resumable = out.exists()  # else the state's snapshots are gone: killed just after publishing
        out.mkdir(parents=True, exist_ok=True)
        self._folder, self._out, self._snapshot, self._also, self._start = folder, out, snapshot, also, start
        self._rows: list[dict[str, Any]] = []
        self.unlogged: list[Any] = []

    def restore(self, module: nn.Module, adam: torch.optim.Adam) -> int:
        """Loads the last state, if there is one, and returns the steps done.

        Raises:
            FdError: it is damaged or of another run.
        """
        path = self._folder / STATE
        if not path.exists() or not self._resumable:
            return self._start
        record = load_state(path, module, adam)
        if record["key"] != self._folder.name:
            raise FdError(f"{path}: is of {record['key']}; remove it")
        self._rows, self.unlogged = record["rows"], record["unlogged"]
        return int(record["step"])

    def log(self, step: int, seeds: Sequence[int], metrics: dict[str, list[float]]) -> None:
        """Adds a row a seed: the metrics' means since the last row."""
        for i, seed in enumerate(seeds):
            self._rows.append(
                {"step": step, "seed": seed} | {name: f"{values[i]:.6g}" for name, values in metrics.items()}
            )

    def mark(self, step: int) -> None:
        """Writes the snapshot and the log of this step; its state is to be saved next."""
        self._snapshot(step)
        log = io.StringIO()
        writer = csv.DictWriter(log, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._out / LOG, log.getvalue())

    def save(self, step: int, module: nn.Module, adam: torch.optim.Adam, unlogged: list[Any]) -> None:
        """Writes the state from which the run can go on."""
        self._also(step)
        tensors = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
        trained = _trained(module, adam)
        for index, state in adam.state_dict()["state"].items():
            tensors |= {f"adam.{trained[index]}.{key}": value for key, value in state.items()}
        record = {"key": self._folder.name, "step": step, "rows": self._rows, "unlogged": unlogged}
        write_tensors(self._folder / STATE, tensors, record)


def load_state(path: Path, module: nn.Module, adam: torch.optim.Adam) -> dict[str, Any]:
    """Loads the state that a Checkpoint saved into a module and its optimiser, and returns its record.

    What is trained here and was not there starts with an optimiser of its own, what was trained there and is not here loses it.
    """
    tensors, record = read_tensors(path, next(module.parameters()).device)
    load_net(module, tensors, "net.", path)
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(_trained(module, adam)):
        prefix = f"adam.{parameter}."
        found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if found:
            state[index] = found
    adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
    return record


def _trained(module: nn.Module, adam: torch.optim.Adam) -> list[str]:
    """Names of the parameters that the optimiser steps, in its order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in adam.param_groups for parameter in group["params"]]


def load_net(net: nn.Module, tensors: dict[str, Tensor], prefix: str, place: Path) -> None:
    """Copies the tensors named `prefix...` into a network.

    Raises:
        FdError: one is missing or has another shape; `place` is named.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name, parameter in net.state_dict().items():
        shape = list(own[name].shape) if name in own else "nothing"
        if shape != list(parameter.shape):
            raise FdError(f"{place}: {prefix}{name} is {shape}, allowed: {list(parameter.shape)}")
    net.load_state_dict({name: own[name] for name in net.state_dict()})
