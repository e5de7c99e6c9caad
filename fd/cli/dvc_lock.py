"""Removes DVC's lock file .dvc/tmp/rwlock if no running DVC process owns it. `make repro` calls it.

The file lists the paths that each DVC process reads or writes. DVC itself drops the entries of processes that no longer run. But after
a restart of a container, another program can have the number of a killed DVC process; and if DVC was killed while it wrote the list,
the list is truncated. In both cases DVC asks the user to remove the file.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.storage.locks import locked


def command(
    folder: Annotated[Path, typer.Option(help="The project's DVC folder.")] = Path(".dvc"),
) -> None:
    """Remove DVC's lock file tmp/rwlock, unless a running DVC process owns it."""
    if not folder.is_dir():
        raise FdError(f"{folder}: no such folder, allowed: the folder .dvc of a project")
    path = folder / "tmp" / "rwlock"
    if path.exists() and Path("/proc/self").exists():  # /proc is needed to look up processes
        with locked(path.with_name("rwlock.lock")):  # DVC takes the same lock to read and write the list
            if not any(map(is_dvc, processes(path.read_text(encoding="utf-8", errors="replace")))):
                path.unlink()


def processes(text: str) -> list[int]:
    """Numbers of the processes in DVC's list, {"read": {path: [process]}, "write": {path: process}}; none if it is truncated."""
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
