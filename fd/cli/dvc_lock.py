"""Removes DVC's list of what is being read and written, .dvc/tmp/rwlock, when no DVC stands behind it. `make repro` calls it.

DVC itself drops entries whose process number is free. After a restart of a container the number of a DVC that was killed may be that of
another program, and a list that was being written when DVC was killed is cut off: then DVC asks for this by hand.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock


def command(
    folder: Annotated[Path, typer.Option(help="DVC's folder of the project.")] = Path(".dvc"),
) -> None:
    """Remove DVC's list of what is being read and written, unless a process in it is a DVC."""
    path = folder / "tmp" / "rwlock"
    if path.exists() and Path("/proc/self").exists():  # without which nothing is known of a process
        with FileLock(path.with_name("rwlock.lock")):  # under which DVC reads and writes the list
            if not any(map(is_dvc, processes(path.read_text(encoding="utf-8", errors="replace")))):
                path.unlink()


def processes(text: str) -> list[int]:
    """Numbers of the processes in DVC's list, {"read": {path: [process]}, "write": {path: process}}; none where it is cut off."""
    try:
        known = json.loads(text)
        holders = [*chain.from_iterable(known["read"].values()), *known["write"].values()]
        return [int(holder["pid"]) for holder in holders]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def is_dvc(process: int) -> bool:
    """Whether the process runs and has DVC in its command line."""
    try:
        return b"dvc" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
