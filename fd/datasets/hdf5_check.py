"""Check of an HDF5 file from elsewhere: its links and declared sizes, before its data are read."""

from pathlib import Path
from typing import Any

from fd.errors import FdError, one_line

# Limits of the data that a file declares: flags compress a thousandfold, but floats of an experiment hardly.
RATIO, SMALL = 20, 2**26  # bytes per byte of the file, and bytes that any file may declare in addition


def check_hdf5(path: Path) -> int:
    """Return the number of groups and arrays at the top level of a file, which must hold all its data itself.

    Raises:
        FdError: the file holds a link, external or virtual data, declares more data than it can hold, is truncated or
            is not an HDF5 file.
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

    try:
        with h5py.File(path) as file:
            if wrong := file.id.links.visit(visit, info=True):
                raise FdError(f"{path}: {wrong}")
            return len(file)
    except FdError:
        raise
    except Exception as error:  # a damaged file causes exceptions of many kinds
        raise FdError(f"{path}: truncated or not an HDF5 file ({one_line(error)})") from error
