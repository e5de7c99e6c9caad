"""What the cells of a submission are doing, from what their workers told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from filelock import Timeout

from fd.cluster.submission import Submission
from fd.storage.locks import locked

COLUMNS = ("done", "running", "waiting", "failed", "skipped")


def progress(submission: Submission, jobs: Collection[str] | None) -> dict[str, str]:
    """One of COLUMNS for each cell.

    Args:
        submission: of the cells.
        jobs: cells whose jobs wait or run in Slurm; None: nothing is known of them.
    """
    found: dict[str, str] = {}
    for name, cell in submission.cells.items():
        state = submission.state(name)
        if name in submission.known or "entry" in state:
            found[name] = "done"
        elif state.get("state") == "failed":
            found[name] = "failed"
        elif any(found[need] in ("failed", "skipped") for need in cell.needs):
            found[name] = "skipped"
        elif state and _is_held(submission, name):
            found[name] = "running"
        else:  # a job that left the queue without a word was cancelled
            found[name] = "failed" if jobs is not None and name not in jobs else "waiting"
    return found


def lines(submission: Submission, found: dict[str, str]) -> Iterator[str]:
    """A table by kind, then the logs of the cells that failed."""
    kinds = dict.fromkeys(cell.kind for cell in submission.cells.values())
    width = max(map(len, kinds))
    for kind in kinds:
        count = Counter(found[name] for name, cell in submission.cells.items() if cell.kind == kind)
        rest = "".join(f", {count[column]} {column}" for column in COLUMNS[1:] if count[column])
        yield f"{kind:{width}}  {count['done']}/{count.total()} done{rest}"
    for name, state in found.items():
        if state == "failed":
            yield f"failed: {name}, log: {submission.log(name)}"


def _is_held(submission: Submission, cell: str) -> bool:
    """Whether a worker holds the lock of a cell."""
    try:
        with locked(submission.lock(cell), patience=0):
            return False
    except Timeout:
        return True
