"""Two runs at once in one workspace: other cells go on beside each other, one cell is worked on once, what they share is made once."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import TASK, settings
from edits import contents
from filelock import FileLock
from test_fetch import CONTENT, NAME
from test_pipeline import ROOT, Pipeline, copied
from typer.testing import CliRunner

from fd.cli.program import app
from stages import refine

METHODS = ("fidec", "deflow")
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # on which DVC finds python


@pytest.fixture(scope="module")
def workspace(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline with the data and the behaviour of a task, whose refinements take long enough to be met at work."""
    folder = copied(tmp_path_factory.mktemp("workspace") / "clone")
    for part in ("data", "behaviour"):
        shutil.copytree(made / part, folder / part)
    values = settings(*METHODS)
    values["refine"] |= {"steps": 400, "evaluate_every": 200, "log_every": 100}
    workspace = Pipeline(folder, values)
    workspace.write(values)
    workspace.run("git", "init", "-q")
    return workspace


@pytest.fixture(scope="module")
def alone(workspace: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the methods write when one runs after the other."""
    folder = tmp_path_factory.mktemp("alone")
    for part in ("data", "behaviour", "params.yaml"):
        (folder / part).symlink_to(workspace.folder / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in METHODS:
            CliRunner().invoke(refine.app, ["--task", TASK, "--method", method], catch_exceptions=False)
    return written(folder)


def written(folder: Path) -> dict[str, bytes]:
    """Snapshots, flows and logs of the runs."""
    found = contents(folder / "runs" / TASK)
    return {name: content for name, content in found.items() if not name.endswith(".json")}


@contextmanager
def started(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a folder; at the end, nothing of it is left."""
    pipe = subprocess.PIPE
    env = os.environ | {"PATH": PATH}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        for left in (*psutil.Process(process.pid).children(recursive=True), process) if process.poll() is None else ():
            left.kill()
        process.communicate()


def until(condition: Callable[[], bool], *running: subprocess.Popen[str]) -> None:
    """Waits for what processes are to do."""
    while not condition():
        for process in running:
            assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def at_work(folder: Path, *methods: str) -> bool:
    """Whether refinements have a folder for their unfinished work, and so their claim."""
    return all(list(folder.glob(f".scratch/refine-{TASK}.{method}-*")) for method in methods)


def test_other_cells_run_beside_a_cell_and_the_same_cell_does_not(workspace: Pipeline, alone: dict[str, bytes]) -> None:
    folder, cells = workspace.folder, [f"refine@{TASK}-{method}" for method in METHODS]
    with started(folder, *DVC, "repro", "-s", cells[0]) as first:
        bank = folder / ".scratch" / "banks" / f"{TASK}.safetensors"
        until(lambda: at_work(folder, METHODS[0]) and bank.exists(), first)
        *_, stage = psutil.Process(first.pid).children(recursive=True)
        with FileLock(f"{bank}.lock"):  # so that the stage does not hold it while it sleeps
            stage.suspend()
        assert "Updating lock file" in workspace.run(*DVC, "repro", "-s", cells[1])
        again = subprocess.run([*DVC, "repro", "-s", cells[0]], cwd=folder, capture_output=True, text=True, check=False)
        assert again.returncode != 0 and "is busy, it is being blocked by" in again.stderr
        command = (sys.executable, "-m", "stages.refine", "--task", TASK, "--method", METHODS[0])
        direct = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert direct.returncode == 2
        assert direct.stderr.splitlines()[0].startswith(
            f"error: refine {TASK}/{METHODS[0]}: another process works on it"
        )
        assert len(direct.stderr.splitlines()) == 1
        stage.resume()
        out, errors = first.communicate(timeout=60)
        assert first.returncode == 0, out + errors
    assert workspace.dvc("status", "--json", *cells).strip() == "{}"
    assert set(yaml.safe_load((folder / "dvc.lock").read_text())["stages"]) == set(cells)
    assert written(folder) == alone


def test_two_methods_at_once_share_a_bank_and_write_what_they_write_alone(
    workspace: Pipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    for part in ("data", "behaviour", "params.yaml", "fd", "stages"):
        (tmp_path / part).symlink_to(workspace.folder / part)
    commands = [(sys.executable, "-m", "stages.refine", "--task", TASK, "--method", method) for method in METHODS]
    bank = tmp_path / ".scratch" / "banks" / f"{TASK}.safetensors"
    bank.parent.mkdir(parents=True)
    with started(tmp_path, *commands[0]) as one, started(tmp_path, *commands[1]) as other:
        with FileLock(f"{bank}.lock"):
            until(lambda: at_work(tmp_path, *METHODS), one, other)
        told = [process.communicate(timeout=60)[1] for process in (one, other)]
        assert [one.returncode, other.returncode] == [0, 0], told
    assert sum(": bank: " in text for text in told) == 1
    assert written(tmp_path) == alone


class Slow(http.server.BaseHTTPRequestHandler):
    """Sends one file, slowly enough for another process to ask for it meanwhile."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


FETCH = """
import sys
from pathlib import Path
from fd.settings.data_settings import Download
from fd.datasets.fetch import fetch
download = Download(folder=sys.argv[1], mirrors=(sys.argv[2],), timeout=30.0)
print(fetch(sys.argv[3], download, label="set").stat().st_size)
"""


def test_processes_that_want_one_file_fetch_it_once(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        command = (sys.executable, "-c", FETCH, str(tmp_path), f"http://127.0.0.1:{server.server_port}", NAME)
        with started(ROOT, *command) as one, started(ROOT, *command) as other:
            sizes = [process.communicate(timeout=60) for process in (one, other)]
        assert [out.strip() for out, _ in sizes] == [str(len(CONTENT))] * 2, sizes
        assert server.asked == [f"/{NAME}"]  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ('{"read": {}, "write": {"a": {"pid": 4194305, "cmd": "dvc repro"}}}', False),
        (
            '{"read": {"a": [{"pid": OWN, "cmd": "dvc repro"}]}, "write": {}}',
            False,
        ),  # the number of another program now
        ('{"read": {"a": [{"pid": DVC, "cmd": "dvc repro"}]}, "write": {}}', True),
        ('{"read": {"a": [{"pi', False),
        ("", False),
    ],
)
def test_a_list_of_locks_that_no_dvc_stands_behind_is_removed(text: str, stays: bool, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "tmp" / "rwlock"
    sleeping = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        subprocess.Popen([*sleeping, "dvc", "repro"], stdin=subprocess.PIPE) as dvc,
        subprocess.Popen(sleeping, stdin=subprocess.PIPE) as other,
    ):
        path.write_text(text.replace("OWN", str(other.pid)).replace("DVC", str(dvc.pid)))
        assert CliRunner().invoke(app, ["unlock", "--folder", str(tmp_path)]).exit_code == 0
        assert path.exists() == stays
        for process in (dvc, other):
            assert process.stdin is not None
            process.stdin.close()


def test_a_stage_whose_dvc_is_killed_ends_and_the_next_run_goes_on(
    workspace: Pipeline, alone: dict[str, bytes]
) -> None:
    folder, method = workspace.folder, METHODS[0]
    cell = f"refine@{TASK}-{method}"
    with started(folder, *DVC, "repro", "-f", "-s", cell) as dvc:
        until(lambda: at_work(folder, method), dvc)
        *_, stage = psutil.Process(dvc.pid).children(recursive=True)
        dvc.kill()
        assert "stopped by SIGTERM" in dvc.communicate()[1]  # which the stage shares
        stage.wait(10)
    assert "Updating lock file" in workspace.run(*DVC, "repro", "-f", "-s", cell)
    assert {name: value for name, value in written(folder).items() if method in name} == {
        name: value for name, value in alone.items() if method in name
    }
