"""A submission: the folder .scratch/cluster/<snapshot>, which holds all that workers need and all that they tell.

plan.json        the cells, entries of those that were done before, DVC's cache, the remote
tree.tar         snapshot of the project: tracked files as they are, with edits, and new files among the dependencies of the cells
states/<cell>    what the worker of the cell tells, and the cell's entry of dvc.lock once it is done
logs/<cell>.log  output of the worker, of DVC and of the stage
cells/<cell>     the workspace of the cell while it is at work

The locks of the cells are beside it, .scratch/cluster/locks/<cell>: no cell is made twice at once, whoever submitted it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fd.cluster.cells import Cell, Entry, Pipeline
from fd.errors import FdError, one_line
from fd.storage.files import replacing, write_text

FOLDER = Path(".scratch/cluster")
DIGITS = 12  # of a snapshot's name
ALWAYS = ("dvc.yaml", "params.yaml", ".dvc/config", ".dvcignore")  # a workspace needs these, tracked or not


@dataclass(frozen=True)
class Submission:
    """A submission that was made.

    Attributes:
        folder: of the submission.
        cells: by name, in the order of the pipeline.
        known: entries of cells that were done before.
        retries: of a cell, by kind.
        cache: DVC's cache, where workers share it.
        remote: the DVC remote through which nodes without a shared file system exchange data; None: they share one.
    """

    folder: Path
    cells: dict[str, Cell]
    known: dict[str, Entry]
    retries: dict[str, int]
    cache: str
    remote: str | None

    @property
    def tree(self) -> Path:
        """The snapshot."""
        return self.folder / "tree.tar"

    def lock(self, cell: str) -> Path:
        """The lock of a cell."""
        return self.folder.parent / "locks" / cell

    def log(self, cell: str) -> Path:
        """The log of a cell."""
        return self.folder / "logs" / f"{cell}.log"

    def workspace(self, cell: str) -> Path:
        """The workspace of a cell."""
        return self.folder / "cells" / cell

    def state(self, cell: str) -> dict[str, Any]:
        """What the worker of a cell told; empty if none began."""
        try:
            return dict(json.loads((self.folder / "states" / cell).read_bytes()))
        except FileNotFoundError:
            return {}

    def tell(self, cell: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a cell."""
        write_text(self.folder / "states" / cell, json.dumps(state))

    def forget(self, cells: Iterable[str], seen: Sequence[Mapping[str, Entry]] = ()) -> None:
        """Drop the states of cells that are to run, unless a worker has told an entry that was not among those `seen`."""
        for cell in cells:
            entry = self.state(cell).get("entry")
            if entry is None or any(entries.get(cell) == entry for entries in seen):
                (self.folder / "states" / cell).unlink(missing_ok=True)

    def entries(self) -> dict[str, Entry]:
        """Entries of the cells that are done."""
        found = {path.name: self.state(path.name) for path in (self.folder / "states").iterdir()}
        return self.known | {name: state["entry"] for name, state in found.items() if "entry" in state}

    def save(self) -> None:
        """Make the folder, so far without a snapshot."""
        for name in ("states", "logs", "cells", "../locks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "plan.json", json.dumps(asdict(self) | {"folder": None}))


def load(folder: Path) -> Submission:
    """The submission in a folder."""
    values = json.loads((folder / "plan.json").read_bytes())
    cells = {name: Cell(**cell | {"needs": tuple(cell["needs"])}) for name, cell in values["cells"].items()}
    return Submission(**values | {"folder": folder, "cells": cells})


def all_of(root: Path) -> list[Submission]:
    """The submissions of a project, the latest first."""
    found = sorted((root / FOLDER).glob("*/plan.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [load(path.parent) for path in found]


def prepare(root: Path, pipeline: Pipeline, retries: Mapping[str, int], remote: str | None) -> Submission:
    """Make the submission of a pipeline with a snapshot of the project, or renew the one that has the same snapshot.

    Raises:
        FdError: Git cannot make a snapshot of the project.
    """
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    (root / FOLDER).chmod(0o700)  # the snapshot may hold what the user keeps from others
    tree = _tree(root, pipeline.sources)
    folder = (root / FOLDER / tree[:DIGITS]).resolve()
    cells, known = pipeline.cells, pipeline.done
    if (folder / "plan.json").exists():  # its workers may be at work
        before = load(folder)
        cells, known = before.cells | cells, before.known | known
    submission = Submission(folder, cells, known, dict(retries), str(pipeline.cache), remote)
    submission.save()
    if not submission.tree.exists():
        with replacing(submission.tree) as temporary:
            _git(root, "archive", "--format=tar", f"--output={temporary.resolve()}", tree)
    return submission


def _tree(root: Path, sources: Sequence[str]) -> str:
    """Name of Git's tree of the files as they are; the index of the user stays as it is."""
    index = root / _git(root, "rev-parse", "--git-path", "index")
    present = [path for path in (*ALWAYS, *sources) if (root / path).exists()]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "index")
        if index.exists():
            shutil.copy(index, copy)
        _git(root, "add", "--update", index=copy)
        _git(root, "add", "--", *present, index=copy)
        return _git(root, "write-tree", index=copy)


def _git(root: Path, *arguments: str, index: Path | None = None) -> str:
    env = os.environ if index is None else os.environ | {"GIT_INDEX_FILE": str(index)}
    done = subprocess.run(("git", *arguments), cwd=root, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FdError(f"{root}: git {arguments[0]}: {one_line(done.stderr)}")
    return done.stdout.strip()
