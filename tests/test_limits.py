"""What a process may use: limits of control groups of both versions, of their ancestors and of the shell; beyond them, one line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import agent_of, replay_of
from conftest import TASK
from edits import contents, edit, refused
from test_sources import PLAY, made

from fd.runtime.limits import check_room, cores, memory_limit
from fd.simulation.workers import Workers
from fd.training.bank import BankPlan, build_bank
from fd.training.experience import Experience

ROOT = Path(__file__).parent.parent
V1, V2 = "cgroup cgroup rw,memory", "cgroup2 cgroup2 rw,nsdelegate"  # type, source and options of a mount
NONE = {V1: ("memory.limit_in_bytes", "9223372036854771712"), V2: ("memory.max", "max")}
LIMIT = 3 * 2**20  # bytes
HIERARCHIES = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]  # of version 1, of version 2


def process(folder: Path, cgroup: str, mount: str) -> Path:
    """A folder as /proc has it for a process, in which the machine has other mounts, too."""
    (folder / "proc").mkdir()
    (folder / "proc" / "cgroup").write_text(f"9:name=systemd:/\n7:cpu,cpuacct:/user\n{cgroup}\n")
    others = "22 1 0:20 / /proc rw - proc proc rw\n23 1 0:21 / /mnt rw,relatime shared:1 - tmpfs  rw\n"
    (folder / "proc" / "mountinfo").write_text(f"{others}35 31 0:32 {mount}\n")
    return folder / "proc"


@pytest.mark.parametrize("kind", [V1, V2])
@pytest.mark.parametrize(
    ("path", "root", "own", "limited"),
    [
        ("/job/step", "/", "job/step", "job/step"),
        ("/job/step", "/", "job/step", "job"),
        ("/job/step", "/", "job/step", "."),
        ("/docker/x", "/docker/x", ".", "."),  # in a container
        ("/docker/x/job", "/docker/x", "job", "job"),
        ("/docker/x", "/", "none", "."),  # the groups of a container, seen from another one
        ("/../x", "/", "none", "."),
    ],
)
def test_the_smallest_limit_of_a_group_and_its_ancestors_holds(
    path: str, root: str, own: str, limited: str, kind: str, tmp_path: Path
) -> None:
    name, none = NONE[kind]
    top = tmp_path / "control groups"
    (top / own).mkdir(parents=True)
    for group in (Path(own), *Path(own).parents):
        (top / group / name).write_text(none)
    shown = str(top).replace(" ", r"\040")
    mount = f"{root} {shown} rw,nosuid shared:9 - {kind}"
    place = process(tmp_path, f"{'0::' if kind == V2 else '4:memory:'}{path}", mount)
    machine = memory_limit()
    assert memory_limit(place) == machine
    (top / limited / name).write_text(f"{LIMIT}\n")
    assert memory_limit(place) == (LIMIT, str(top / limited / name))


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
        ({"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_a_quota_of_time_is_a_number_of_cores(files: dict[str, str], number: int | None, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    for name, text in files.items():
        (tmp_path / "user" / name).write_text(text)
    kind = V2 if "cpu.max" in files else "cgroup cgroup rw,cpu,cpuacct"
    place = process(tmp_path, "0::/user", f"/ {tmp_path} rw - {kind}")
    assert cores(place) == (number or len(os.sched_getaffinity(0)))


def test_without_files_of_the_kernel_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == memory_limit() and cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_limit_of_the_shell_holds_for_one_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    everyone = memory_limit(alone=False)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (2**33, before[1]))
        assert memory_limit() == (2**33, "`ulimit -d`") and memory_limit(alone=False) == everyone
        with refused("x take 8.01 GiB at least, cpu has 8 GiB, the limit of `ulimit -d` (allowed: less)"):
            check_room(2**33 + 2**23, what="x", allowed="less")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of this machine with a group in it; the memory of the outer one is limited to 1 GiB."""
    name = f"fd-{os.getpid()}"
    for top, (file, _) in zip(HIERARCHIES, NONE.values(), strict=True):
        outer = top / name
        try:
            (outer / "step").mkdir(parents=True)
            (outer / file).write_text(str(2**30))
            break
        except OSError:
            for made_here in (outer / "step", outer):
                if made_here.exists():
                    made_here.rmdir()
    else:
        pytest.skip("this machine allows no groups that limit memory")
    yield outer / "step"
    (outer / "step").rmdir()
    outer.rmdir()


def test_a_stage_beyond_the_memory_of_its_group_is_refused(group: Path, tiny_project: Path) -> None:
    """1.07 GB are the least that two seeds take; the kernel would kill the stage."""
    edit("network", "hidden", to=[8192, 8192])
    before = contents("behaviour")
    join = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
    stage = [sys.executable, "-m", "stages.pretrain", "--task", TASK]
    done = subprocess.run(
        ["bash", "-c", join, str(group), *stage], cwd=tiny_project, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and contents("behaviour") == before
    assert line.startswith(f"error: tasks.{TASK}: 2 seeds of network.hidden [8192, 8192]")
    assert f"cpu has 1 GiB, the limit of {group.parent}/" in line


def idle() -> None:
    """A worker that does nothing."""


def test_more_simulators_than_memory_are_refused_before_they_are_started() -> None:
    with refused("x: 2 processes of 1000000000 simulators take", "allowed: a smaller compute.workers or evaluate.env"):
        Workers("x", idle, [(), ()], timeout=1.0, simulators=10**9)


def test_more_processes_than_open_files_are_one_line() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, before[1]))
        with refused("x: a process cannot be started: Too many open files", "`ulimit -n`"):
            Workers("x", idle, [()] * 20, timeout=10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_bank_that_its_budget_allows_but_the_machine_does_not_is_refused(tmp_path: Path) -> None:
    agent, plan = agent_of("fidec", 0, 1), BankPlan(10**9, 1e9, tmp_path / "bank.safetensors", "k")
    with refused("x: 1000000000 base actions per state take", "allowed: a smaller refine.bank"):
        build_bank(agent.spec, agent.flow, replay_of(20, 10), plan, seeds=(0, 1), label="x")
    assert list(tmp_path.iterdir()) == []


def test_more_online_steps_than_memory_are_refused() -> None:
    with refused("the transitions of 1000000000000 online steps of 2 seeds take", "fewer steps in online.tasks"):
        Experience(replay_of(20, 10), seeds=2, steps=10**12, balanced=False)


def test_more_images_than_memory_are_refused_before_they_are_collected(tmp_path: Path) -> None:
    data = PLAY.model_copy(
        update={"dataset": "visual-cube-single-play-singletask-task1-v0", "steps": 10**6, "episodes": 10**5}
    )
    with refused("dataset: the images of 100000 episodes take", "allowed: fewer episodes, fewer steps"):
        made(data, tmp_path)
    assert list(tmp_path.iterdir()) == []
