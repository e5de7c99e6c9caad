"""What the stages that train begin with: the device, how an update runs on it, and whether it has the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fd.method.spec import Spec
from fd.params import Compute, Network
from fd.runtime import memory
from fd.runtime.device import select
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
    device = select(
        compute.device, compute.threads, tf32=compute.tf32, deterministic=compute.deterministic,
        images=bool(network.encoder),
    )  # fmt: skip
    memory.check(network.hidden, seeds=seeds, batch_size=batch_size, device=device, place=place)
    how = execution(compute.execution, device)
    return Machine(device, how, [device.type, how, compute.tf32, compute.deterministic])
