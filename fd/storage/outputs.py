"""Outputs are checked before the work that makes them: whether they can be written, and whether DVC will take them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from fd.errors import FdError
from fd.runtime import signals


def check_folder(path: Path) -> None:
    """Check that a folder can be made, or replaced as a whole; for a link, that its target can.

    Raises:
        FdError: it is a file, a mount point or a link to nothing, it or its place cannot be written, or DVC, which started this
            process, will not take it.
    """
    if signals.DVC_STAGE in os.environ:
        check_links(path)
    _check_place(path)
    if path.is_symlink():
        _check_target(path)
        path = path.resolve()
        _check_place(path)
    if path.exists():
        if not path.is_dir():
            raise FdError(f"{path}: is a file, allowed: a folder")
        if os.path.ismount(path):
            raise FdError(f"{path}: is a mount point, which cannot be replaced, allowed: a folder in it")
        _try_to_write(path)


def check_file(path: Path, *, cached: bool = False) -> None:
    """Check that a file can be written; a link is replaced by the file.

    Args:
        path: of the file.
        cached: whether it is an output for DVC's cache.

    Raises:
        FdError: it is a folder, its place cannot be written, or DVC, which started this process, will not take it.
    """
    if cached and signals.DVC_STAGE in os.environ:
        check_links(path)
    if path.is_dir():
        raise FdError(f"{path}: is a folder, allowed: a file")
    _check_place(path)


def check_links(path: Path) -> None:
    """Check that DVC will take an output into its cache: it refuses what lies behind a link out of the Git repository.

    Raises:
        FdError: a folder above the output is such a link.
    """
    here = Path.cwd()  # an absolute path
    git = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), Path("/"))
    for place in () if path.is_absolute() else path.parents:
        if place.is_symlink() and not place.resolve().is_relative_to(git):
            raise FdError(
                f"{place}: is a link out of the Git repository, where DVC keeps no outputs, allowed: a folder;"
                f" what stands in it may be a link, for example {path}"
            )


def make_room(folder: Path, size: int) -> None:
    """Check that the disk of a folder has room for so many bytes.

    Raises:
        OSError: it has not; the error is that of a full disk.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _check_place(path: Path) -> None:
    """Check that something can be written under this name; FdError if not."""
    for place in path.parents:
        if place.is_symlink():
            _check_target(place)
    near = next(place for place in path.parents if place.exists())
    if not near.is_dir():
        raise FdError(f"{near}: is a file, allowed: a folder")
    _try_to_write(near)


def _check_target(link: Path) -> None:
    if not link.exists():
        raise FdError(f"{link}: is a link to {os.readlink(link)}, which does not exist, allowed: a folder")


def _try_to_write(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so nothing is left of it
            file.write(bytes(4096))
    except OSError as error:
        raise FdError(f"{folder}: cannot be written: {error.strerror}") from None
