"""Files of named tensors with a JSON record: written whole or not at all, sealed, and checked before a byte is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fd.errors import FdError, one_line
from fd.storage.files import SEAL, check_seal, replacing, seal, unreadable

FLOW = "flow.safetensors"  # in a behaviour folder, and in a run with a frozen flow


def write_tensors(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Writes named tensors and a JSON record to a sealed safetensors file, whole or not at all.

    Raises:
        FdError: it cannot be written, for example because the disk is full.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry, because the order of several is not fixed; the file begins with it, and so with the seal.
    metadata = {"fd": json.dumps({"seal": SEAL, "values": record}, sort_keys=True)}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            raise FdError(f"{path}: cannot be written: {one_line(error)}") from None
        seal(temporary)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the record that `write_tensors` wrote; the seal is checked before any byte of the file is used.

    Raises:
        FdError: there is no such file, or it was changed or damaged.
    """
    if not path.is_file():
        raise FdError(f"{path}: no such file; run the stage that makes it")
    check_seal(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            record = json.loads(file.metadata()["fd"])["values"]
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118
    except OSError as error:
        raise unreadable(path, error, f"cannot be read: {one_line(error)}") from None
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise FdError(f"{path}: is not a file of weights written by this project: {one_line(error)}") from None


def load_net(net: nn.Module, tensors: dict[str, Tensor], prefix: str, place: Path) -> None:
    """Copies the tensors named `prefix...` into a network.

    Raises:
        FdError: one is missing or has another shape; the message names `place`.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name, parameter in net.state_dict().items():
        shape = list(own[name].shape) if name in own else "missing"
        if shape != list(parameter.shape):
            raise FdError(f"{place}: {prefix}{name} is {shape}, allowed: {list(parameter.shape)}")
    net.load_state_dict({name: own[name] for name in net.state_dict()})
