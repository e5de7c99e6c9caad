"""The device, the threads and the memory allocator of this process."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from fd.errors import FdError

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt


def select_device(
    device: str, threads: int, *, tf32: bool = False, deterministic: bool = False, images: bool = False
) -> torch.device:
    """Sets the CPU threads and returns the device: `cpu`, `cuda`, or `auto`, the GPU if there is one.

    Call it before anything is computed on a GPU.

    Args:
        device: one of the three.
        threads: of torch on the CPU.
        tf32: whether a GPU rounds the factors of float32 matrix products to TF32, which its tensor cores multiply.
        deterministic: whether a GPU gives the same bytes from run to run, as the CPU does.
        images: whether encoders of images are trained.

    Raises:
        FdError: `cuda` is asked for and there is none, or it cannot be deterministic.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise FdError("compute.device: 'cuda', but torch sees no GPU (allowed here: auto, cpu)")
    found = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if found.type == "cuda" and deterministic:
        if images:
            raise FdError(
                "compute.deterministic: true, but torch pools images on a GPU nondeterministically (allowed: false)"
            )
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it once; simulator processes inherit it
        torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    _keep_memory()
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return found


def _keep_memory() -> None:
    """Lets glibc keep freed memory: a step frees and allocates the same arrays again; fresh pages cost up to two fifths of its time."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_MAX, 0)  # no array gets its own mapping, which would be freed with it
        library.mallopt(TRIM_THRESHOLD, -1)  # never trim
