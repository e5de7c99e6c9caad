"""The worker of a cell: `python -m fd.cluster.worker <submission> <cell>`; Slurm and Ray start it on a node.

It holds the lock of the cell, starts the process that runs DVC, and ends with everything that it started. Exit codes: 0, the cell is
done; 1, it failed and has no attempt left; 2, the stage refused its input; anything else: start it again.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from fd.cluster.parent import end_with_parent
from fd.cluster.submission import Submission, load
from fd.runtime import closure
from fd.storage.locks import locked

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl
PATIENCE = 10.0  # seconds that a stage may take to save its state once DVC is gone
DONE, NO_ATTEMPT_LEFT, REFUSED, AGAIN = 0, 1, 2, 75


class Stopped(BaseException):
    """The worker was asked to end. Not an Exception: an `except Exception` must not swallow it."""


def main(folder: str, cell: str) -> int:
    """Make a cell; returns the exit code."""
    end_with_parent(os.getppid())
    ctypes.CDLL(None).prctl(SUBREAPER, 1)  # what loses its parent becomes a child of this process
    signal.signal(signal.SIGTERM, _stop)
    submission = load(Path(folder))
    with submission.log(cell).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        with locked(submission.lock(cell)):
            return _attempt(submission, cell)
    except Stopped:
        return 128 + signal.SIGTERM


def _attempt(submission: Submission, cell: str) -> int:
    before = submission.state(cell)
    if "entry" in before:
        return DONE
    if before.get("state") == "failed":  # so another driver's worker told; a submission forgets what failed before
        return NO_ATTEMPT_LEFT
    attempt, most = before.get("attempts", 0) + 1, submission.retries[submission.cells[cell].kind] + 1
    if attempt > most:  # the workers before were killed, or their nodes lost
        submission.tell(cell, before | {"state": "failed"})
        return NO_ATTEMPT_LEFT
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    print(f"-- {cell}: attempt {attempt} of {most} on {socket.gethostname()}, GPUs {devices}", flush=True)
    began = {"state": "running", "host": socket.gethostname(), "began": time.time(), "attempts": attempt}
    submission.tell(cell, began)
    workspace = submission.workspace(cell)
    try:
        code = _reproduce(submission, cell, workspace)
    except Stopped:
        print(f"-- {cell}: stopped", flush=True)
        submission.tell(cell, began | {"state": "stopped", "attempts": attempt - 1})
        raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    if code not in (DONE, REFUSED):
        code = AGAIN if attempt < most else NO_ATTEMPT_LEFT
    told = {DONE: "done", AGAIN: "waiting"}.get(code, "failed")
    submission.tell(cell, submission.state(cell) | {"state": told, "ended": time.time()})
    return code


def _reproduce(submission: Submission, cell: str, workspace: Path) -> int:
    """Exit code of the process that runs DVC; nothing that it started is left."""
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    env = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")} | {"PATH": path}
    command = (sys.executable, "-m", "fd.cluster.reproduce", str(submission.folder), cell, str(os.getpid()))
    process = subprocess.Popen(command, cwd=closure.ROOT, env=env)
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        _await_end()


def _await_end() -> None:
    """Waits until no descendant is left. A stage ends by itself when its DVC is gone; after PATIENCE, it is killed."""
    end = time.monotonic() + PATIENCE
    while left := psutil.Process().children(recursive=True):
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        for process in left if time.monotonic() > end else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
