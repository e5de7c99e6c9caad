"""Memory: the least that training takes, checked before it starts, and the number of seeds that fit if there is not enough."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from fd.errors import FdError
from fd.runtime import limits
from fd.runtime.limits import gib

NUMBER = 4  # bytes
COPIES = 4  # of a parameter: itself, its gradient and the two moments of Adam
DRAWN = 64 * 8  # bytes of row numbers per transition of a batch, drawn for 64 steps at once
_CUDA = re.compile(r"CUDA error: out of memory|_STATUS_ALLOC_FAILED")  # of the driver, and of its libraries
_CUDA_ALLOCATOR = re.compile(r"Tried to allocate ([\d.]+) (B|KiB|MiB|GiB|TiB)")


def least_memory(hidden: Sequence[int], *, seeds: int, batch_size: int) -> int:
    """Bytes that training takes at least: weights between one network's hidden layers, a batch's widest layer, and drawn rows."""
    weights = sum(a * b for a, b in itertools.pairwise(hidden))
    return seeds * (NUMBER * (COPIES * weights + batch_size * max(hidden)) + DRAWN * batch_size)


def usable_memory(device: torch.device) -> int:
    """Bytes of memory of a device that this process may use: all that its limits allow on the CPU, what is free on a GPU."""
    return _limit(device)[0]


def check_memory(hidden: Sequence[int], *, seeds: int, batch_size: int, device: torch.device, place: str) -> None:
    """Raise an FdError, before anything is allocated, if the least that training takes is more than the device has."""
    what = f"{place}: {seeds} seeds of network.hidden {list(hidden)} and batch_size {batch_size}"
    needed = least_memory(hidden, seeds=seeds, batch_size=batch_size)
    check_room(needed, device, what=what, allowed="fewer seeds, smaller layers, a smaller batch")


def check_room(size: int, device: torch.device, *, what: str, allowed: str) -> None:
    """Raise an FdError if something takes more memory than a device has; see `fd.runtime.limits.check_room`."""
    limits.check_room(size, what=what, allowed=allowed, device=device.type, limit=_limit(device))


def _limit(device: torch.device) -> tuple[int, str]:
    """See `fd.runtime.limits.memory_limit`; of a GPU, free memory, to which belongs what this process keeps but does not use."""
    if device.type == "cpu":
        return limits.memory_limit()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept, "its free memory"


def fitting(*, usable: int, needed: int, fixed: int, seeds: int) -> int:
    """How many seeds fit; fewer than the number that did not.

    Args:
        usable: available bytes.
        needed: least bytes that `seeds` seeds need.
        fixed: bytes of `needed` that do not depend on the number of seeds: the replay.
        seeds: number of seeds that did not fit, 1 or more.
    """
    each = max((needed - fixed) / seeds, 1.0)
    return min(max(int((usable - fixed) / each), 0), seeds - 1)


@contextmanager
def telling_what_fits(label: str, *, seeds: int, fixed: int) -> Iterator[None]:
    """Within, running out of GPU memory raises an FdError that says how many seeds fit.

    Args:
        label: name of the run in the message.
        seeds: number of seeds trained at once.
        fixed: bytes on the GPU that do not depend on the number of seeds.
    """
    try:
        yield
    except RuntimeError as failure:
        if (error := _cause(failure)) is None:
            raise
        free, there = torch.cuda.mem_get_info()
        usable, needed = free + torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated() + _asked(error)
        raise FdError(full(label, there=there, usable=usable, needed=needed, fixed=fixed, seeds=seeds)) from None


def full(label: str, *, there: int, usable: int, needed: int, fixed: int, seeds: int) -> str:
    """The message for a full GPU that has `there` bytes; see `fitting`."""
    fit = fitting(usable=usable, needed=needed, fixed=fixed, seeds=seeds)
    return (
        f"{label}: out of GPU memory: {gib(there)}, {gib(usable)} of it for this process; {seeds} seeds need at least"
        f" {gib(needed)}, {gib(fixed)} of it for any number of seeds; {f'at most {fit}' if fit else 'not even 1'} would fit"
        f" (allowed: fewer seeds, a smaller refine.bank or batch_size, compute.device: cpu)"
    )


def _cause(error: BaseException | None) -> BaseException | None:
    """The error of a full GPU behind an error, or None; while a graph is recorded, another error takes its place."""
    while error is not None and not (isinstance(error, torch.OutOfMemoryError) or _CUDA.search(str(error))):
        error = error.__context__
    return error


def _asked(error: BaseException) -> int:
    """Bytes that could not be allocated; 0 if the message does not say."""
    found = _CUDA_ALLOCATOR.search(str(error))
    return int(float(found[1]) * 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(found[2])) if found else 0
