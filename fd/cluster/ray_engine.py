"""Cells as tasks of Ray: on this machine, on a cluster with a shared file system, or on nodes that share only a DVC remote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd.cluster.resources import Resources
from fd.cluster.submission import Submission, load
from fd.cluster.worker import DONE, NO_ATTEMPT_LEFT, REFUSED
from fd.errors import FdError, one_line
from fd.runtime import closure
from fd.storage.files import replacing, write_text
from fd.storage.locks import locked

# Without this, Ray listens on all interfaces, as if other machines were to join; on macOS and Windows it is the default.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
LOG = 2**16  # last bytes of a log that come back from a node without a shared file system


class Unfinished(Exception):
    """The worker of a cell was killed, stopped or failed; Ray tries again."""


class CellFailed(Exception):
    """A cell failed for good; its dependents are skipped."""


@dataclass(frozen=True)
class Parcel:
    """What a node needs without a shared file system.

    Attributes:
        name: of the submission.
        plan: content of plan.json.
        tree: the snapshot.
        place: folder on the node; a `~` at its start and variables are of the node.
    """

    name: str
    plan: bytes
    tree: bytes
    place: str

    def unpack(self, upstream: Iterable[Mapping[str, Any]]) -> Submission:
        """The submission, made or found on this node, with the states of cells that were made elsewhere."""
        place = Path(os.path.expandvars(os.path.expanduser(self.place)))
        folder = place / ".scratch" / "cluster" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
        with locked(folder / "lock"):
            write_text(folder / "plan.json", json.dumps(json.loads(self.plan) | {"cache": str(place / "cache")}))
            (submission := load(folder)).save()
            if not submission.tree.exists():
                with replacing(submission.tree) as temporary:
                    temporary.write_bytes(self.tree)
            for state in upstream:
                submission.tell(state["cell"], state)
        return submission


def make(cell: str, where: str | Parcel, *upstream: Mapping[str, Any]) -> dict[str, Any]:
    """Run the worker of a cell, in a task; returns its state.

    Args:
        cell: its name.
        where: folder of the submission, or what a node needs to make it.
        upstream: states of the cells that it needs and that were made in this submission.
    """
    if isinstance(where, str):
        submission = load(Path(where))
    else:
        submission = where.unpack(upstream)
        submission.forget([cell])  # Ray counts the attempts, on all nodes
    command = (sys.executable, "-m", "fd.cluster.worker", str(submission.folder), cell)
    worker = subprocess.Popen(command, cwd=closure.ROOT)
    try:
        code = worker.wait()
    finally:
        worker.send_signal(signal.SIGTERM)
    log = "" if isinstance(where, str) else submission.log(cell).read_bytes()[-LOG:].decode(errors="replace")
    if code in (NO_ATTEMPT_LEFT, REFUSED):
        raise CellFailed(log)
    if code != DONE:
        raise Unfinished(log)
    return submission.state(cell) | {"cell": cell, "log": log}


def submit(
    submission: Submission,
    cells: Iterable[str],
    resources: Mapping[str, Resources],
    *,
    address: str | None,
    place: str,
    tell: Callable[[str], None],
) -> list[str]:
    """Make cells and wait for them; returns the names of those that failed or were skipped.

    Args:
        submission: of the cells.
        cells: names, those that a cell needs before it.
        resources: by kind.
        address: of a Ray cluster; None: Ray is started on this machine, on loopback, and ended.
        place: folder for the work of a node without a shared file system.
        tell: is called with a line for each cell.

    Raises:
        FdError: Ray is not installed, or the cluster lacks what a cell needs.
    """
    os.environ.update(QUIET if address else QUIET | LOOPBACK)  # before Ray is loaded
    try:
        import ray
    except ImportError:
        raise FdError("ray: is not installed, allowed: pip install --editable '.[ray]'") from None
    try:
        ray.init(
            address or "local", include_dashboard=None if address else False, logging_level="error", log_to_driver=False
        )
    except Exception as error:  # noqa: BLE001, Ray has no type for it
        raise FdError(f"ray {address or 'on this machine'}: does not start or answer: {one_line(error)}") from None
    try:
        there = ray.cluster_resources()
        if not there.get("GPU"):
            tell("Ray has no GPU: every cell runs without one")
        where: Any = str(submission.folder)
        if submission.remote:
            plan = (submission.folder / "plan.json").read_bytes()
            where = ray.put(Parcel(submission.folder.name, plan, submission.tree.read_bytes(), place))
        tasks: dict[str, Any] = {}
        for name in cells:
            cell = submission.cells[name]
            task = ray.remote(make).options(name=name, **_options(resources[cell.kind], there, own=address is None))
            tasks[name] = task.remote(name, where, *(tasks[need] for need in cell.needs if need in tasks))
        return _gather(ray, submission, tasks, tell)
    finally:
        ray.shutdown()


def _options(needed: Resources, there: Mapping[str, float], *, own: bool) -> dict[str, Any]:
    """Options of a task; `own`: on this machine, which gives at most what it has."""
    return {
        "num_gpus": needed.gpus if there.get("GPU") else 0,
        "num_cpus": min(needed.cores, there["CPU"]) if own else needed.cores,
        "resources": needed.ray,
        "max_retries": needed.retries,
        "retry_exceptions": [Unfinished],
    } | ({"memory": int(needed.memory * 2**30)} if needed.memory else {})


def _gather(ray: Any, submission: Submission, tasks: Mapping[str, Any], tell: Callable[[str], None]) -> list[str]:
    """Wait for all tasks; returns the names of the cells that failed or were skipped."""
    names, left, failed = {task: name for name, task in tasks.items()}, list(tasks.values()), list[str]()
    while left:
        ready, left = ray.wait(left, num_returns=1, timeout=1.0)  # a signal is handled between two calls
        if not ready:
            continue
        name = names[(task := ready[0])]
        try:
            state = ray.get(task)
        except (ray.exceptions.RayError, CellFailed, Unfinished) as error:
            failed.append(name)
            cause = getattr(error, "cause", error)
            skipped = any(need in failed for need in submission.cells[name].needs)
            if submission.remote and not skipped:
                write_text(submission.log(name), str(cause))
                submission.tell(name, {"state": "failed"})
            told = "skipped" if skipped else f"failed: {submission.log(name)}"
        else:
            told = "done"
            if submission.remote:
                write_text(submission.log(name), state.pop("log"))
                submission.tell(name, state)
        tell(f"{len(tasks) - len(left)}/{len(tasks)} {name} {told}")
    return failed
