"""Files that are written whole or not at all, and checked for changes and damage when they are read.

If its format has room, a file holds its own checksum, the seal: SHA-256 of the file with the seal's digits zero. The checksums of
other files are in the record beside them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fd.errors import FdError, one_line

SEAL = f"sha256:{0:064d}"
HEAD = 256  # first bytes of a file, which hold its seal
AGAIN = "remove it and run the stage that makes it again"
OF_CONTENT = (None, 0, errno.EINVAL, errno.EOVERFLOW)  # errors that a false position in a damaged file causes


def expanded(folder: str, place: str, instead: str = "HOME or an absolute folder") -> Path:
    """The path of a folder; a `~` at its start is replaced by the home folder.

    Args:
        folder: as the user wrote it.
        place: its name in messages.
        instead: what the user may set if the home folder is not known.

    Raises:
        FdError: it begins with `~`, and neither HOME nor the list of users says what the home folder is.
    """
    found = os.path.expanduser(folder)
    if folder.startswith("~") and (found.startswith("~") or os.environ.get("HOME") == ""):
        raise FdError(f"{place}: {folder}: the home folder is not known; set {instead}")
    return Path(found)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, an OSError gets the name of this file if it has none, as when an open file is read or written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def unreadable(path: Path, error: Exception, otherwise: str) -> FdError:
    """The error for a file whose reader failed, by its cause.

    Args:
        path: of the file.
        error: of the reader.
        otherwise: what to say of the file unless the system refused to read it or lacks memory for it.
    """
    if isinstance(error, OSError) and error.errno not in OF_CONTENT:
        otherwise = f"cannot be read: {os.strerror(error.errno)}"
    elif isinstance(error, MemoryError):
        otherwise = f"does not fit into memory ({one_line(error)})"
    return FdError(f"{path}: {otherwise}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` when the block ends; if the block fails, it is removed."""
    temporary = path.with_name(f".{path.name}")
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path) -> None:
    """Fill in the digits of the seal of a file that was written with SEAL in its first bytes."""
    place, _, needed = _sealed(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(needed.encode())


def check_seal(path: Path) -> None:
    """Check a file against its seal.

    Raises:
        FdError: the file was changed or cut off, or this project did not write it.
    """
    _, found, needed = _sealed(path)
    if found != needed:
        raise damaged(path, needed, says=("its seal", found))


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with a seal; see `write_text`.

    Raises:
        FdError: a number is NaN or infinite.
    """
    try:
        text = json.dumps({"seal": SEAL} | dict(values), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise FdError(f"{path}: cannot be written: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        seal(temporary)


def read_record(path: Path, absent: str = "run the stage that makes it") -> dict[str, Any]:
    """The JSON object that `write_record` wrote.

    Args:
        path: of the file.
        absent: advice to the user if there is no such file.

    Raises:
        FdError: there is no such file, or it was changed or damaged.
    """
    if not path.is_file():
        raise FdError(f"{path}: no such file; {absent}")
    check_seal(path)
    try:
        with naming(path):
            values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FdError(f"{path}: not a JSON file ({one_line(error)}); {AGAIN}") from None
    if not isinstance(values, dict):
        raise FdError(f"{path}: holds {type(values).__name__}, allowed: a JSON object")
    return {name: value for name, value in values.items() if name != "seal"}


def digests(output: Path) -> dict[str, str]:
    """SHA-256, by name, of a file or of all files of a folder."""
    return {path.name: digest(path) for path in (sorted(output.iterdir()) if output.is_dir() else [output])}


def read_output(path: Path, record: Path) -> bytes:
    """Content of a file, checked against the record beside it.

    Raises:
        FdError: one of the two is missing, or was changed or damaged.
    """
    if not path.is_file():
        raise FdError(f"{path}: no such file; every task and method of params.yaml needs one")
    files = read_record(record, "every task and method of params.yaml needs one").get("files")
    needed = files.get(path.name) if isinstance(files, dict) else None
    if needed is None:
        raise FdError(f"{record}: field 'files' does not name {path.name}; run this stage again")
    with naming(path):
        content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != needed:
        raise damaged(path, found, says=(record, str(needed)))
    return content


def damaged(path: Path, found: str, *, says: tuple[object, str]) -> FdError:
    """The error for a file with a wrong SHA-256; `says`: the place of the right one, and its digits."""
    place, needed = says
    return FdError(
        f"{path}: is damaged or was changed, its SHA-256 is {found[:12]}…, {place} says {needed[:12]}…; {AGAIN}"
    )


def _sealed(path: Path) -> tuple[int, str, str]:
    """Position of the seal in a file, its digits, and the digits that it should have."""
    with naming(path), path.open("rb") as file:
        head = file.read(HEAD)
        match = re.search(rb"sha256:([0-9a-f]{64})", head)
        if match is None:
            raise FdError(f"{path}: is damaged or not a file that this project wrote, it has no seal; {AGAIN}")
        hashed = hashlib.sha256(head[: match.start(1)] + b"0" * 64 + head[match.end(1) :])
        return match.start(1), match[1].decode(), hashlib.file_digest(file, lambda: hashed).hexdigest()


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files, text by name, into the folder; none appears under its name before all are written."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp" for name in files}
    try:
        for name, text in files.items():
            with naming(folder / name):
                temporary[name].write_text(text, encoding="utf-8", newline="\n")
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
