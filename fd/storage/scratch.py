"""Scratch folders: they keep unfinished work, from which stages resume and publish whole folders.

DVC deletes a stage's outputs before it runs, so a killed run's work is kept here, under a hash of everything that it depends on.
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
PATIENCE = 10.0  # seconds to wait for a cell: a process that was asked to end may still be saving its state


@contextmanager
def claimed(stage: str, cell: str) -> Iterator[None]:
    """Keeps other processes out of a cell of a stage; the claim ends with this process, even if it is killed.

    Raises:
        FdError: another process works on the cell.
    """
    (locks := ROOT / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / _name(stage, cell), timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise FdError(f"{stage} {cell}: another process works on it, allowed: one at a time") from None
    try:
        yield
    finally:
        lock.release()


def folder(stage: str, cell: str, *depends: Any) -> Path:
    """Path of a cell's scratch folder for a stage; it changes whenever the stage's code or `depends` (JSON values) changes."""
    return ROOT / f"{_name(stage, cell)}-{key(f'stages.{stage}', *depends)}"


def key(module: str, *depends: Any) -> str:
    """16 digits that identify work by `depends` (JSON values) and the code of a module: itself and everything that it imports."""
    told = json.dumps(depends, sort_keys=True) + closure.listing(module)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _name(stage: str, cell: str) -> str:
    return f"{stage}-{cell.replace('/', '.')}"


def publish(built: Path, out: Path, scratch: Path) -> None:
    """Moves a finished folder to `out` in one rename, replacing an existing one, and removes the scratch folder.

    If `out` is a link, the folder that it leads to is replaced. Signals that ask the process to end are deferred.
    """
    with signals.deferred():
        _publish(built, out.resolve(), scratch)


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
        shutil.rmtree(near, ignore_errors=True)  # what a killed run left of another output
        try:
            shutil.copytree(built, near)
            os.replace(near, out)
            gone = built.with_name(f".{built.name}")
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(built, gone)  # so that no run resumes from a part of it
        except BaseException:
            shutil.rmtree(near, ignore_errors=True)
            raise
    shutil.rmtree(scratch)
