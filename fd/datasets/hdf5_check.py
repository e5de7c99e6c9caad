"""What an HDF5 file of somebody else declares, looked at before anything of it is read."""

from pathlib import Path
from typing import Any

from fd.errors import FdError, one_line

# Numbers that a file may stand for; flags shrink a thousandfold, but floats of an experiment hardly.
RATIO, SMALL = 20, 2**26  # bytes for every byte of the file, and those that any file may


def check_hdf5(path: Path) -> int:
    """How many groups and arrays stand at the top of a file, all of which lies in it.

    Raises:
        FdError: it holds a link, external or virtual data or declares more than it can hold, is truncated or no HDF5 file.
    """
    import h5py

    most, declared = SMALL + RATIO * path.stat().st_size, 0

    def visit(name: bytes, link: Any) -> str | None:
        nonlocal declared
        shown = name.decode(errors="backslashreplace")
        if link.type != h5py.h5l.TYPE_HARD:
            return f"'{shown}' is a link to elsewhere, allowed: data of its own"
        if h5py.h5o.get_info(file.id, name).type != h5py.h5o.TYPE_DATASET:
            return None
        data = h5py.h5d.open(file.id, name)
        layout = data.get_create_plist()
        if layout.get_external_count() or layout.get_layout() == h5py.h5d.VIRTUAL:
            return f"'{shown}' lies in another file, allowed: data of its own"
        declared += data.get_space().get_simple_extent_npoints() * data.get_type().get_size()
        return f"'{shown}' declares more data than the file can hold" if declared > most else None

    try:
        with h5py.File(path) as file:
            if wrong := file.id.links.visit(visit, info=True):
                raise FdError(f"{path}: {wrong}")
            return len(file)
    except FdError:
        raise
    except Exception as error:  # of many kinds, for what a damaged file holds
        raise FdError(f"{path}: truncated or not an HDF5 file ({one_line(error)})") from error
