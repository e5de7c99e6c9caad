"""Scratch folders: where unfinished work waits to be resumed, and from where whole folders are published.

DVC deletes a stage's outputs before it runs, so what a killed run has done is kept here, under the hash of all that it depends on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fd.errors import FdError
from fd.runtime import closure, signals

ROOT = Path(".scratch")
PATIENCE = 10.0  # seconds to wait for a cell: what is asked to end may still be saving its state


@contextmanager
def claimed(stage: str, cell: str) -> Iterator[None]:
    """Keeps other processes out of a cell of a stage; the claim ends with this process, however that ends.

    Raises:
        FdError: another process is at work on the cell.
    """
    (locks := ROOT / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / _name(stage, cell), timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise FdError(f"{stage} {cell}: another process is at work on it, allowed: one at a time") from None
    try:
        yield
    finally:
        lock.release()


def folder(stage: str, cell: str, *depends: Any) -> Path:
    """Scratch folder of a cell of a stage (not made); another one whenever the stage's code or `depends` (JSON values) changes."""
    return ROOT / f"{_name(stage, cell)}-{key(f'stages.{stage}', *depends)}"


def key(module: str, *depends: Any) -> str:
    """16 digits for work that depends on `depends` (JSON values) and on the code of a module: itself and all that it imports."""
    told = json.dumps(depends, sort_keys=True) + closure.listing(module)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _name(stage: str, cell: str) -> str:
    return f"{stage}-{cell.replace('/', '.')}"


def publish(built: Path, out: Path, scratch: Path) -> None:
    """Moves a finished folder to its place in one rename, in place of what may be there, and removes the scratch folder.

    A signal that asks the process to end comes too late here.
    """
    with signals.deferred():
        _publish(built, out, scratch)


def _publish(built: Path, out: Path, scratch: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    try:
        os.replace(built, out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = out.with_name(f".{out.name}")  # `out` lies on another disk
        try:
            shutil.copytree(built, near, dirs_exist_ok=True)
            os.replace(near, out)
        except BaseException:
            shutil.rmtree(near, ignore_errors=True)
            raise
    shutil.rmtree(scratch)
