"""Faults on a real Slurm, started by run.sh: killed processes, a lost node, preemption, two drivers, failures, cancelled jobs.

Prints what it finds and fails at the first claim that does not hold.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

HERE = Path(__file__).parent
LONG = {"steps": 40, "seconds": 1.0}
METHODS = {
    "plain": {"steps": 3},
    "stage": {"steps": 3, "kill": "stage"},
    "dvc": {"steps": 3, "kill": "dvc"},
    "worker": {"steps": 3, "kill": "worker"},
    "fails": {"steps": 1, "exit": 1},
    "refused": {"steps": 1, "exit": 2},
    "lost": LONG,
    "preempted": LONG,
}
FIDEC = (sys.executable, "-m", "fd.cli", "cluster")


def output(*command: str, code: int | None = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def until(condition: Callable[[], object], what: str, seconds: float = 3000) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, what
        time.sleep(0.5)


def log(cell: str) -> str:
    (path,) = Path(".scratch/cluster").glob(f"*/logs/{cell}.log")
    return path.read_text()


def began(cell: str) -> bool:
    """Whether a cell has passed some steps."""
    found = Path(f".scratch/{cell.replace('@', '-')}/step")
    with suppress(OSError, ValueError):
        return int(found.read_text()) >= 5
    return False


def node(cell: str) -> str:
    return output("squeue", "--noheader", f"--name={cell}", "--format=%N").strip()


def project(folder: Path, methods: dict[str, dict[str, object]]) -> None:
    shutil.copytree(HERE.parent / "toy", folder)
    os.chdir(folder)
    Path("pipeline.yaml").rename("dvc.yaml")
    Path("params.yaml").write_text(json.dumps({"tasks": {"a": {}}, "methods": methods}))
    Path("cluster.yaml").write_text(Path("cluster.yaml").read_text().replace("gpus: 0.5", "gpus: 0.25"))
    Path(".gitignore").write_text("/data/\n/runs/\n/evals/\n/.scratch/\n")
    output("git", "init", "-q")
    output(sys.executable, "-m", "dvc", "init", "-q")
    Path(".dvcignore").write_text(".scratch/\n")


def say(told: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)


def main(folder: Path) -> None:
    os.environ["PYTHONPATH"] = str(HERE.parents[1])
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    project(folder / "cluster", METHODS)
    drivers = [subprocess.Popen((*FIDEC, "slurm"), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    say(f"two drivers at once: {[driver.communicate()[0].splitlines()[-1] for driver in drivers]}")
    until(lambda: began("refine@a-lost"), "refine@a-lost does not begin")
    lost = node("refine@a-lost")
    kill_node(lost)
    say(f"node {lost} killed")
    until(lambda: log("refine@a-lost").count(": from step ") > 1, "not continued elsewhere")
    say(f"refine@a-lost goes on: {log('refine@a-lost').splitlines()[-1]}")
    subprocess.run(("slurmd", "-N", lost, "-c"), check=True)
    until(lambda: began("refine@a-preempted"), "refine@a-preempted does not begin")
    starts = log("refine@a-preempted").count(": from step ")
    output(
        "sbatch",
        "--partition=high",
        f"--nodelist={node('refine@a-preempted')}",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 1",
    )
    until(lambda: log("refine@a-preempted").count(": from step ") > starts, "not continued after preemption")
    say(f"refine@a-preempted goes on: {log('refine@a-preempted').splitlines()[-1]}")
    until(lambda: not output("squeue", "--noheader").strip(), "the queue does not end")
    told = output(*FIDEC, "status", code=1)
    print(told)
    check_faults(("plain", "stage", "dvc", "worker", "lost", "preempted"))
    repaired(folder)


def kill_node(name: str) -> None:
    """Kills a node's slurmd and all that it started, as a power cut would."""
    daemon = next(p for p in psutil.process_iter() if p.name() == "slurmd" and name in p.cmdline())
    jobs = [p for p in psutil.process_iter() if p.name() == "slurmstepd" and p.pid != daemon.pid and on_node(p, name)]
    for process in (daemon, *[child for job in jobs for child in (*job.children(recursive=True), job)]):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def on_node(step: psutil.Process, name: str) -> bool:
    """Whether a slurmstepd belongs to a node: its jobs know."""
    return any(
        child.environ().get("SLURMD_NODENAME") == name for child in step.children(recursive=True) if child.is_running()
    )


def check_faults(finished: Sequence[str]) -> None:
    """Checks the logs of METHODS: what was killed resumed, what failed was tried again or not, what finished ran once."""
    for method in ("stage", "dvc", "worker"):
        starts = re.findall(r"from step (\d)", log(f"refine@a-{method}"))
        assert starts == ["0", "1"], f"{method}: {starts}"
        say(f"{method} killed after step 1: retried, resumed from step 1")
    failed = log("refine@a-fails")
    assert failed.count(": from step ") == 3, failed
    assert log("refine@a-refused").count(": from step ") == 1
    say("failing cell: three attempts; refused settings: one")
    assert not list(Path(".scratch/cluster").glob("*/logs/evaluate@a-fails.log"))
    for cell in finished:
        assert len(re.findall("Running stage", log(f"evaluate@a-{cell}"))) == 1, cell
        assert len(re.findall("Running stage", log("download@a"))) == 1
    say("dependents of failed cells skipped, all others finished, every stage ran once")


def repaired(folder: Path) -> None:
    """With the settings mended, a second call runs only what is missing; a job that is cancelled leaves no process."""
    mended = METHODS | {"fails": {"steps": 1}, "refused": LONG}
    Path("params.yaml").write_text(json.dumps({"tasks": {"a": {}}, "methods": mended}))
    say(output(*FIDEC, "slurm").replace("\n", "; "))
    until(lambda: began("refine@a-refused"), "refine@a-refused does not begin")
    number = output("squeue", "--noheader", "--name=refine@a-refused", "--format=%A").strip()
    mine = [
        p for p in psutil.process_iter() if any(str(folder) in word for word in p.cmdline()) and p.pid != os.getpid()
    ]
    output("scancel", number)
    start = time.monotonic()
    until(
        lambda: (
            not any(
                p.is_running() and p.status() != psutil.STATUS_ZOMBIE and "refused" in " ".join(p.cmdline())
                for p in mine
            )
        ),
        "orphans",
        30,
    )
    say(f"cancelled job: no process left after {time.monotonic() - start:.1f} s")
    until(lambda: not output("squeue", "--noheader").strip(), "the queue does not end")
    say(output(*FIDEC, "slurm").replace("\n", "; "))
    until(lambda: not output("squeue", "--noheader").strip(), "the queue does not end")
    print(output(*FIDEC, "status"), output(*FIDEC, "collect"))
    ran = re.findall(r"Running stage '([^']+)'", output(sys.executable, "-m", "dvc", "repro"))
    assert ran == ["report"], ran
    cluster = made()
    project(
        folder / "serial",
        {name: {key: value for key, value in values.items() if key != "kill"} for name, values in mended.items()},
    )
    output(sys.executable, "-m", "dvc", "repro")
    assert {name: text for name, text in cluster.items() if name != "dvc.lock"} == {
        name: text for name, text in made().items() if name != "dvc.lock"
    }
    say("then `dvc repro` ran only the report; all outputs are those of a serial reproduction")


def made() -> dict[str, bytes]:
    files = [path for part in ("data", "runs", "evals", "reports") for path in Path(part).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in (Path("dvc.lock"), *files) if path.name != ".gitignore"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ["SLURM_FOLDER"]) as place:
        main(Path(place))
