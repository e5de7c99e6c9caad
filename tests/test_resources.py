"""Full disks, folders that cannot be written, no GPU, too little memory: one line each, nothing half-written, and the next run goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import tape
import torch
from conftest import TASK, settings
from edits import changed, contents, edit, one_line, program, write_params
from test_pipeline import ROOT
from typer import Typer

from fd.cli.program import app as cli
from fd.errors import FdError
from fd.runtime import memory
from fd.storage import scratch
from fd.storage.outputs import check_folder
from fd.training.execution import WARM_UP, Recorded
from stages import ablate, download, evaluate, geometry, pretrain, refine, regress, report, theory

METHOD = "bc"
STAGES: dict[str, tuple[Typer, Sequence[str], str]] = {  # app, its options, its output
    "download": (download.app, ["--task", TASK], f"data/{TASK}"),
    "pretrain": (pretrain.app, ["--task", TASK], f"behaviour/{TASK}"),
    "geometry": (geometry.app, ["--task", TASK], f"geometry/{TASK}.json"),
    "refine": (refine.app, ["--task", TASK, "--method", "fidec"], f"runs/{TASK}/fidec"),
    "evaluate": (evaluate.app, ["--task", TASK, "--method", METHOD], f"evals/{TASK}/{METHOD}.csv"),
    "report": (report.app, ["--reference", str(Path(__file__).parent.parent / "reference")], "reports/tiny"),
}
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory; `resize` changes its size."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine mounts no file systems: {error}")
    yield path
    os.chdir("/")
    subprocess.run(["umount", "-l", str(path)], check=True)


def resize(disk: Path, *, free: int) -> None:
    """Leave so many free bytes."""
    size = os.statvfs(disk)
    used = (size.f_blocks - size.f_bfree) * size.f_frsize
    mount("-o", f"remount,size={max(used + free, size.f_frsize)}", str(disk))


@pytest.fixture(scope="session")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all stages have run undisturbed, with one method in its settings."""
    folder = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, changed(settings(METHOD, "fidec"), "compute", "workers", to=1))
        for name in ("refine", "evaluate", "report"):
            for method in (METHOD, "fidec") if name != "report" else ("",):
                app, options, _ = STAGES[name]
                assert program(patch, app, *([*options[:-1], method] if method else options)) == 0
    return folder


def temporary_files() -> list[str]:
    """Hidden files in the outputs of the stages."""
    folders = ("data", "behaviour", "geometry", "runs", "evals", "reports")
    return [str(path) for folder in folders for path in Path(folder).rglob(".*")]


@pytest.mark.parametrize(
    ("stage", "step", "attempts"),
    [
        ("download", 24_576, 2),
        ("pretrain", 8_192, 2),
        ("geometry", 0, 1),
        ("refine", 16_384, 3),
        ("evaluate", 0, 1),
        ("report", 65_536, 1),
    ],
)
def test_a_full_disk(
    stage: str, step: int, attempts: int, whole: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    app, options, output = STAGES[stage]
    shutil.copytree(whole, disk / "project")
    monkeypatch.chdir(disk / "project")
    expected = contents(output)
    assert expected
    shutil.rmtree(output) if Path(output).is_dir() else Path(output).unlink()
    for attempt in range(attempts):
        resize(disk, free=step * (attempt + 1))
        assert program(monkeypatch, app, *options) == 2
        assert "space left" in one_line(capsys)
        assert contents(output) == {} and temporary_files() == []
    mount("-o", "remount,size=64m", str(disk))
    assert program(monkeypatch, app, *options) == 0
    assert contents(output) == expected and temporary_files() == []


@pytest.mark.parametrize(
    ("stage", "folder"),
    [("pretrain", "behaviour"), ("pretrain", ".scratch"), ("geometry", "geometry"), ("refine", "runs"), ("report", "reports")],
)  # fmt: skip
def test_a_folder_that_can_only_be_read(
    stage: str, folder: str, whole: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    app, options, output = STAGES[stage]
    shutil.copytree(whole, disk / "project")
    monkeypatch.chdir(disk / "project")
    expected = contents(output)
    Path(folder).mkdir(exist_ok=True)
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,ro,bind", folder)
        assert program(monkeypatch, app, *options) == 2
        line = one_line(capsys)
        assert f"{folder}" in line and "ead-only" in line
        assert contents(output) == expected and temporary_files() == []
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert program(monkeypatch, app, *options) == 0
    assert contents(output) == expected and temporary_files() == []


def test_an_output_on_a_full_disk_of_its_own_names_it(
    whole: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scratch folder has room; the copy of what it holds does not fit."""
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    resize(disk, free=4096)
    app, options, _ = STAGES["pretrain"]
    assert program(monkeypatch, app, *options, "--out", str(disk)) == 2
    line = one_line(capsys)
    assert line.startswith(f"error: {disk / TASK}: cannot be written: [Errno 28] No space left on device")
    assert [path.name for path in disk.iterdir()] == [
        f"{TASK}.json"
    ]  # the record is written before the folder is published


def a_file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return f"{path}: is a file, allowed: a folder"


def a_folder(path: Path) -> str:
    path.mkdir(parents=True)
    return f"{path}: is a folder, allowed: a file"


def a_link_to_nothing(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/nowhere/at all")
    return f"{path}: is a link to /nowhere/at all, which does not exist, allowed: a folder"


def a_link_to_itself(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)
    return f"{path}: is a link to {path.name}, which does not exist, allowed: a folder"


OBSTACLES: list[tuple[str, Callable[[Path], str], str]] = [
    ("download", a_file, f"data/{TASK}"),
    ("download", a_file, "data"),
    ("download", a_link_to_nothing, f"data/{TASK}"),
    ("download", a_link_to_nothing, "data"),
    ("download", a_link_to_itself, "data"),
    ("pretrain", a_file, f"behaviour/{TASK}"),
    ("pretrain", a_folder, f"behaviour/{TASK}.json"),
    ("refine", a_file, f"runs/{TASK}"),
    ("refine", a_link_to_itself, f"runs/{TASK}/fidec"),
    ("refine", a_folder, f"runs/{TASK}/fidec.json"),
    ("evaluate", a_folder, f"evals/{TASK}/bc.csv"),
    ("evaluate", a_folder, f"evals/{TASK}/bc.json"),
    ("evaluate", a_file, f"evals/{TASK}"),
    ("evaluate", a_link_to_nothing, "evals"),
    ("report", a_file, "reports/tiny"),
    ("theory", a_file, "reports/theory"),
    ("ablate", a_file, "reports/tiny/ablations"),
    ("regress", a_folder, "verdict.md"),
    ("power", a_file, "reports"),
]  # fmt: skip
APPS = {name: (app, options) for name, (app, options, _) in STAGES.items()} | {
    "theory": (theory.app, []),
    "ablate": (ablate.app, ["--axis", "metric"]),
    "regress": (regress.app, ["--out", "verdict.md", "--no-gate"]),
    "power": (
        cli,
        ["power", "--baseline", str(ROOT / "baseline" / "quick.json"), "--params", str(ROOT / "params.yaml")],
    ),
}


@pytest.mark.parametrize(("stage", "put", "place"), OBSTACLES)
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    stage: str, put: Callable[[Path], str], place: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    for folder in (place, ".scratch"):
        shutil.rmtree(folder, ignore_errors=True)
    Path(place).unlink(missing_ok=True)
    values = settings(METHOD, "fidec")
    write_params(Path(), values | {"ablations": {"metric": {"about": "x", "values": {"a": METHOD, "b": "fidec"}}}})
    told, before = put(Path(place)), contents(".")
    app, options = APPS[stage]
    assert program(monkeypatch, app, *options) == 2
    printed = capsys.readouterr()
    assert printed.err.strip() == f"error: {told}" and printed.out == ""  # one line, and no progress above it
    assert {path: content for path, content in contents(".").items() if "/locks/" not in path} == before


@pytest.mark.parametrize("stage", ["download", "pretrain", "refine"])
def test_a_link_to_a_folder_is_followed(
    stage: str, whole: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that it leads to is on this disk or on another one."""
    app, options, output = STAGES[stage]
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    expected = contents(output)
    for there in (disk / "elsewhere", tmp_path / "elsewhere"):
        shutil.rmtree(output) if not Path(output).is_symlink() else Path(output).unlink()
        there.mkdir()
        (there / "old").write_text("of another run")
        Path(output).symlink_to(there)
        assert program(monkeypatch, app, *options) == 0
        assert Path(output).is_symlink() and not there.is_symlink()
        assert contents(there) == contents(output) == expected
    assert temporary_files() == []


def test_a_mount_point_is_not_emptied(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (disk / "mine").write_text("a file")
    Path("data").mkdir()
    Path("data", TASK).symlink_to(disk)
    with pytest.raises(FdError, match=f"^{disk}: is a mount point, which cannot be replaced, allowed: a folder in it$"):
        check_folder(Path("data", TASK))


def test_a_kill_while_scratch_is_removed_leaves_nothing_to_resume_from(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs on another disk are copied, so that the scratch folder still has the state and a part of them after the kill."""
    work = tmp_path / "work"

    def built() -> Path:
        (work / "out").mkdir(parents=True)
        for name in ("out/snapshot", "out/train.csv", "state"):
            (work / name).write_text(name)
        return work / "out"

    def killed(path: Path, **_: object) -> None:
        if path == work:
            next(path.rglob("snapshot")).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            scratch.publish(built(), disk / "out", work)
    assert (work / "state").exists() and not (work / "out").exists() and len(contents(disk / "out")) == 2
    (disk / ".out").mkdir()
    (disk / ".out/of another run").touch()  # which was killed while it copied
    scratch.publish(built(), disk / "out", work)
    assert list(tmp_path.iterdir()) == [disk] and len(contents(disk / "out")) == 2


def test_a_bank_without_room_is_not_drawn(
    whole: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app, options, _ = STAGES["refine"]
    shutil.copytree(whole, disk / "project")
    monkeypatch.chdir(disk / "project")
    shutil.rmtree(".scratch/banks")
    resize(disk, free=16_384)
    assert program(monkeypatch, app, *options) == 2
    _, told = capsys.readouterr().err.splitlines()  # the first says where it computes
    assert told.startswith("error: .scratch/banks: No space left")


@pytest.mark.parametrize("stage", ["pretrain", "geometry", "refine", "evaluate", "report"])
def test_no_data(
    stage: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    shutil.rmtree("data")
    app, options, output = STAGES[stage]
    before = contents(output)
    assert program(monkeypatch, app, *options) == 2
    assert f"data/{TASK}/manifest.json: no such file" in one_line(capsys) and contents(output) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("stage", ["pretrain", "geometry", "refine", "evaluate"])
def test_no_gpu(
    stage: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    edit("compute", "device", to="cuda")
    app, options, _ = STAGES[stage]
    assert program(monkeypatch, app, *options) == 2
    assert one_line(capsys) == "error: compute.device: 'cuda', but torch sees no GPU (allowed here: auto, cpu)"


CPU = torch.device("cpu")


def test_more_than_there_is_is_refused_before_it_is_taken() -> None:
    with pytest.raises(FdError) as error:
        memory.check_memory([8192] * 8, seeds=1000, batch_size=256, device=CPU, place="tasks.umaze")
    needed = 1000 * (4 * (4 * 7 * 8192**2 + 256 * 8192) + 512 * 256)
    assert f"take {needed / 2**30:.3g} GiB at least, cpu has {memory.usable_memory(CPU) / 2**30:.3g} GiB" in str(
        error.value
    )
    with pytest.raises(FdError, match="batch_size 1000000000 take"):
        memory.check_memory([64], seeds=1, batch_size=10**9, device=CPU, place="tasks.umaze")
    memory.check_memory([512] * 4, seeds=8, batch_size=256, device=CPU, place="tasks.umaze")


@pytest.mark.parametrize("take", [lambda: torch.empty(2**50, dtype=torch.uint8), lambda: bytearray(2**60)])
def test_memory_that_cannot_be_had_is_one_line(
    take: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = Typer()
    app.command()(lambda: take() and None)
    assert program(monkeypatch, app) == 2
    assert one_line(capsys).startswith("error: out of memory: ")


@pytest.mark.parametrize(
    ("usable", "needed", "fixed", "seeds", "fit"),
    [(100, 130, 10, 8, 6), (100, 101, 0, 8, 7), (100, 250, 10, 4, 1), (100, 300, 10, 1, 0), (100, 120, 110, 8, 0), (100, 90, 95, 8, 5)],
)  # fmt: skip
def test_seeds_that_fit(usable: int, needed: int, fixed: int, seeds: int, fit: int) -> None:
    assert memory.fitting(usable=usable, needed=needed, fixed=fixed, seeds=seeds) == fit
    line = memory.full("refine umaze fidec", there=usable, usable=usable, needed=needed, fixed=fixed, seeds=seeds)
    assert f"{f'at most {fit}' if fit else 'not even 1'} would fit" in line and "\n" not in line


GIB = 2**30
WORDS = {
    "torch": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"
    ),
    "driver": torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU as this process sees it: 8 GiB, 1 of them free, and 4 of its own, of which 1 is not used."""
    numbers = {
        "mem_get_info": (GIB, 8 * GIB),
        "memory_reserved": 4 * GIB,
        "memory_allocated": 3 * GIB,
        "max_memory_allocated": 4 * GIB,
    }
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device=None, number=number: number)
    return torch.device("cuda")


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("source", WORDS)
def test_whoever_says_that_a_gpu_is_full_it_is_one_line(
    source: str, recorded: bool, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a graph is recorded, CUDA ends the recording with an error of its own, as `torch.cuda.graph` raises it."""

    @contextlib.contextmanager
    def graph(graph: tape.CUDAGraph, *, stream: tape.Stream) -> Iterator[None]:
        try:
            yield
        finally:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")

    def update(phase: int, numbers: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(phase)
        if len(calls) > (WARM_UP if recorded else 0):
            raise WORDS[source]
        return {}

    tape.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    calls, run = list[int](), Recorded(update)
    needed = 6 if source == "torch" else 4  # the others do not say how much was asked for
    line = f"^refine: out of GPU memory: 8 GiB, 5 GiB of it for this process; 8 seeds need at least {needed} GiB"
    with pytest.raises(FdError, match=line), memory.telling_what_fits("refine", seeds=8, fixed=0):
        for _ in range(WARM_UP + 1):
            run(0, [])
    assert len(calls) == (WARM_UP + 1 if recorded else 1)


def test_other_errors_are_not_taken_for_a_full_gpu(gpu: torch.device) -> None:
    for error in (
        RuntimeError("shapes differ"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    ):
        with pytest.raises(RuntimeError, match=str(error)), memory.telling_what_fits("refine", seeds=8, fixed=0):
            raise error


def test_what_a_gpu_has_to_hold_must_fit_into_its_free_memory(gpu: torch.device) -> None:
    """The free memory, and what this process keeps without using it."""
    memory.check_room(2 * GIB, gpu, what="base actions", allowed="less")
    with pytest.raises(
        FdError,
        match=r"^base actions take 3 GiB at least, cuda has 2 GiB, the limit of its free memory \(allowed: less\)$",
    ):
        memory.check_room(3 * GIB, gpu, what="base actions", allowed="less")


@pytest.mark.parametrize("source", WORDS)
def test_a_full_gpu_outside_training_is_one_line(
    source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise WORDS[source]

    app = Typer()
    app.command()(full)
    assert program(monkeypatch, app) == 2
    assert one_line(capsys).startswith("error: out of memory: CUDA ")


@cuda
def test_a_full_gpu_says_how_many_seeds_fit() -> None:
    """Each of 8 seeds takes a fifth of the memory, beside a tenth for all."""
    there = memory.usable_memory(torch.device("cuda"))
    line = r"out of GPU memory: .*; 8 seeds need at least .*; at most [1-7] would fit"  # what failed asked for less than all
    with pytest.raises(FdError, match=line), memory.telling_what_fits("refine", seeds=8, fixed=there // 10):
        taken = [torch.empty(there // 10, dtype=torch.uint8, device="cuda")]
        taken += [torch.empty(there // 5, dtype=torch.uint8, device="cuda") for _ in range(8)]
