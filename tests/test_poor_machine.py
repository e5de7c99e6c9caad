"""Cells are made where little is allowed: no home folder, one core, few open files, no shared memory, an odd path and locale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TASK, settings
from edits import write_params
from test_pipeline import copied

LITTLE_SHARED_MEMORY = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
LITTLE_ELSE = 'ulimit -n 256 && exec taskset --cpu-list "$0" "$@"'
HOME = "/proc"  # where nobody can write, not even root


def test_cells_are_made(tmp_path: Path) -> None:
    """By DVC and two simulator processes."""
    isolated = [
        "unshare",
        *([] if os.getuid() == 0 else ["--map-root-user"]),
        "--mount",
        "sh",
        "-c",
        LITTLE_SHARED_MEMORY,
        "sh",
    ]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small /dev/shm is not allowed here")
    folder = copied(tmp_path / "Projekte äöü" / "der Entwurf, 'neu'")
    write_params(folder, settings("bc"))
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    core = str(min(os.sched_getaffinity(0)))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in (["fd.cli", "check"], ["dvc", "repro", f"evaluate@{TASK}-bc"]):
        done = subprocess.run(
            [*isolated, "sh", "-c", LITTLE_ELSE, core, sys.executable, "-m", *command],
            cwd=folder, env={"HOME": HOME, "LC_ALL": "C", "PATH": path}, capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert len((folder / "evals" / TASK / "bc.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
