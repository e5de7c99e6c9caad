"""Check of an HDF5 file from elsewhere: its links and declared sizes, before its data are read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fd.errors import FdError, one_line
from fd.storage.files import unreadable

# Limits of the data that a file declares: flags compress a thousandfold, but floats of an experiment hardly.
RATIO, SMALL = 20, 2**26  # bytes per byte of the file, and bytes that any file may declare in addition


def check_hdf5(path: Path) -> int:
    """Return the number of groups and arrays at the top level of a file, which must hold all its data itself.

    Raises:
        FdError: the file holds a link, external or virtual data, declares more data than it can hold, is truncated or
            is not an HDF5 file, or cannot be read.
    """
    import h5py

    most, declared = SMALL + RATIO * path.stat().st_size, 0

    def visit(name: bytes, link: Any) -> str | None:
        nonlocal declared
        shown = name.decode(errors="backslashreplace")
        if link.type != h5py.h5l.TYPE_HARD:
            return f"'{shown}' is a link, allowed: data in the file itself"
        if h5py.h5o.get_info(file.id, name).type != h5py.h5o.TYPE_DATASET:
            return None
        data = h5py.h5d.open(file.id, name)
        layout = data.get_create_plist()
        if layout.get_external_count() or layout.get_layout() == h5py.h5d.VIRTUAL:
            return f"'{shown}' is stored in another file, allowed: data in the file itself"
        declared += data.get_space().get_simple_extent_npoints() * data.get_type().get_size()
        return f"'{shown}' declares more data than the file can hold" if declared > most else None

    with opened(path) as file:
        if wrong := file.id.links.visit(visit, info=True):
            raise FdError(f"{path}: {wrong}")
        return len(file)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading.

    Raises:
        FdError: it cannot be read, here or within the context; names the cause.
    """
    import h5py

    damage = "truncated or not an HDF5 file"
    try:
        with h5py.File(path) as file:
            damage = "cannot be read"
            yield file
    except FdError:
        raise
    except Exception as error:  # a damaged file causes exceptions of many kinds
        raise unreadable_hdf5(path, error, damage) from error


@contextmanager
def writing_hdf5(path: Path) -> Iterator[None]:
    """Within, HDF5 files are written below a folder.

    Raises:
        FdError: the system refuses it; names the cause.
    """
    try:
        yield
    except OSError as error:  # HDF5 raises them without the name of a file
        told = os.strerror(error.errno) if error.errno else one_line(error)
        raise _locking(path, error) or FdError(f"{error.filename or path}: cannot be written: {told}") from error


def unreadable_hdf5(path: Path, error: Exception, otherwise: str) -> FdError:
    """The error for an HDF5 file whose reader failed; see `fd.storage.files.unreadable`."""
    if told := _locking(path, error):
        return told
    return unreadable(path, error, f"{otherwise} ({type(error).__name__}: {one_line(error)})")


def _locking(path: Path, error: Exception) -> FdError | None:
    """The error for an HDF5 file that HDF5 cannot lock, None if that is not the cause."""
    if not isinstance(error, OSError) or error.errno is None or "unable to lock file" not in str(error):
        return None
    return FdError(
        f"{path}: HDF5 cannot lock the file ({os.strerror(error.errno)}); if no other program writes to it, set"
        " HDF5_USE_FILE_LOCKING=FALSE"
    )
