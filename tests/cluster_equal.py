"""Real cells on a real engine, of which one loses its node: are the results those of a serial `dvc repro`?

    python tests/cluster_equal.py ray                         # with the extra `ray`
    tests/slurm/run.sh python tests/cluster_equal.py slurm    # with Slurm on this machine

Both tasks of tests/tiny.yaml with five methods; `fidec` on `umaze` loses its node after a checkpoint. Prints what it finds and fails at
the first claim that does not hold.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray_faults
import yaml
from conftest import settings
from dvc.utils.serialize import load_yaml
from slurm.faults import FIDEC, kill_node, log, node, output, say, until
from test_pipeline import ROOT, copied

from fd.storage.files import write_text

TASKS, METHODS, LOST = ("umaze", "cube-single"), ("bc", "fql", "ifql", "deflow", "fidec"), "refine@umaze-fidec"
TIMES = {"seconds", "building_seconds", "steps_per_second", "seal"}  # fields of records that a second run changes
MADE = ("data", "behaviour", "geometry", "runs", "evals")
DVC = (sys.executable, "-m", "dvc")


def main(engine: str, folder: Path) -> None:
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    project(folder / "serial")
    serial = ran()
    say(f"`dvc repro`: {len(serial)} stages")
    wanted, lock = contents(), load_yaml("dvc.lock")["stages"]
    project(folder / "cluster")
    with on_ray() if engine == "ray" else on_slurm() as (command, lose):
        driver = subprocess.Popen(command)
        until(lambda: list(Path(".scratch").glob("refine-umaze.fidec-*/state.safetensors")), f"{LOST} saves no state")
        say(f"the node of {LOST} is lost: {lose()}")
        assert driver.wait() == 0
        if engine == "slurm":
            until(lambda: not output("squeue", "--noheader").strip(), "the queue does not end")
    print(log(LOST), output(*FIDEC, "status"), output(*FIDEC, "collect"))
    assert "attempt 2" in log(LOST)
    (submission,) = Path(".scratch/cluster").glob("*/states")
    cells = {path.name: json.loads(path.read_text()) for path in submission.iterdir()}
    devices = {cell: log(cell).split("GPUs ")[1].splitlines()[0] for cell in cells}
    say(f"GPUs that cells see: {sorted(set(devices.values()))}")
    assert all(device.isdigit() for cell, device in devices.items() if cell.startswith("refine@"))
    others = ran()
    assert len(cells) >= 20 and not cells.keys() & set(others), others
    say(f"{len(cells)} cells; then `dvc repro` ran only {' '.join(others)}")
    found, again = contents(), load_yaml("dvc.lock")["stages"]
    assert list(again) == list(lock) and [inputs(again[name]) for name in lock] == [inputs(lock[name]) for name in lock]
    same = {path for path in wanted if found.get(path) == wanted[path]}
    timed = {path for path in wanted.keys() - same if path.endswith(".json")}
    assert found.keys() == wanted.keys() == same | timed, wanted.keys() - same - timed
    assert all(untimed(found[path]) == untimed(wanted[path]) for path in timed)
    say(
        f"the same stages, order, commands, settings and dependencies; {len(same)} files are identical, {len(timed)} differ in"
        f" {', '.join(sorted(TIMES))}"
    )


def project(folder: Path) -> None:
    copied(folder)
    os.chdir(folder)
    values: dict[str, Any] = settings(*METHODS)
    values["tasks"] = {task: yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())["tasks"][task] for task in TASKS}
    values["tasks"]["umaze"]["refine"] = {"steps": 4000, "evaluate_every": 1000, "log_every": 100}
    write_text(Path("params.yaml"), yaml.safe_dump(values, sort_keys=False))
    write_text(Path("cluster.yaml"), (ROOT / "cluster.yaml").read_text().replace("cores: 2", "cores: 1"))
    output("git", "init", "-q")
    output("git", "add", "-A")
    output("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start")


def ran() -> list[str]:
    """Stages that a reproduction ran."""
    return re.findall(r"Running stage '([^']+)'", output(*DVC, "repro"))


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for part in MADE for path in Path(part).rglob("*") if path.is_file()}


def inputs(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["cmd"], entry.get("params"), [dep["path"] for dep in entry.get("deps", ())]


def untimed(record: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(record).items() if name not in TIMES}


@contextmanager
def on_slurm() -> Iterator[Any]:
    def lose() -> str:
        kill_node(name := node(LOST))
        return name

    yield (*FIDEC, "slurm"), lose


@contextmanager
def on_ray() -> Iterator[Any]:
    """Two nodes with two imaginary GPUs each, besides the head, on which the driver runs."""
    cluster = ray_faults.started(num_cpus=1, num_gpus=2)
    yield (*FIDEC, "ray", "--address", cluster.address), lambda: ray_faults.lose(LOST)
    cluster.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("SLURM_FOLDER")) as place:
        main(sys.argv[1], Path(place))
