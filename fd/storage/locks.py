"""Locks between processes that end with the process that holds them, even if it is killed.

A lock is a lock of the system on a file (flock). Some network file systems refuse it: NFS without its lock service, Lustre mounted
without `flock`. A file whose existence is the lock would outlive a killed process there: these file systems cannot exchange it safely for
the file of the next process, and a process cannot see whether a process of another machine still runs. So the fallback is a name in the
memory of this machine's kernel. It keeps the processes of one machine apart, as the mount options `localflock` of Lustre and
`local_lock=flock` of NFS do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fd.storage.files import naming

POLL = 0.05  # seconds between two attempts
_told: set[int] = set()  # file systems without locks, by the number of their device


@contextmanager
def locked(path: Path, patience: float = -1) -> Iterator[None]:
    """Holds the lock of a file, which is made if absent.

    Args:
        path: of the file; its folder exists.
        patience: seconds to wait for another process that holds the lock; negative: no limit.

    Raises:
        filelock.Timeout: another process still holds the lock.
        OSError: the file cannot be made.
    """
    lock = FileLock(path, timeout=patience, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.filename is not None:  # the lock itself, unlike its file, has no name
            raise
        _tell(path.parent, error.strerror)
    else:
        try:
            yield
        finally:
            lock.release()
        return
    with _name_of_this_machine(path, patience):
        yield


def _tell(folder: Path, reason: str | None) -> None:
    """Says, once for each file system, that locks there keep apart only the processes of this machine."""
    if (device := folder.stat().st_dev) in _told:
        return
    _told.add(device)
    print(
        f"{folder}: its file system has no locks ({reason}), so only runs on this machine are kept apart: do not run on others meanwhile",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    # HDF5 locks its files in the same way. It reads this variable when it is loaded, and a value set by the user is kept.
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")


@contextmanager
def _name_of_this_machine(path: Path, patience: float) -> Iterator[None]:
    """Holds a name that belongs to the path: that of a socket without a file, which the kernel forgets when this process ends."""
    name, start = b"\0fd-" + hashlib.sha256(os.fsencode(path.resolve())).digest(), time.monotonic()
    with socket.socket(socket.AF_UNIX) as holder:
        while not _bound(holder, name, path):
            if 0 <= patience < time.monotonic() - start:
                raise Timeout(str(path))
            time.sleep(POLL)
        yield


def _bound(holder: socket.socket, name: bytes, path: Path) -> bool:
    """Whether the socket got the name; False if another process holds it."""
    try:
        with naming(path):
            holder.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
