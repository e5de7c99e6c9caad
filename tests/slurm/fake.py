"""Stands in for sbatch, squeue, sinfo and scontrol: a queue in the folder $FAKE_SLURM, whose jobs `run` runs in dependency order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("FAKE_SLURM", "."))
OPEN = ("waiting", "requeued")


def jobs() -> dict[str, dict[str, Any]]:
    return {
        path.name: json.loads(path.read_text())
        for path in sorted(FOLDER.glob("[0-9]*"), key=lambda path: int(path.name))
    }


def write(number: str, job: dict[str, Any]) -> None:
    (FOLDER / number).write_text(json.dumps(job))


def sbatch(arguments: list[str]) -> None:
    options = [word for word in arguments if word.startswith("--")]
    values = dict(word[2:].partition("=")[::2] for word in options)
    if "--gres=gpu:99" in options:
        sys.exit("sbatch: error: Invalid generic resource (gres) specification")
    after = values.get("dependency", "").removeprefix("afterok:").split(":")
    number = str(len(jobs()) + 1)
    command = [word for word in arguments if not word.startswith("--")]
    write(number, {"state": "waiting", "options": options, "after": [each for each in after if each], "command": command,
                   "name": values["job-name"], "output": values["output"], "runs": 0})  # fmt: skip
    print(number)


def run() -> None:
    """Runs the jobs whose dependencies are done until none is left; those of a failed job are cancelled."""
    while ready := [(number, job) for number, job in jobs().items() if job["state"] in OPEN]:
        for number, job in ready:
            before = [jobs()[each]["state"] for each in job["after"]]
            if any(state in ("failed", "cancelled") for state in before):
                write(number, job | {"state": "cancelled"})
            elif all(state == "done" for state in before):
                _run(number, job)


def _run(number: str, job: dict[str, Any]) -> None:
    write(number, job | {"state": "running"})
    env = os.environ | {"SLURM_JOB_ID": number, "SLURM_RESTART_COUNT": str(job["runs"])}
    with Path(job["output"]).open("ab") as log:
        code = subprocess.run(["sh", *job["command"]], env=env, stdout=log, stderr=log, check=False).returncode
    requeued = jobs()[number]["state"] == "requeued"
    state = "requeued" if requeued else "failed" if code else "done"
    write(number, job | {"state": state, "runs": job["runs"] + 1, "code": code})


def main(program: str, *arguments: str) -> None:
    if program == "sbatch":
        sbatch(list(arguments))
    elif program == "scontrol" and arguments[0] == "requeue":
        write(arguments[1], jobs()[arguments[1]] | {"state": "requeued"})
    elif program == "squeue":
        print(*[number for number, job in jobs().items() if job["state"] in (*OPEN, "running")], sep="\n")
    elif program == "sinfo":
        print("gpu:a100:2(S:0),shard:a100:8(S:0)")


if __name__ == "__main__":
    main(*sys.argv[1:])
