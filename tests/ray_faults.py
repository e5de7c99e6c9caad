"""Faults on a real Ray with two nodes on loopback: killed processes, a lost node, a killed driver, two drivers at once.

Prints what it finds and fails at the first claim that does not hold: `python tests/ray_faults.py`, with the extra `ray`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from slurm.faults import FIDEC, HERE, LONG, METHODS, began, check_faults, log, made, output, project, say, until

from fd.cluster.ray_engine import LOOPBACK, QUIET


def main(folder: Path) -> None:
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    project(folder / "cluster", {name: values for name, values in METHODS.items() if name != "preempted"})
    cluster = started(num_cpus=2)
    command = (*FIDEC, "ray", "--address", cluster.address)
    say(f"listening: {sorted({place for process in ours() for place in listening(process)})}")
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: began("refine@a-lost"), "refine@a-lost does not begin")
    # The lost node must not hold the failing cell, whose starts are counted.
    until(lambda: log("refine@a-fails").count(": from step ") == 3, "refine@a-fails is not tried three times")
    say(f"the raylet of refine@a-lost, {lose('refine@a-lost')}, and all that it started are killed")
    until(lambda: log("refine@a-lost").count(": from step ") > 1, "not continued elsewhere")
    say(f"refine@a-lost goes on: {log('refine@a-lost').splitlines()[-1]}")
    told = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [2, 2], told
    assert "evaluate@a-fails skipped" in told[0] + told[1], told
    print(told[0])
    check_faults(("plain", "stage", "dvc", "worker", "lost"))
    mended({name: {"steps": 1} for name in METHODS if name != "preempted"} | {"plain": LONG}, command)
    ran = re.findall(r"Running stage '([^']+)'", output(sys.executable, "-m", "dvc", "repro"))
    assert ran == ["report"], ran
    found = made()
    project(
        folder / "serial", {name: {"steps": 1} for name in METHODS if name != "preempted"} | {"plain": {"steps": 40}}
    )
    output(sys.executable, "-m", "dvc", "repro")
    assert {**found, "dvc.lock": b""} == {**made(), "dvc.lock": b""}
    say("then `dvc repro` ran only the report; all outputs are those of a serial reproduction")


def mended(methods: dict[str, dict[str, object]], command: tuple[str, ...]) -> None:
    """Kills the driver of a second call; a third runs only what is missing."""
    Path("params.yaml").write_text(json.dumps({"tasks": {"a": {}}, "methods": methods}))
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    until(lambda: began("refine@a-plain"), "refine@a-plain does not begin")
    driver.send_signal(signal.SIGKILL)
    start = time.monotonic()
    until(lambda: not any("fd.cluster" in " ".join(p.cmdline()) for p in ours()), "orphans", 30)
    say(f"driver killed: no process of a cell left after {time.monotonic() - start:.1f} s")
    print(output(*command), output(*FIDEC, "collect"))


def started(**node: float) -> Any:
    """A Ray with two such nodes besides the head, which stays and on which the drivers are."""
    os.environ.update(LOOPBACK | QUIET | {"RAY_worker_niceness": "0", "PYTHONPATH": str(HERE.parents[1])})
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(**node)
    return cluster


def lose(cell: str) -> int:
    """Kills the raylet of a cell's node and all that it started, as a power cut would; its number."""
    worker = next(p for p in ours() if "fd.cluster.worker" in p.cmdline() and cell in p.cmdline())
    raylet = next(p for p in worker.parents() if p.name() == "raylet")
    for process in (raylet, *raylet.children(recursive=True)):
        process.kill()
    return raylet.pid


def ours() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def listening(process: psutil.Process) -> list[str]:
    return [found.laddr.ip for found in process.net_connections("tcp") if found.status == psutil.CONN_LISTEN]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
