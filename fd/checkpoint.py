"""Checkpoints of a run in its scratch folder, and the snapshots and the log that they grow there."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fd.errors import FdError
from fd.files import write_text

STATE = "state.safetensors"
LOG = "train.csv"
FLOW = "flow.safetensors"  # of a behaviour folder, and of a run whose flow is frozen
COLUMNS = (
    "step", "seed", "flow_loss", "critic_loss", "value_loss", "policy_loss", "dual_loss", "q", "q_loss",
    "q_mean", "q_min", "q_max", "v_mean", "v_min", "v_max", "penalty", "dual", "delta2", "trace",
    "advantage", "log_likelihood", "mse", "grad_norm",
)  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Writes named tensors and a JSON record to a safetensors file, whole or not at all.

    Raises:
        FdError: it cannot be written, for want of space, say.
    """
    temporary = path.with_name(f".{path.name}")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, temporary, metadata={"fd": json.dumps(record, sort_keys=True)})
    except SafetensorError as error:
        raise FdError(f"{path}: cannot be written: {error}") from None
    os.replace(temporary, path)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the record that `write_tensors` wrote.

    Raises:
        FdError: there is no such file, or it is something else.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            record = json.loads((file.metadata() or {})["fd"])
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118
    except FileNotFoundError:
        raise FdError(f"{path}: no such file; run the stage that makes it") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FdError(f"{path}: is not a file of weights written by this project: {error}") from None


class Checkpoint:
    """State of a run, kept so that a killed run goes on from it.

    Args:
        folder: scratch folder of the run; made if absent.
        snapshot: called with the step at every checkpoint, to write what evaluation needs.
        out: folder that the stage will publish; the log LOG is written there.
        start: steps that were done before this run.
    """

    def __init__(self, folder: Path, out: Path, snapshot: Callable[[int], None], *, start: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        self._folder, self._out, self._snapshot, self._start = folder, out, snapshot, start
        self._rows: list[dict[str, Any]] = []

    def restore(self, module: nn.Module, adam: torch.optim.Adam) -> int:
        """Loads the last state, if there is one, and returns the steps done."""
        path = self._folder / STATE
        if not path.exists() or not (self._out / LOG).exists():  # without the log, killed just after publishing
            return self._start
        record = load_state(path, module, adam)
        self._rows = record["rows"]
        return int(record["step"])

    def log(self, step: int, seeds: Sequence[int], metrics: dict[str, list[float]]) -> None:
        """Adds a row a seed: the metrics' means since the last row."""
        for i, seed in enumerate(seeds):
            self._rows.append(
                {"step": step, "seed": seed} | {name: f"{values[i]:.6g}" for name, values in metrics.items()}
            )

    def save(self, step: int, module: nn.Module, adam: torch.optim.Adam) -> None:
        """Writes the snapshot and the log of this step, then the state from which the run can go on."""
        self._snapshot(step)
        log = io.StringIO()
        writer = csv.DictWriter(log, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._out / LOG, log.getvalue())
        tensors = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
        trained = _trained(module)
        for index, state in adam.state_dict()["state"].items():
            tensors |= {f"adam.{trained[index]}.{key}": value for key, value in state.items()}
        write_tensors(self._folder / STATE, tensors, {"step": step, "rows": self._rows})


def load_state(path: Path, module: nn.Module, adam: torch.optim.Adam) -> dict[str, Any]:
    """Loads the state that a Checkpoint saved into a module and its optimiser, and returns its record.

    What is trained here and was not there starts with an optimiser of its own, what was trained there and is not here loses it.
    """
    tensors, record = read_tensors(path, next(module.parameters()).device)
    module.load_state_dict({name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(_trained(module)):
        prefix = f"adam.{parameter}."
        found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if found:
            state[index] = found
    adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
    return record


def _trained(module: nn.Module) -> list[str]:
    """Names of the parameters that its optimiser steps, in the optimiser's order."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


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
