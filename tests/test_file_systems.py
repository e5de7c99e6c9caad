"""Homes that nobody knows, file systems without locks, files that the system does not read or write: one line with the path and the cause."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import TASK, settings
from edits import changed, contents, one_line, program, refused, write_params
from two_episodes import manifest_of, two_episodes
from typer import Typer

from fd.datasets import ogbench
from fd.datasets.hdf5_check import check_hdf5
from fd.settings.data_settings import Download
from fd.storage.files import digest, write_folder, write_record, write_text
from fd.storage.transitions import read_npz, save_transitions
from stages import download

ROOT = Path(__file__).parent.parent
SET = "pointmaze-medium-navigate-singletask-task1-v0"
ROBOT = {
    "environment": "AdroitHandDoor-v1", "observation": [], "reward": "dense", "cut_at_success": False, "maze": None, "horizon": 200,
    "score": "return", "return_range": [0.0, 1.0], "differs": None,
}  # fmt: skip


@pytest.fixture(params=["no HOME", "empty HOME"])
def homeless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a user whom the list of users does not know, as in a container with a number for its user."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME") if request.param == "no HOME" else monkeypatch.setenv("HOME", "")
    for name in ("MINARI_DATASETS_PATH", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"source": "ogbench", "dataset": SET}, "download.folder: ~/.ogbench/data: the home folder is not known; set HOME or an absolute"),
        (
            ROBOT | {"source": "d4rl", "dataset": "door-cloned-v1", "folder": "~/.d4rl", "file": "door.hdf5"},
            "folder: ~/.d4rl: the home folder is not known; set HOME or an absolute folder",
        ),
        (
            ROBOT | {"source": "minari", "dataset": "D4RL/door/human-v2"},
            "~/.minari/datasets: the home folder is not known; set HOME, or MINARI_DATASETS_PATH to an absolute folder",
        ),
    ],
)  # fmt: skip
def test_a_home_that_is_needed_and_not_known_is_one_line(
    data: dict[str, Any], words: str, homeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    values = changed(settings("bc"), "tasks", TASK, "data", to=data)
    write_params(homeless, changed(values, "download", "folder", to="~/.ogbench/data"))
    assert program(monkeypatch, download.app, "--task", TASK, "--reference", str(ROOT / "reference")) == 2
    assert words in one_line(capsys)
    assert {path.name for path in homeless.iterdir()} <= {"params.yaml", ".scratch"}


def test_a_folder_that_is_no_home_needs_none(homeless: Path) -> None:
    name, folder = ogbench.parse_name(SET), Download(folder=str(homeless / "sets"), mirrors=(), timeout=1.0)
    with refused(f"{homeless}/sets/{name.file}.npz: no such file, and no host has it"):
        ogbench.find_ogbench(name, folder, label="test", hint="")
    (homeless / "sets" / f"{name.file}.npz").touch()
    assert ogbench.find_ogbench(name, folder, label="test", hint="") == homeless / "sets" / f"{name.file}.npz"
    assert [path.name for path in homeless.iterdir()] == ["sets"]


def test_the_home_of_a_user_who_does_not_exist_is_one_line(tmp_path: Path) -> None:
    folder = Download(folder="~nobody-of-this-name/sets", mirrors=(), timeout=1.0)
    with refused("download.folder: ~nobody-of-this-name/sets: the home folder is not known; set HOME or an absolute"):
        ogbench.find_ogbench(ogbench.parse_name(SET), folder, label="test", hint="")


NO_FLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int flock(int file, int operation) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) > 0 && !strncmp(path, getenv("NO_FLOCK"), strlen(getenv("NO_FLOCK")))) {
        errno = atoi(getenv("NO_FLOCK_ERROR"));
        return -1;
    }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}
"""
CLAIM = """
import sys, time
from fd.storage import scratch
scratch.PATIENCE = 0.3
with scratch.claimed("refine", "umaze/bc"), scratch.claimed("refine", "umaze/fidec"):
    print("claimed", flush=True)
    sys.stdin.read()
"""
TOLD = "its file system has no locks ("


@pytest.fixture(scope="session")
def no_flock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library before libc, in which flock fails below a folder as on NFS without locks."""
    folder = tmp_path_factory.mktemp("flock")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "flock.c").write_text(NO_FLOCK)
    command = [compiler, "-shared", "-fPIC", "-o", folder / "flock.so", folder / "flock.c", "-ldl"]
    subprocess.run(command, check=True)
    return folder / "flock.so"


def without_locks(library: Path, folder: Path, error: int) -> dict[str, str]:
    """The environment of a process for which a folder has no locks."""
    told = {"LD_PRELOAD": str(library), "NO_FLOCK": str(folder), "NO_FLOCK_ERROR": str(error), "PYTHONPATH": str(ROOT)}
    return {name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"} | told


@pytest.mark.parametrize("error", [37, 38, 95, 22], ids=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_a_claim_without_locks_excludes_others_and_ends_with_its_process(
    error: int, no_flock: Path, tmp_path: Path
) -> None:
    def started() -> subprocess.Popen[str]:
        pipe, env = subprocess.PIPE, without_locks(no_flock, tmp_path, error)
        command = [sys.executable, "-W", "error", "-c", CLAIM]
        return subprocess.Popen(command, cwd=tmp_path, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    with started() as first:
        assert first.stdout is not None and first.stdout.readline() == "claimed\n"
        second = started()
        assert "another process works on it" in second.communicate(timeout=60)[1] and second.returncode == 1
        first.send_signal(signal.SIGKILL)
        told = first.communicate()[1].splitlines()
    assert len(told) == 1 and told[0].startswith(f".scratch/locks: {TOLD}{os.strerror(error)})"), told
    third = started()
    assert third.communicate(timeout=60)[0] == "claimed\n" and third.returncode == 0


def test_a_stage_goes_on_without_locks(no_flock: Path, made: Path, tmp_path: Path) -> None:
    """Its set is an HDF5 file, which HDF5 would lock."""
    write_params(tmp_path, settings())
    command = [sys.executable, "-m", "stages.download", "--task", TASK]
    env = without_locks(no_flock, tmp_path, 37)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.count(TOLD) == 1, done.stderr
    assert contents(tmp_path / "data") == contents(made / "data")


READ = (
    "import sys; from pathlib import Path; from fd.datasets.hdf5_check import check_hdf5; check_hdf5(Path(sys.argv[1]))"
)


@pytest.mark.parametrize("lacks", ["locks", "an end of its writing"])
def test_an_hdf5_file_that_cannot_be_locked_is_not_called_damaged(lacks: str, no_flock: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file["observations"] = np.zeros((3, 2))
        file.flush()
        env = without_locks(no_flock, tmp_path if lacks == "locks" else Path("/nowhere"), 37)
        command = [sys.executable, "-c", READ, "set.hdf5"]
        if lacks == "locks":
            file.close()
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    reason = "No locks available" if lacks == "locks" else "Resource temporarily unavailable"
    assert f"set.hdf5: HDF5 cannot lock the file ({reason}); if no other program writes to it, set" in done.stderr
    assert (
        "HDF5_USE_FILE_LOCKING=FALSE" in done.stderr.splitlines()[-1]
        and "truncated" not in done.stderr.splitlines()[-1]
    )


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within, the system writes no file beyond so many bytes; the error of a write does not name its file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS: dict[str, Callable[[Path], object]] = {
    "set.txt": lambda path: write_text(path, "x" * 9000),
    "record.json": lambda path: write_record(path, {"x": "x" * 9000}),
    "page.md": lambda path: write_folder(path.parent, {path.name: "x" * 9000}),
    "set.npz": lambda path: ogbench.write_ogbench(path, [path.with_name("episode.npz")] * 200),
    "transitions.npz": lambda path: save_transitions(path.parent, two_episodes(), manifest_of(two_episodes())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "episode.npz", terminals=np.zeros(50), observations=np.zeros((50, 2)))
    app = Typer()
    app.command()(lambda: WRITERS[name](tmp_path / name) and None)
    with largest_file(1000):
        assert program(monkeypatch, app) == 2
    assert one_line(capsys) == f"error: {tmp_path / name}: File too large"
    assert {path.name for path in tmp_path.iterdir()} <= {"episode.npz", "set.npz"}


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first page of the memory of a process is never mapped, and reading it is an input/output error."""
    app = Typer()
    app.command()(lambda: digest(Path("/proc/self/mem")) and None)
    assert program(monkeypatch, app) == 2
    assert one_line(capsys) == "error: /proc/self/mem: Input/output error"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(24, "Too many open files"), "error: Too many open files"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "error: No usable temporary directory found in ['/tmp']"),
        (OSError("several\nlines"), "error: several lines"),
        (PermissionError(13, "Permission denied", "a\nb"), "error: a\\nb: Permission denied"),
        (OSError(28, "No space left on device", "from", None, "to"), "error: to: No space left on device"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_one_line(
    error: OSError, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    app = Typer()
    app.command()(fail)
    assert program(monkeypatch, app) == 2
    assert one_line(capsys) == line


def encrypted(path: Path) -> None:
    """Mark the one member of an archive as encrypted."""
    np.savez(path, x=np.zeros(3))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def packed(path: Path) -> None:
    """Name a method of compression that does not exist."""
    np.savez(path, x=np.zeros(3))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 77
    path.write_bytes(content)


def of_a_later_version(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros(3), version=(2, 0))


@pytest.mark.parametrize(
    ("make", "read", "words"),
    [
        (Path.mkdir, read_npz, "cannot be read: Is a directory"),
        (Path.mkdir, check_hdf5, "cannot be read: Is a directory"),
        (lambda path: None, read_npz, "cannot be read: No such file or directory"),
        (encrypted, read_npz, "is encrypted, password required"),
        (packed, read_npz, "cannot be read: That compression method is not supported"),
        (of_a_later_version, read_npz, "x.npy has npy version (2, 0), allowed: (1, 0)"),
    ],
)
def test_what_is_not_damaged_is_not_called_damaged(
    make: Callable[[Path], object], read: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "set.npz")
    with refused(words, start=f"{tmp_path / 'set.npz'}: "):
        read(tmp_path / "set.npz")
