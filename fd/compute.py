"""The device and the threads of this process."""

from __future__ import annotations

import torch

from fd.errors import FdError


def select(device: str, threads: int) -> torch.device:
    """Sets the CPU threads and returns the device: `cpu`, `cuda`, or `auto`, the GPU where there is one.

    Raises:
        FdError: `cuda` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise FdError("compute.device: 'cuda', but torch sees no GPU (allowed here: auto, cpu)")
    torch.set_num_threads(threads)
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
