"""The folder of a report: all of its files are written, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def save(folder: Path, files: Mapping[str, str]) -> None:
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
