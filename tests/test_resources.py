"""Full disks, folders that cannot be written, no GPU, too little memory: one line each, nothing half-written, and the next run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from conftest import TASK, settings
from edits import changed, contents, edit, one_line, program, write_params
from typer import Typer

from fd.errors import FdError
from fd.runtime import memory
from stages import download, evaluate, geometry, pretrain, refine, report

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
    assert f"take {needed / 2**30:.3g} GiB at least, cpu has {memory.total_memory(CPU) / 2**30:.3g} GiB" in str(
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


@cuda
def test_a_full_gpu_says_how_many_seeds_fit() -> None:
    """Each of 8 seeds takes a fifth of the memory, beside a tenth for all."""
    there = memory.total_memory(torch.device("cuda"))
    line = r"out of GPU memory: .*; 8 seeds need at least .*; at most [1-7] would fit"  # what failed asked for less than all
    with pytest.raises(FdError, match=line), memory.telling_what_fits("refine", seeds=8, fixed=there // 10):
        taken = [torch.empty(there // 10, dtype=torch.uint8, device="cuda")]
        taken += [torch.empty(there // 5, dtype=torch.uint8, device="cuda") for _ in range(8)]
