"""Worker processes, of every kind of pool: what ends them, what does not, and that none is left behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import heap, resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import run
from processes import session
from test_rollout import SEEDS, Walk, rows_of, walks

from fd.datasets.collection import Episode, collect_episodes, read_shard
from fd.datasets.navigate import NavigateCollector
from fd.datasets.play import PlayCollector
from fd.datasets.push import PushCollector
from fd.datasets.waypoint import WaypointCollector
from fd.errors import FdError
from fd.simulation import workers
from fd.simulation.lockstep import Lockstep, Order
from fd.simulation.workers import Place, Workers, beat, enter

HERE = Path(__file__).parent


def children() -> set[int]:
    """Ids of all processes that this one has started, those included that ended and were not waited for."""
    found = {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
    return found - {resource_tracker._resource_tracker._pid}


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    before = children()
    yield
    assert multiprocessing.active_children() == []
    assert children() <= before


# --- signals to workers, and exceptions while they are started ---


def squares() -> Callable[[int], list[int]]:
    """What the workers of these tests do."""
    return lambda number: [number * number]


def test_signals_to_a_worker_do_nothing_from_its_first_instruction_on(capfd: pytest.CaptureFixture[str]) -> None:
    asked, over = set[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.001):
            for child in multiprocessing.active_children():
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(child.pid or 0, number)
                asked.add(child.pid or 0)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        with Workers("squares", squares, [()] * 2, timeout=60) as pool:
            assert sorted(pool.do([(number, 1) for number in range(50)])) == [number**2 for number in range(50)]
            over.set()
            thread.join()
    finally:
        over.set()
        thread.join()
    assert len(asked) == 2
    assert capfd.readouterr().err == ""
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


class Stop(BaseException):
    """What a signal raises."""


# What an exception finds half made in multiprocessing (a pipe's socket, a block of shared memory) is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_at_any_time_leaves_no_process(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = set[int]()  # processes at the time of an exception
    start = workers._Worker.start

    def slowly(worker: workers._Worker) -> None:
        start(worker)
        time.sleep(0.02)  # or all of them start before the main thread has its turn

    monkeypatch.setattr(workers._Worker, "start", slowly)

    def stop(*_: object) -> None:
        running.add(len(children()))
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for delay in [*np.linspace(0.0005, 0.1, 25), 2.0]:  # most while the workers are started
            # As in a new process: an exception within multiprocessing's allocator leaves it of no use to what comes after.
            monkeypatch.setattr(heap.BufferWrapper, "_heap", heap.Heap())
            with pytest.raises(Stop):
                signal.setitimer(signal.ITIMER_REAL, delay)
                with Workers("squares", squares, [()] * 4, timeout=60) as pool:
                    while True:
                        list(pool.do([(1, 1)] * 8))
            assert multiprocessing.active_children() == []
            assert children() == set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert running & {1, 2, 3} and 4 in running
    assert capfd.readouterr().err == ""


def test_a_worker_that_cannot_be_started_is_told() -> None:
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        Workers("squares", squares, [(threading.Lock(),)], timeout=60)


def threads() -> Callable[[object], list[object]]:
    import torch

    return lambda _: [torch.get_num_threads(), len(os.listdir("/proc/self/task")), os.environ["GLIBC_TUNABLES"]]


def test_a_worker_has_one_thread_and_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Workers("threads", threads, [()], timeout=60) as pool:
        assert list(pool.do([(None, 3)])) == [1, 1, os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")]
    assert os.environ["OMP_NUM_THREADS"] == "2" and "MKL_NUM_THREADS" not in os.environ


def kernels() -> Callable[[object], list[str]]:
    """By its own word, the kernels that numpy's OpenBLAS has chosen."""
    library = next((Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*"))
    name = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
    name.restype = ctypes.c_char_p
    return lambda _: [name().decode()]


@pytest.mark.parametrize(("asked", "found"), [("", "Haswell"), ("Nehalem", "Nehalem")])
def test_products_in_a_worker_have_the_kernels_of_one_kind(
    asked: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "avx2" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("the processor has no AVX2")
    if asked:
        monkeypatch.setitem(workers._ENVIRONMENT, "OPENBLAS_CORETYPE", asked)
    with Workers("kernels", kernels, [()], timeout=60) as pool:
        assert list(pool.do([(None, 1)])) == [found]


# --- the ends of pools ---


def online(fault: str | None = None, log: Path | None = None, **more: Any) -> Lockstep:
    settings: dict[str, Any] = {"make_env": partial(Walk, fault, log), "workers": 2, "timeout": 30.0} | more
    return Lockstep(name="walk", seeds=SEEDS, shapes=((3,), (2,)), **settings)


def orders(steps: int) -> dict[int, Order]:
    """Start an episode of every seed and take steps of it."""
    return {index: Order(index, np.zeros((steps, 2), np.float32)) for index in range(len(SEEDS))}


def work(kind: str, folder: Path) -> None:
    """Let the workers of a kind of pool work without end; they write to files of the folder."""
    if kind == "collect":
        run(folder, list(range(1000, 1400)))
    elif kind == "lockstep":
        with online("hang", folder / "log", timeout=600.0) as pool:
            pool.send(orders(5))
            pool.receive()
    elif kind == "forgotten":
        globals()["pool"] = online(None, folder / "log")
    else:
        with walks(kind, log=folder / "log", timeout=600.0) as rollout:
            rows_of(rollout, 1, 1000)


@contextmanager
def at_work(kind: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, leader of a session, whose workers work; it is killed at the end."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    script = f"from test_processes import work, Path; work({kind!r}, Path({str(folder)!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as parent:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not any(file.is_file() for file in folder.rglob("*")) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield parent
        finally:
            parent.kill()


def gone(leader: int, seconds: float) -> bool:
    """Whether the session has no process within that time."""
    deadline = time.monotonic() + seconds
    while session(leader) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not session(leader)


@pytest.mark.parametrize("kind", ["lock", "lockstep", "collect"])
def test_nothing_outlives_a_parent_that_is_killed(kind: str, tmp_path: Path) -> None:
    """Neither workers, asleep or in foreign code that holds the interpreter's lock, nor multiprocessing's own process."""
    with at_work(kind, tmp_path) as parent:
        time.sleep(1)
        assert len(session(parent.pid)) == 4
        parent.kill()
        parent.wait()
        assert gone(parent.pid, 5)
        assert parent.stderr is not None and parent.stderr.read() == ""


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, "hang"), (signal.SIGINT, "lockstep"), (signal.SIGINT, "collect"), (signal.SIGTERM, "hang")],
)
def test_a_signal_to_the_whole_group_is_the_parents_affair(number: int, kind: str, tmp_path: Path) -> None:
    with at_work(kind, tmp_path) as parent:
        os.killpg(parent.pid, number)
        assert gone(parent.pid, 5)
        assert parent.stderr is not None
        told = parent.stderr.read()
        assert parent.wait() == -number
    if number == signal.SIGTERM:  # without a handler, it ends the parent at once
        assert told == ""
    else:
        assert told.count("Traceback") == 1 and told.endswith("KeyboardInterrupt\n")


def test_a_program_ends_whose_pool_was_not_closed(tmp_path: Path) -> None:
    with at_work("forgotten", tmp_path) as parent:
        assert parent.wait(30) == 0
        assert gone(parent.pid, 5)


# --- faults in workers ---


def slow() -> None:
    """A worker that takes long until it does anything, as imports do on a busy machine."""
    time.sleep(2)


def test_the_start_of_a_worker_may_take_longer_than_its_steps() -> None:
    with Workers("slow", slow, [()], timeout=1.0):
        pass


def limited() -> Walk:
    """An environment in a process that may grow by 200 MB, and in its third step needs more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 200_000_000,) * 2)
    return Walk("memory")


def test_lack_of_memory_is_one_line() -> None:
    with pytest.raises(FdError) as error, walks(make_env=limited) as pool:
        rows_of(pool, 9, 4)
    place = r"walk: the environment of seed 3, snapshot 9, episode [02], in step 3: "
    assert re.fullmatch(place + r"MemoryError: Unable to allocate \S+ GiB for an array .*", str(error.value))
    with online(make_env=limited) as simulators:
        simulators.send(orders(3))
        with pytest.raises(FdError, match=r"^walk: the simulator of seed \d: MemoryError: Unable [^\n]*$"):
            simulators.receive()


def needy() -> Callable[[object], list[object]]:
    """A worker that has no memory left, not even for a list of its own."""

    def serve(_: object) -> list[object]:
        enter("the greedy part")
        size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        kept: list[object] = []
        while True:
            kept.append([None] * 100)

    return serve


def test_no_memory_at_all_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(FdError, match=r"^needy: the greedy part: MemoryError$"),
        Workers("needy", needy, [()], timeout=60) as pool,
    ):
        list(pool.do([(None, 1)]))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("step", "ValueError: boom twice"),
        ("kill", "its process died with exit code -9, perhaps out of memory"),
        ("exit", "its process died with exit code 5"),
        ("hang", "hangs, no progress in 3 s"),
    ],
)
def test_a_failing_simulator_of_an_online_run_is_one_line(fault: str, message: str) -> None:
    with online(fault, timeout=3.0) as pool:
        pool.send(orders(5))
        with pytest.raises(FdError, match=rf"^walk: the simulator of seed \d: {message}$"):
            pool.receive()


# --- collection ---


class Steps:
    """Collects an episode of twelve steps of 0.3 s, or hangs in the third, as a seed of 66 says."""

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        for step in range(12):
            beat()
            time.sleep(3600 if step == 2 and seed.entropy == [66] else 0.3)
        return {"steps": np.array([12])}


def test_a_collector_that_hangs_is_named_by_its_episode_and_seed(tmp_path: Path) -> None:
    with pytest.raises(FdError) as error:
        collect_episodes(Steps, [[1], [66]], folder=tmp_path, workers=2, label="generate", timeout=3.0)
    assert str(error.value) == "generate: episode 1 of seed [66]: hangs, no progress in 3 s"


def test_an_episode_may_take_longer_than_a_hang(tmp_path: Path) -> None:
    (path,) = collect_episodes(Steps, [[1]], folder=tmp_path, workers=2, label="generate", timeout=3.0)
    assert read_shard(path)["steps"] == 12


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (partial(PlayCollector, "cube-single-v0"), 40),
        (partial(NavigateCollector, "pointmaze-medium-v0"), 40),
        (partial(WaypointCollector, "PointMaze_UMaze-v3", action_noise=0.5, noise_across=1.0), 41),
        (partial(PushCollector, noise_tip=0.05, noise_null=0.3), 41),
    ],
)
def test_collectors_beat_at_every_step(make: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(multiprocessing.get_context("spawn"))
    monkeypatch.setattr(workers, "_place", place)
    collector, before = make(steps), place.beats
    collector(np.random.SeedSequence([0]))
    assert place.beats == before + 41


def test_a_killed_collection_leaves_complete_episodes_and_goes_on(tmp_path: Path) -> None:
    with at_work("collect", tmp_path) as parent:
        time.sleep(1)
        parent.kill()
        parent.wait()
        assert gone(parent.pid, 5)
    found = sorted(path.name for path in (tmp_path / "episodes").iterdir())
    complete = [name for name in found if not name.startswith(".")]
    assert complete and len(found) - len(complete) <= 2
    assert all(read_shard(tmp_path / "episodes" / name)["index"] == 1000 + int(name[:6]) for name in complete)
    indices = list(range(1000, 1000 + len(complete) + 6))
    assert run(tmp_path, indices) == indices
    left = {path.name for path in (tmp_path / "episodes").iterdir()}
    assert left - {f".{number:06d}.npz" for number in range(len(indices), 400)} == {
        f"{number:06d}.npz" for number in range(len(indices))
    }
    again = tmp_path / "again"
    again.mkdir()
    run(again, indices)
    for path in (again / "episodes").iterdir():
        assert path.read_bytes() == (tmp_path / "episodes" / path.name).read_bytes()
