"""What this process may use of its machine: memory and cores, which batch systems and containers limit by control groups.

A process is in one group of each hierarchy of groups, and the limits of a group's ancestors hold for it, too.
"""

from __future__ import annotations

import math
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fd.errors import FdError

PROCESS = Path("/proc/self")
MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")  # of version 2 and version 1 of control groups
ULIMITS = {"ulimit -v": resource.RLIMIT_AS, "ulimit -d": resource.RLIMIT_DATA}


def memory_limit(process: Path = PROCESS, *, alone: bool = True) -> tuple[int, str]:
    """Return the bytes of memory that this process may use at most, and what sets this limit: "" for the machine itself.

    Args:
        process: folder of the process in /proc.
        alone: whether this process alone uses the memory. If not, its own limits do not count, as each process has them.
    """
    found = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "")]
    found += [(resource.getrlimit(kind)[0], f"`{name}`") for name, kind in ULIMITS.items() if alone]
    files = [group / name for group in _groups("memory", process) for name in MEMORY_FILES]
    found += [(int(text), str(file)) for file in files if (text := _text(file)).isdigit()]
    return min((limit for limit in found if limit[0] != resource.RLIM_INFINITY), key=lambda limit: limit[0])


def cores(process: Path = PROCESS) -> int:
    """Return the number of cores that this process may use: those of its affinity, or its quota of time, rounded up.

    Args:
        process: folder of the process in /proc.
    """
    found = [float(len(os.sched_getaffinity(0)))]
    for group in _groups("cpu", process):
        old = f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
        match (_text(group / "cpu.max") or old).split():
            case [quota, period] if quota.isdigit() and period.isdigit():  # "max" or -1: none
                found.append(int(quota) / int(period))
    return max(math.ceil(min(found)), 1)


def check_room(
    size: int, *, what: str, allowed: str, device: str = "cpu", limit: tuple[int, str] | None = None
) -> None:
    """Raise an FdError if something takes more memory than this process may use; call it before anything is allocated.

    Args:
        size: least number of bytes that it takes.
        what: its name, in the plural; the message begins with it.
        allowed: what the user can do.
        device: name of the device that has the memory.
        limit: see `memory_limit`; that of this process, if not given.
    """
    there, source = limit or memory_limit()
    if size > there:
        cause = f", the limit of {source}" if source else ""
        raise FdError(f"{what} take {gib(size)} at least, {device} has {gib(there)}{cause} (allowed: {allowed})")


def gib(size: int) -> str:
    """Return a number of bytes in GiB, as messages show it."""
    return f"{size / 2**30:.3g} GiB"


def _groups(controller: str, process: Path) -> Iterator[Path]:
    """Yield the folders of the groups of both versions that limit a resource of a process: its own and all ancestors."""
    # A line of cgroup is "number:controllers:path"; version 2 has one line, without a controller.
    lines = [line.split(":", 2) for line in _text(process / "cgroup").splitlines()]
    paths = {name: path for _, names, path in lines for name in names.split(",")}
    for line in _text(process / "mountinfo").splitlines():
        mount, system = line.split(" - ")  # "... root, mount point, ..." and "type, source, options"
        kind, *_, options = system.split(" ")
        name = {"cgroup2": "", "cgroup": controller if controller in options.split(",") else None}.get(kind)
        if name is None or name not in paths:
            continue
        root, top = (
            re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field) for field in mount.split(" ")[3:5]
        )
        # In a container, the mounted root is a group deep in the hierarchy, or the path is relative to one.
        own = PurePosixPath(paths[name])
        below = own.relative_to(root) if own.is_relative_to(root) and ".." not in own.parts else PurePosixPath()
        yield from (Path(top, part) for part in (below, *below.parents))


def _text(file: Path) -> str:
    """Text of a file of the kernel, "" if it cannot be read."""
    try:
        return file.read_text("utf-8", "surrogateescape").strip()
    except OSError:
        return ""
