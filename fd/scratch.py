"""Scratch folders: where unfinished work waits to be resumed, and from where whole folders are published.

DVC deletes a stage's outputs before it runs, so what a killed run has done is kept here, under the hash of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(".scratch")
CODE = [Path(__file__).parent, Path(__file__).parent.parent / "stages"]


def folder(stage: str, cell: str, *depends: Any) -> Path:
    """Scratch folder of a cell of a stage (not made); another one whenever the code or `depends` (JSON values) changes."""
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
    for path in sorted(path for package in CODE for path in package.rglob("*.py")):
        digest.update(path.read_bytes())
    return ROOT / f"{stage}-{cell.replace('/', '-')}-{digest.hexdigest()[:16]}"


def publish(built: Path, out: Path, scratch: Path) -> None:
    """Moves a finished folder to its place in one rename, in place of what may be there, and removes the scratch folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    os.replace(built, out)
    shutil.rmtree(scratch)
