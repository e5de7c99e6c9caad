"""The device, the precision, the threads and the memory allocator of this process."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings

import torch

from fd.errors import FdError

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt
STUB, NO_GPU = 34, 100  # answers of an NVIDIA driver that is none, or that has no GPU for this process


def select_device(
    device: str, threads: int, *, tf32: bool = False, deterministic: bool = False, images: bool = False
) -> torch.device:
    """Sets the CPU threads and returns the device: `cpu`, `cuda`, or `auto`, the GPU if there is one.

    Call it before anything is computed on a GPU.

    Args:
        device: one of the three.
        threads: of torch on the CPU.
        tf32: see `set_precision`.
        deterministic: whether a GPU gives the same bytes from run to run, as the CPU does.
        images: whether encoders of images are trained.

    Raises:
        FdError: the machine has an NVIDIA GPU that torch cannot use, and the CPU is not asked for; `cuda` is asked for and there
            is no GPU; or it cannot be deterministic.
    """
    found = torch.device("cuda" if device != "cpu" and _has_gpu(device) else "cpu")
    if device == "cuda" and found.type == "cpu":
        raise FdError("compute.device: 'cuda', but torch sees no GPU (allowed here: auto, cpu)")
    if found.type == "cuda" and deterministic:
        if images:
            raise FdError(
                "compute.deterministic: true, but torch pools images on a GPU nondeterministically (allowed: false)"
            )
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it once; simulator processes inherit it
        torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    _keep_memory()
    set_precision(tf32=tf32)
    return found


def set_precision(*, tf32: bool) -> None:
    """Sets whether a GPU rounds the factors of float32 products and convolutions to TF32, which its tensor cores multiply."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32  # torch's own default is true


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU; each has its own random numbers, see `fd.training.random_streams`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def tell_device(label: str, device: torch.device, *, execution: str = "eager", tf32: bool = False) -> None:
    """Prints one line on stderr: where and how a stage computes.

    Args:
        label: name of the work.
        device: see `select_device`.
        execution: of a training step, see `fd.training.execution.execution`.
        tf32: see `set_precision`.
    """
    gpu = device.type == "cuda"
    named = f"{device.type} ({device_name(device)})" if gpu else device.type
    precision = "TF32" if gpu and tf32 else "float32"
    print(f"{label}: device {named}, execution {execution}, precision {precision}", file=sys.stderr, flush=True)


def _has_gpu(device: str) -> bool:
    """Whether torch can use a GPU; FdError, which names the setting, if there is one of NVIDIA that it cannot use."""
    with warnings.catch_warnings(action="ignore"):  # torch's on an old driver; the error below says the same
        if torch.cuda.is_available():
            return True
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    answer, number = driver.cuInit(0), ctypes.c_int()
    if answer in (STUB, NO_GPU):
        return False
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    failed = f", which answers with error {answer}" if answer else ""
    raise FdError(
        f"compute.device: {device!r}, but torch {torch.__version__}, built {built}, cannot use the NVIDIA driver of this machine,"
        f" made for CUDA {version}{failed} (allowed: a newer driver, a build of torch for CUDA {version} or older, or"
        " compute.device: cpu)"
    )


def _keep_memory() -> None:
    """Lets glibc keep freed memory: a step frees and allocates the same arrays again; fresh pages cost up to two fifths of its time."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_MAX, 0)  # no array gets its own mapping, which would be freed with it
        library.mallopt(TRIM_THRESHOLD, -1)  # never trim
