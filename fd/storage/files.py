"""Files that are written whole or not at all, and that are noticed when they are no longer what was written.

What names the bytes of a file is in the file itself where its format has room for it, its seal: SHA-256 of the file with the seal's
digits zero. Of other files it is in the record beside them.
"""

from __future__ import annotations

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
HEAD = 256  # bytes of a file that hold its seal
AGAIN = "remove it and run the stage that makes it again"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which takes its name once the block is done; nothing stays of it if the block fails."""
    temporary = path.with_name(f".{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file; its folder is made if absent, and it takes its name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path) -> None:
    """Put the digits of its own SHA-256 into a file that was written with SEAL at its head."""
    place, _, needed = _sealed(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(needed.encode())


def check_seal(path: Path) -> None:
    """Hold a file against its seal.

    Raises:
        FdError: a byte of it is another than was written, it is cut off, or this project has not written it.
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
        absent: what a user is told to do where there is none.

    Raises:
        FdError: there is no such file, or it is not as it was written.
    """
    if not path.is_file():
        raise FdError(f"{path}: no such file; {absent}")
    check_seal(path)
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FdError(f"{path}: not a JSON file ({one_line(error)}); {AGAIN}") from None
    if not isinstance(values, dict):
        raise FdError(f"{path}: holds {type(values).__name__}, allowed: a JSON object")
    return {name: value for name, value in values.items() if name != "seal"}


def digests(output: Path) -> dict[str, str]:
    """SHA-256, by name, of a file, or of those of a folder."""
    return {path.name: digest(path) for path in (sorted(output.iterdir()) if output.is_dir() else [output])}


def read_output(path: Path, record: Path) -> bytes:
    """Content of a file, held against what the record beside it says of it.

    Raises:
        FdError: one of the two is missing, or is not as it was written.
    """
    if not path.is_file():
        raise FdError(f"{path}: no such file; every task and method of params.yaml needs one")
    files = read_record(record, "every task and method of params.yaml needs one").get("files")
    needed = files.get(path.name) if isinstance(files, dict) else None
    if needed is None:
        raise FdError(f"{record}: field 'files' does not name {path.name}; run this stage again")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != needed:
        raise damaged(path, found, says=(record, str(needed)))
    return content


def damaged(path: Path, found: str, *, says: tuple[object, str]) -> FdError:
    """The error of a file whose SHA-256 is another than something says: what says it, and the digits there."""
    place, needed = says
    return FdError(
        f"{path}: is damaged or was changed, its SHA-256 is {found[:12]}…, {place} says {needed[:12]}…; {AGAIN}"
    )


def _sealed(path: Path) -> tuple[int, str, str]:
    """Place of a file's seal in it, the digits there, and those that belong there."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        match = re.search(rb"sha256:([0-9a-f]{64})", head)
        if match is None:
            raise FdError(f"{path}: is damaged or not a file that this project wrote, it has no seal; {AGAIN}")
        hashed = hashlib.sha256(head[: match.start(1)] + b"0" * 64 + head[match.end(1) :])
        return match.start(1), match[1].decode(), hashlib.file_digest(file, lambda: hashed).hexdigest()


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files, text by name, into the folder; none takes its name before all are written."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp" for name in files}
    try:
        for name, text in files.items():
            temporary[name].write_text(text, encoding="utf-8", newline="\n")
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
