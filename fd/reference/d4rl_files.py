"""Names and SHA-256 of the HDF5 files that D4RL published."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fd.errors import FdError
from fd.reference.tasks import read_table

FILE_COLUMNS = ("dataset", "file", "sha256", "source")


@dataclass(frozen=True)
class D4rlFile:
    """A file of D4RL: the name of the download, its SHA-256 and the source of this number; both are "" if unknown."""

    file: str
    sha256: str
    source: str


def d4rl_files(folder: Path) -> dict[str, D4rlFile]:
    """Files of the folder's d4rl_files.csv, by the name of the data set.

    Raises:
        FdError: the table is malformed.
    """
    files: dict[str, D4rlFile] = {}
    for place, row in read_table(folder / "d4rl_files.csv", FILE_COLUMNS):
        if row["dataset"] in files:
            raise FdError(f"{place}: duplicate data set {row['dataset']!r}, allowed: each once")
        if not re.fullmatch("([0-9a-f]{64})?", row["sha256"]) or bool(row["sha256"]) != bool(row["source"]):
            raise FdError(
                f"{place}: sha256 {row['sha256'][:80]!r}, allowed: 64 hexadecimal digits and their source, or neither"
            )
        files[row["dataset"]] = D4rlFile(row["file"], row["sha256"], row["source"])
    return files
