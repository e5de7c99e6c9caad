"""Submits and collects all cells of a suite, `paper` by default, whose outputs are made up; prints wall and processor time.

`python tests/cluster_scale.py [suite]`. Its sbatch only counts, so this is the time of `fidec cluster` without Slurm's own.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import networkx
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from test_pipeline import copied

from fd.cluster.pipeline import settings_of
from fd.cluster.submission import all_of

ROOT = Path(__file__).parents[1]
SBATCH = '#!/bin/sh\nread -r n < "$COUNT"\necho $((n + 1)) | tee "$COUNT"\n'


def main(suite: str, folder: Path) -> None:
    project = copied(folder / "project")
    for name in ("suites", "cluster.yaml"):
        (project / name).symlink_to(ROOT / name)
    for program, script in {"sbatch": SBATCH, "sinfo": "#!/bin/sh\n", "squeue": "#!/bin/sh\n"}.items():
        (folder / program).write_text(script)
        (folder / program).chmod(0o755)
    (folder / "count").write_text("0\n")
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ.update(
        PATH=path, COUNT=str(folder / "count"), PYTHONPATH=str(ROOT), DVC_SITE_CACHE_DIR=str(folder / "site")
    )
    os.chdir(project)
    subprocess.run(["git", "init", "-q"], check=True)
    timed("suite", suite, "--force")
    timed("cluster", "slurm")
    forge(project)
    timed("cluster", "status")
    timed("cluster", "collect")
    timed("cluster", "plan", "--gpus", "8")
    timed("cluster", "slurm")


def timed(*arguments: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run((sys.executable, "-m", "fd.cli", *arguments), check=False, capture_output=True, text=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"fidec {' '.join(arguments)}: {wall:.0f} s, {used:.0f} s of processor time, exit code {done.returncode}")
    print((done.stdout + done.stderr).strip()[-1500:], flush=True)


def forge(project: Path) -> None:
    """Tells each cell as done, with a file of its own as each output."""
    (submission,) = all_of(project)
    made: dict[str, str] = {}
    parsed: dict[str, Any] = {}
    with Repo() as repo:
        order = {stage.addressing: stage for stage in networkx.dfs_postorder_nodes(repo.index.graph)}
        for name in submission.cells:
            stage = order[name]
            entry: dict[str, Any] = {"cmd": stage.cmd, "deps": [], "params": {}, "outs": []}
            for dep in stage.deps:
                if isinstance(dep, ParamsDependency):
                    entry["params"][dep.def_path] = settings_of(dep, parsed)
                else:
                    value = made.get(dep.def_path) or dep.get_hash().value
                    entry["deps"].append({"path": dep.def_path, "hash": "md5", "md5": value})
            for out in stage.outs:
                made[out.def_path] = value = stored(submission.cache, out.def_path.encode())
                entry["outs"].append({"path": out.def_path, "hash": "md5", "md5": value, "size": len(out.def_path)})
            submission.tell(name, {"state": "done", "attempts": 1, "ran": True, "seconds": 60.0, "entry": entry})


def stored(cache: str, content: bytes) -> str:
    value = hashlib.md5(content).hexdigest()
    path = Path(cache, "files", "md5", value[:2], value[2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return value


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(*(sys.argv[1:] or ["paper"]), Path(place))
