"""Cells as jobs of Slurm, whose nodes share a file system with the project. Needs the program sbatch, no other package."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from fd.cluster.resources import Resources
from fd.cluster.submission import Submission
from fd.errors import FdError, one_line
from fd.runtime import closure
from fd.storage.files import write_text

MOST_RESTARTS = 200  # of a job, by preemption, by its time limit or after a failure; retries limit the failures
SCRIPT = f"""#!/bin/sh
# Runs the worker of a cell. If it was killed, stopped or failed with attempts left, the job goes back to the queue.
"$@" &
worker=$!
trap 'kill -TERM $worker' TERM
wait $worker
code=$?
while kill -0 $worker 2> /dev/null; do wait $worker; code=$?; done # a signal interrupts wait
case $code in
0 | 1 | 2) exit $code ;;
esac
[ "${{SLURM_RESTART_COUNT:-0}}" -ge {MOST_RESTARTS} ] || scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


def submit(submission: Submission, cells: Iterable[str], resources: Mapping[str, Resources]) -> int:
    """Queue cells that are not in the queue, each after those that it needs; returns how many were queued.

    Raises:
        FdError: sbatch refuses a job, or there is no sbatch. Jobs that were queued before stay; a second call continues.
    """
    script, shards = submission.folder / "job.sh", shards_of_a_gpu()
    write_text(script, SCRIPT)
    (queued := jobs_file(submission)).touch()
    jobs = alive(submission) or {}
    before = len(jobs)
    for name in cells:
        if name in jobs:
            continue
        cell = submission.cells[name]
        after = ":".join(jobs[need] for need in cell.needs if need in jobs)
        command = [
            "sbatch", "--parsable", f"--job-name={name}", "--requeue", "--open-mode=append",
            f"--output={submission.log(name)}", f"--chdir={closure.ROOT}", "--signal=B:TERM@60",
            *([f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []),
            *options(resources[cell.kind], shards),
            str(script), sys.executable, "-m", "fd.cluster.worker", str(submission.folder), name,
        ]  # fmt: skip
        jobs[name] = _output(command).strip().split(";")[0]
        with queued.open("a", encoding="utf-8") as file:
            file.write(f"{name} {jobs[name]}\n")
    return len(jobs) - before


def options(needed: Resources, shards: int | None) -> list[str]:
    """The options of sbatch for resources.

    Args:
        needed: by a cell.
        shards: into which Slurm divides a GPU; 0: it gives out whole ones; None: it has no GPUs.
    """
    found = [f"--cpus-per-task={needed.cores}"]
    if needed.gpus and shards is not None:
        share = needed.gpus < 1 and shards
        found.append(
            f"--gres=shard:{math.ceil(needed.gpus * shards)}" if share else f"--gres=gpu:{math.ceil(needed.gpus)}"
        )
    if needed.memory is not None:
        found.append(f"--mem={math.ceil(needed.memory * 1024)}M")
    if needed.hours is not None:
        found.append(f"--time={math.ceil(needed.hours * 60)}")
    if needed.partition is not None:
        found.append(f"--partition={needed.partition}")
    return [*found, *needed.slurm]


def shards_of_a_gpu() -> int | None:
    """Into how many shards Slurm divides a GPU: the least of all nodes with shards; 0: none are divided; None: it has no GPUs."""
    found = set()
    for node in _ask("sinfo", "--noheader", "--Node", "--format=%G") or ():
        number = {kind: int(count) for kind, count in re.findall(r"(gpu|shard):(?:[^:,()]+:)?(\d+)", node)}
        if "gpu" in number:
            found.add(number.get("shard", 0) // number["gpu"])
    return min(found - {0}, default=0) if found else None


def alive(submission: Submission) -> dict[str, str] | None:
    """Numbers of the jobs of a submission that wait or run, by the name of the cell; None if there is no squeue to tell."""
    path = jobs_file(submission)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    present = _ask("squeue", "--noheader", "--format=%A")
    return None if present is None else {name: job for name, job in map(str.split, lines) if job in present}


def jobs_file(submission: Submission) -> Path:
    """File with a line `cell number` for each job that was queued."""
    return submission.folder / "jobs"


def _ask(*command: str) -> list[str] | None:
    """Lines of a program of Slurm; None if there is no such program."""
    try:
        return _output(command).split("\n")[:-1]
    except FileNotFoundError:
        return None


def _output(command: Iterable[str]) -> str:
    program, *arguments = command
    done = subprocess.run((program, *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FdError(f"{program}: {one_line(done.stderr)}; resources of a cell: cluster.yaml")
    return done.stdout
