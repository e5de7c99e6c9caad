"""Cells on Slurm, here a queue that runs jobs in dependency order, and on Ray; tests/slurm/run.sh uses a real Slurm."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from edits import outcome
from slurm import fake

from fd.cli.cluster_commands import _submitting
from fd.cli.program import app
from fd.cluster import makespan, ray_engine, slurm
from fd.cluster.cells import Cell
from fd.cluster.resources import Resources
from fd.cluster.submission import all_of
from fd.settings.refine_settings import Refine
from fd.settings.settings_file import SettingsFile

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own, of pygtrie
HERE = Path(__file__).parent
DEFAULTS: dict[str, Any] = {
    "gpus": 0.0,
    "cores": 3,
    "memory": None,
    "hours": None,
    "retries": 1,
    "partition": None,
    "slurm": (),
    "ray": {},
}
NAMES = ["download@a", "refine@a-m1", "refine@a-m2", "evaluate@a-m1", "evaluate@a-m2"]


@dataclass(frozen=True)
class Toy:
    """A project of five cells and a report, which is the current folder."""

    folder: Path

    def settings(self, **methods: dict[str, Any]) -> None:
        values = json.loads((self.folder / "params.yaml").read_text())
        values["methods"] |= methods
        (self.folder / "params.yaml").write_text(json.dumps(values))

    def cluster(self, *arguments: str) -> str:
        code, told = outcome(app, ["cluster", *arguments])
        assert code == 0, told
        return told

    def repro(self) -> list[str]:
        """Stages that DVC ran."""
        done = subprocess.run([sys.executable, "-m", "dvc", "repro"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"Running stage '([^']+)'", done.stdout)

    def log(self, cell: str) -> str:
        return all_of(self.folder)[0].log(cell).read_text()

    def state(self, cell: str) -> dict[str, Any]:
        return all_of(self.folder)[0].state(cell)

    def made(self) -> dict[str, bytes]:
        """dvc.lock, outputs and report."""
        files = [
            path for part in ("data", "runs", "evals", "reports") for path in Path(part).rglob("*") if path.is_file()
        ]
        return {str(path): path.read_bytes() for path in (Path("dvc.lock"), *files) if path.name != ".gitignore"}


def project(folder: Path) -> Toy:
    shutil.copytree(HERE / "toy", folder)
    (folder / "pipeline.yaml").rename(folder / "dvc.yaml")
    for command in ("git init -q", f"{sys.executable} -m dvc init -q"):
        subprocess.run(command.split(), cwd=folder, check=True)
    (folder / ".gitignore").write_text("/data/\n/runs/\n/evals/\n/.scratch/\n")
    (folder / ".dvcignore").write_text(".scratch/\n")
    return Toy(folder)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    found = project(tmp_path / "toy")
    monkeypatch.chdir(found.folder)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return found


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the queue of a Slurm that runs nothing before `fake.run()`."""
    programs, folder = tmp_path / "programs", tmp_path / "queue"
    programs.mkdir()
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "sinfo"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "slurm" / "fake.py"} {name} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setattr(fake, "FOLDER", folder)
    yield folder


def test_cells_on_slurm_are_what_a_serial_reproduction_makes(toy: Toy, queue: Path, tmp_path: Path) -> None:
    serial = project(tmp_path / "serial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(serial.folder)
        assert serial.repro() == ["listing", *NAMES, "report"]
        wanted = serial.made()
    assert "5 jobs queued" in toy.cluster("slurm")
    assert "0 jobs queued" in toy.cluster("slurm", "download@a")  # it waits in the queue
    fake.run()
    assert [job["name"] for job in fake.jobs().values()] == NAMES
    assert all(toy.state(cell)["ran"] for cell in NAMES)
    assert "refine    2/2 done\n" in toy.cluster("status")
    assert "5 of 5 cells collected" in toy.cluster("collect")
    assert toy.repro() == ["report"]
    assert toy.made() == wanted
    assert "0 of 5 cells to make" in toy.cluster("slurm")
    assert not any(all_of(toy.folder)[0].workspace("").iterdir())


def test_what_is_killed_resumes_and_what_fails_spares_the_others(toy: Toy, queue: Path) -> None:
    killed = {whom: {"steps": 3, "kill": whom} for whom in ("stage", "dvc", "worker")}
    toy.settings(**killed, m1={"exit": 1}, m2={"exit": 2})
    toy.cluster("slurm", "refine@*", "evaluate@a-m1")
    fake.run()
    for whom in killed:
        assert re.findall(r"from step (\d)", toy.log(f"refine@a-{whom}")) == ["0", "1"]
        assert toy.state(f"refine@a-{whom}")["state"] == "done"
    assert toy.log("refine@a-m1").count("attempt") == 3  # retries: 2
    of_another_driver = (sys.executable, "-m", "fd.cluster.worker", str(all_of(toy.folder)[0].folder), "refine@a-m2")
    assert subprocess.run(of_another_driver, cwd=HERE.parent, check=False).returncode == 1
    assert toy.log("refine@a-m2").count("attempt") == 1  # refused settings stay refused
    code, told = outcome(app, ["cluster", "status"])
    assert code == 1 and "refine    3/5 done, 2 failed" in told and "evaluate  0/1 done, 1 skipped" in told
    assert re.search(r"failed: refine@a-m2, log: .*/logs/refine@a-m2.log", told)
    code, told = outcome(app, ["cluster", "collect"])
    assert code == 1 and "4 of 11 cells collected" in told
    toy.settings(m1={"steps": 1})
    assert "3 of 3 cells" not in toy.cluster("slurm", "evaluate@a-m1")
    fake.run()
    ran = [job["name"] for job in fake.jobs().values()][-2:]
    assert ran == ["refine@a-m1", "evaluate@a-m1"] and toy.state("evaluate@a-m1")["state"] == "done"


def test_a_snapshot_has_edits_and_new_files_but_no_secrets(toy: Toy, queue: Path) -> None:
    subprocess.run("git add . && git -c user.name=a -c user.email=a@b commit -qm a", shell=True, check=True)
    Path("report.py").write_text("# edited\n")
    for name in (".dvc/config.local", "key.pem", ".env"):
        Path(name).write_text("[core]\n    machine = token\n" if name.startswith(".dvc") else "token")
    before = changed_files()
    toy.cluster("slurm", "download@a")
    (made,) = all_of(toy.folder)
    listed = subprocess.run(["tar", "-tf", made.tree], capture_output=True, text=True, check=True).stdout.split()
    assert {"stage.py", "report.py", "listing.txt", "cluster.yaml"} <= set(listed)
    assert not {".dvc/config.local", "key.pem", ".env"} & set(listed)
    assert (
        subprocess.run(["tar", "-xOf", made.tree, "report.py"], capture_output=True, check=True).stdout == b"# edited\n"
    )
    assert made.folder.parent.stat().st_mode & 0o777 == 0o700
    assert changed_files() == before | {"?? dvc.lock", "?? listing.txt"}  # the index of the user is as it was


def changed_files() -> set[str]:
    return set(
        subprocess.run(["git", "status", "--short"], capture_output=True, text=True, check=True).stdout.splitlines()
    )


@pytest.mark.parametrize(
    ("needed", "shards", "options"),
    [
        ({"gpus": 0.25}, 4, ["--gres=shard:1"]),
        ({"gpus": 0.3}, 4, ["--gres=shard:2"]),
        ({"gpus": 0.25}, 0, ["--gres=gpu:1"]),
        ({"gpus": 2.0}, 4, ["--gres=gpu:2"]),
        ({"gpus": 1.0}, None, []),
        ({"memory": 1.5, "hours": 0.5, "partition": "a100"}, None, ["--mem=1536M", "--time=30", "--partition=a100"]),
        ({"slurm": ("--account=lab",)}, None, ["--account=lab"]),
    ],
)
def test_resources_become_options_of_sbatch(needed: dict[str, Any], shards: int | None, options: list[str]) -> None:
    assert slurm.options(Resources(**{**DEFAULTS, **needed}), shards) == ["--cpus-per-task=3", *options]


def test_a_gpu_has_the_shards_that_slurm_tells(queue: Path) -> None:
    assert slurm.shards_of_a_gpu() == 4


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("gpus: 1.5", "gpus: 1.5, allowed: a share of one GPU, or a whole number"),
        ("gpu: 1", "unknown key 'gpu', allowed: gpus, cores"),
        ('slurm: ["; rm"]', "allowed: an option of sbatch as one word"),
        ("partition: a b", "'a b', allowed: letters, digits"),
        ("gpus: 99.0", "allowed: less than or equal to 64"),
        ("slurm: [--dependency=singleton]", "'--dependency=singleton', allowed: options that"),
        ("ray: {GPU: 1.0}", "'GPU', allowed: other resources"),
    ],
)
def test_resources_that_do_not_exist_are_refused_before_anything_is_queued(
    edit: str, message: str, toy: Toy, queue: Path
) -> None:
    path = Path("cluster.yaml")
    path.write_text(path.read_text().replace("gpus: 0.5", edit))
    code, told = outcome(app, ["cluster", "slurm"])
    assert code == 2 and told.startswith("cluster.yaml: kinds.refine") and message in told
    assert fake.jobs() == {}


def test_cells_that_do_not_exist_and_names_that_are_no_file_names_are_refused(toy: Toy, queue: Path) -> None:
    code, told = outcome(app, ["cluster", "slurm", "refin@*"])
    assert code == 2 and "no cell of dvc.yaml matches" in told
    toy.settings(**{"a b": {}})
    code, told = outcome(app, ["cluster", "slurm"])
    assert code == 2 and "refine@a-a b" in told
    code, told = outcome(app, ["cluster", "status"])
    assert code == 2 and "no cells were submitted yet" in told


@pytest.fixture(params=["folder", "s3"])
def bucket(request: pytest.FixtureRequest, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy's DVC remote `bucket`: a folder, or a bucket of an S3 server on loopback."""
    if request.param == "folder":
        dvc("remote", "add", "bucket", str(tmp_path / "bucket"))
        yield
        return
    for package in ("dvc_s3", "moto"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install dvc-s3 'moto[server]'")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{(port := str(free.getsockname()[1]))}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with (told := tmp_path / "server.log").open("wb") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            while "Running on" not in told.read_text():
                assert server.poll() is None, told.read_text()
                time.sleep(0.1)
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket="cells")
            dvc("remote", "add", "bucket", "s3://cells/fidec")
            dvc("remote", "modify", "bucket", "endpointurl", url)
            yield
        finally:
            server.kill()


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_nodes_that_share_only_a_remote_run_no_stage_twice(toy: Toy, bucket: None, tmp_path: Path) -> None:
    """Each cell is made on a node of its own, as Ray would, then once more by a driver that knows nothing of the first."""
    ran = made_on_nodes(toy, tmp_path / "first")
    assert ran == dict.fromkeys(NAMES, True)
    toy.cluster("collect")
    assert toy.repro() == ["report"]
    first = toy.made()
    for name in (".scratch", ".dvc/cache", "data", "runs", "evals", "dvc.lock"):
        path = toy.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert made_on_nodes(toy, tmp_path / "second") == dict.fromkeys(NAMES, False)
    toy.cluster("collect")
    toy.repro()
    assert toy.made() == first


def made_on_nodes(toy: Toy, folder: Path) -> dict[str, bool]:
    """Whether the command of each cell ran."""
    states: dict[str, dict[str, Any]] = {}
    with _submitting(None, Path("cluster.yaml"), "bucket") as (made, missing, _):
        for cell in missing:
            place = folder / cell
            plan = (made.folder / "plan.json").read_bytes()
            parcel = ray_engine.Parcel(made.folder.name, plan, made.tree.read_bytes(), str(place))
            upstream = [states[need] for need in made.cells[cell].needs]
            states[cell] = ray_engine.make(cell, parcel, *upstream)
            made.tell(cell, states[cell])
    return {cell: state["ran"] for cell, state in states.items()}


def test_cells_on_ray_are_what_a_serial_reproduction_makes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else the cells wait for the other tests
    toy.settings(m1={"steps": 3, "kill": "worker"}, m2={"exit": 2})
    told = fidec("cluster", "ray", code=2)
    assert "refine@a-m2 failed" in told and "evaluate@a-m2 skipped" in told
    assert re.findall(r"from step (\d)", toy.log("refine@a-m1")) == ["0", "1"]
    toy.settings(m2={"steps": 1})
    fidec("cluster", "ray")
    toy.cluster("collect")
    assert toy.repro() == ["report"]


def fidec(*arguments: str, code: int = 0) -> str:
    """Output of a command in a process of its own: Ray leaves threads and signal handlers behind."""
    env = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "fd.cli", *arguments], capture_output=True, text=True, check=False, env=env
    )
    if "ray on this machine: does not start" in done.stderr:
        pytest.skip("Ray gives itself 30 s to start, too few on a machine as busy as this one")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def cells(**needs: tuple[str, ...]) -> dict[str, Cell]:
    return {name: Cell(name, "refine", needed, "") for name, needed in needs.items()}


@pytest.mark.parametrize(("gpus", "hours"), [(1.0, 2.0), (0.5, 3.0)])
def test_cells_that_share_a_gpu_run_side_by_side(gpus: float, hours: float) -> None:
    """Two cells need a third, each half a GPU and an hour."""
    half = {"refine": Resources(**{**DEFAULTS, "gpus": 0.5})}
    three = cells(a=(), b=("a",), c=("a",))
    found = makespan.estimate(three, dict.fromkeys(three, 3600.0), half, gpus=gpus, cores=64)
    assert found == makespan.Estimate(hours * 3600, 1.5 * 3600, 9 * 3600)


def test_the_cell_that_most_depends_on_comes_first() -> None:
    whole = {"refine": Resources(**{**DEFAULTS, "gpus": 1.0})}
    four = cells(short=(), long=(), after=("long",), last=("after",))
    found = makespan.estimate(four, dict.fromkeys(four, 1.0), whole, gpus=2, cores=64)
    assert found.makespan == 3


def test_a_time_is_measured_or_a_mean_or_computed_from_the_steps() -> None:
    values = SettingsFile(yaml.safe_load((HERE / "tiny.yaml").read_text()))
    named = {
        name: Cell(name, name.split("@")[0], (), f"python -m stages.x --task umaze{rest}")
        for name, rest in {
            "refine@a": " --method fidec", "refine@b": " --method fidec", "pretrain@a": "", "evaluate@a": " --method fidec",
            "geometry@a": "",
        }.items()
    }  # fmt: skip
    shares = {kind: Resources(**{**DEFAULTS, "gpus": 0.5}) for kind in ("refine", "pretrain", "evaluate", "geometry")}
    found = makespan.times(named, {"refine@a": 7.0}, values, shares, 0.1)
    assert found["refine@a"] == makespan.Time(7.0, "measured") and found["refine@b"] == makespan.Time(7.0, "mean of 1")
    assert found["pretrain@a"].source == "computed"
    assert found["pretrain@a"].seconds == pytest.approx(40 * 0.1 * 0.19 / 0.5)
    assert found["geometry@a"].seconds == 0
    computed = makespan.times(named, {}, values, shares, 0.1)
    steps = values.section(Refine, "refine", "umaze", "fidec").steps
    assert computed["refine@a"].seconds == pytest.approx(steps * 0.1 / 0.5)
    assert computed["evaluate@a"].seconds > 0
