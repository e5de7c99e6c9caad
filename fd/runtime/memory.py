"""Memory: what training takes at least, told before it is taken, and what would have fitted when there was not enough."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from fd.errors import FdError

NUMBER = 4  # bytes
COPIES = 4  # of a parameter: itself, its gradient and the two moments of Adam
DRAWN = 64 * 8  # bytes of the numbers of the rows of a batch's place, which are drawn 64 steps at once
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of this container, if it is one
_CUDA_ALLOCATOR = re.compile(r"Tried to allocate ([\d.]+) (B|KiB|MiB|GiB|TiB)")


def least_memory(hidden: Sequence[int], *, seeds: int, batch_size: int) -> int:
    """Bytes that training takes at least: weights between one network's hidden layers, a batch's widest layer, and drawn rows."""
    weights = sum(a * b for a, b in itertools.pairwise(hidden))
    return seeds * (NUMBER * (COPIES * weights + batch_size * max(hidden)) + DRAWN * batch_size)


def total_memory(device: torch.device) -> int:
    """Bytes of memory of a device; of the CPU, what this container may use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    limit = _LIMIT.read_text().strip() if _LIMIT.exists() else "max"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(limit)) if limit.isdigit() else machine


def check_memory(hidden: Sequence[int], *, seeds: int, batch_size: int, device: torch.device, place: str) -> None:
    """Raise an FdError, before anything is allocated, where the least that training takes is more than the device has."""
    needed, there = least_memory(hidden, seeds=seeds, batch_size=batch_size), total_memory(device)
    if needed > there:
        raise FdError(
            f"{place}: {seeds} seeds of network.hidden {list(hidden)} and batch_size {batch_size} take {_gib(needed)} at"
            f" least, {device.type} has {_gib(there)} (allowed: fewer seeds, smaller layers, a smaller batch)"
        )


def fitting(*, usable: int, needed: int, fixed: int, seeds: int) -> int:
    """How many seeds fit, fewer than those that did not.

    Args:
        usable: bytes that can be had.
        needed: bytes that `seeds` seeds asked for, at least.
        fixed: bytes of it that do not depend on the number of seeds: the replay.
        seeds: that did not fit, 1 or more.
    """
    each = max((needed - fixed) / seeds, 1.0)
    return min(max(int((usable - fixed) / each), 0), seeds - 1)


@contextmanager
def telling_what_fits(label: str, *, seeds: int, fixed: int) -> Iterator[None]:
    """Within, a GPU whose memory is full is an FdError that says how many seeds fit.

    Args:
        label: what the message calls the run.
        seeds: that are trained at once.
        fixed: bytes on the GPU that do not depend on their number.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, there = torch.cuda.mem_get_info()
        usable, needed = free + torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated() + _asked(error)
        raise FdError(full(label, there=there, usable=usable, needed=needed, fixed=fixed, seeds=seeds)) from None


def full(label: str, *, there: int, usable: int, needed: int, fixed: int, seeds: int) -> str:
    """The line on a GPU that has `there` bytes; see `fitting`."""
    fit = fitting(usable=usable, needed=needed, fixed=fixed, seeds=seeds)
    return (
        f"{label}: the GPU's memory is full: {_gib(there)}, {_gib(usable)} of it for this process; {seeds} seeds asked for"
        f" {_gib(needed)} at least, of which {_gib(fixed)} whatever their number: {fit or 'not even 1'} would fit at most"
        f" (allowed: fewer seeds, a smaller refine.bank or batch_size, compute.device: cpu)"
    )


def _asked(error: torch.OutOfMemoryError) -> int:
    """Bytes that could not be allocated; 0 where the message does not tell."""
    found = _CUDA_ALLOCATOR.search(str(error))
    return int(float(found[1]) * 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(found[2])) if found else 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
