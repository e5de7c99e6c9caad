"""The process of a cell that runs DVC: it unpacks the snapshot, restores what the cell needs, reproduces it and tells its entry.

Only the cell's own data, and its own entries of the run cache, go through a remote: DVC's `push --run-cache` would copy those of all.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException, ReproductionError
from dvc.repo import Repo
from dvc.stage.cache import _can_hash, _get_stage_hash
from dvc.utils.serialize import dump_yaml, load_yaml

from fd.cluster.parent import end_with_parent
from fd.cluster.pipeline import LOCK, pull
from fd.cluster.submission import Submission, load
from fd.cluster.worker import AGAIN, DONE, REFUSED

LINKS = ["reflink", "hardlink", "symlink", "copy"]


def main(folder: str, cell: str, parent: str) -> int:
    """Make a cell in its workspace, an empty folder; returns an exit code of `fd.cluster.worker`.

    It ends with its parent, the process of this number.
    """
    end_with_parent(int(parent))
    submission = load(Path(folder))
    workspace = submission.workspace(cell)
    os.chdir(workspace)
    shutil.unpack_archive(submission.tree, workspace, "tar")
    (workspace / ".scratch").symlink_to(submission.folder.parent.parent)
    needs = submission.cells[cell].needs
    entries = {name: submission.state(name).get("entry") or submission.known[name] for name in needs}
    dump_yaml(str(workspace / LOCK), {"schema": "2.0", "stages": entries})
    try:
        submission.tell(cell, submission.state(cell) | _made(submission, cell))
    except ReproductionError as error:
        print(f"{cell}: {error}: {error.__cause__}", flush=True)
        return REFUSED if re.search(rf"exited with {REFUSED}$", str(error.__cause__)) else AGAIN
    except DvcException as error:
        print(f"{cell}: {error}", flush=True)
        return AGAIN
    return DONE


def _made(submission: Submission, cell: str) -> dict[str, Any]:
    """Reproduces the cell; its entry, whether its command ran, the seconds of that, and the processor time of DVC."""
    workspace, remote = submission.workspace(cell), submission.remote
    # Without Git: the snapshot has no history, and DVC would look for that of the project around it.
    core = {"no_scm": True, "site_cache_dir": str(workspace / ".dvc" / "tmp" / "site")}
    with Repo(str(workspace), config={"core": core, "cache": {"dir": submission.cache, "type": LINKS}}) as repo:
        if needs := list(submission.cells[cell].needs):
            _ = repo.pull(targets=needs, remote=remote) if remote else repo.checkout(targets=needs)
        if remote:
            _fetch_run(repo, cell, remote)
        start = time.monotonic()
        repo.reproduce(cell, single_item=True)
        seconds = time.monotonic() - start
        if remote:
            repo.push(targets=[cell], remote=remote)
            _push_run(repo, cell, remote)
    own, stage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "entry": load_yaml(str(workspace / LOCK))["stages"][cell],
        "ran": stage.ru_maxrss > 0,  # DVC starts no other process
        "seconds": round(seconds, 3),
        "dvc_processor_seconds": round(own.ru_utime + own.ru_stime, 3),
    }


def _fetch_run(repo: Any, cell: str, remote: str) -> None:
    """Copies the entries of the run cache for this command, these settings and dependencies, and then their data, from the remote."""
    stage = repo.stage.load_one(name=cell)
    stage.save_deps()
    if not _can_hash(stage):
        return
    there, here, key = *_run_caches(repo, remote), _get_stage_hash(stage)
    place = there.fs.join(there.path, "runs", key[:2], key)
    for path in there.fs.find(place) if there.fs.exists(place) else ():
        target = here.fs.join(here.path, "runs", key[:2], key, there.fs.name(path))
        here.makedirs(here.fs.parent(target))
        there.fs.get_file(path, target)
        pull(repo, [repo.stage_cache._create_stage(load_yaml(target))], remote)


def _push_run(repo: Any, cell: str, remote: str) -> None:
    """Copies the cell's entry of the run cache to the remote, which has its data by now."""
    stage = repo.stage.load_one(name=cell)
    if not _can_hash(stage):
        return
    there, here, key = *_run_caches(repo, remote), _get_stage_hash(stage)
    for path in here.fs.find(here.fs.join(here.path, "runs", key[:2], key)):
        target = there.fs.join(there.path, "runs", key[:2], key, here.fs.name(path))
        there.makedirs(there.fs.parent(target))
        there.fs.put_file(path, target)


def _run_caches(repo: Any, remote: str) -> tuple[Any, Any]:
    """The remote and the cache, as DVC addresses their run caches."""
    return repo.cloud.get_remote_odb(remote, hash_name="md5-dos2unix"), repo.cache.legacy


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
