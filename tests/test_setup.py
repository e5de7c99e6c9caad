"""`make setup` notices an environment that is not whole, of another Python or moved, whatever stamp file it has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "nothing"
version = "1"
optional-dependencies = {dev = []}
"""
BACKEND = """import zipfile


def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/nothing-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nothing-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: nothing\\nVersion: 1\\nProvides-Extra: dev\\n")
        wheel.writestr("nothing-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("nothing-1.dist-info/RECORD", "")
    return "nothing-1-py3-none-any.whl"
"""  # fmt: skip
ANEW, MOVED = "is made anew", ".venv was made in another folder"
PYTHON = os.path.realpath(sys.executable)


def setup(folder: Path, *arguments: str) -> str:
    """What `make setup` prints; nothing is fetched."""
    done = subprocess.run(
        ["make", "setup", *arguments], cwd=folder, env=os.environ | {"PIP_NO_INDEX": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pip(folder: Path) -> bool:
    return subprocess.run([folder / ".venv/bin/python", "-m", "pip", "--version"], check=False).returncode == 0


def stamp(folder: Path) -> None:
    """The file that says that the environment is ready, newer than everything that it depends on."""
    (folder / ".venv/bin/.ready").touch()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with this Makefile and no dependencies, set up over an environment without pip; leave it as it is."""
    folder = tmp_path_factory.mktemp("Bob's Entwürfe, ä") / "project"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.lock").touch()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    subprocess.run(
        [PYTHON, "-m", "venv", "--without-pip", folder / ".venv"], check=True
    )  # as Debian without python3-venv
    stamp(folder)
    assert ANEW in setup(folder, f"PYTHON={PYTHON}") and pip(folder)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """The same in another folder, as if it had been moved there."""
    folder = tmp_path / "moved"
    shutil.copytree(made, folder, symlinks=True)
    return folder


def test_a_whole_environment_is_left_as_it_is(made: Path) -> None:
    before = (made / ".venv/bin/.ready").stat().st_mtime_ns
    for arguments in ([], [f"PYTHON={PYTHON}"]):
        told = setup(made, *arguments)
        assert ANEW not in told and MOVED not in told and "pip install" not in told
    assert (made / ".venv/bin/.ready").stat().st_mtime_ns == before


def test_a_moved_environment_is_told_and_used(project: Path) -> None:
    told = setup(project)
    assert MOVED in told and "rm -rf .venv && make setup" in told and ANEW not in told


def test_an_environment_whose_python_is_gone_is_made_anew(project: Path) -> None:
    for link in (project / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    assert_made_anew(project, "this Python")


def test_another_python_is_taken_where_it_is_named(project: Path) -> None:
    assert_made_anew(project, "another Python")


def assert_made_anew(folder: Path, identity: str) -> None:
    """Set up with a Python of that identity, whose environments lack pip to save time, so that the installation fails."""
    other = folder.parent / "python"
    other.write_text(
        f'#!/bin/sh\ncase "$*" in *base_prefix*) echo "{identity}";;'
        f' "-m venv .venv --clear") exec "{PYTHON}" -m venv .venv --clear --without-pip;; *) exec "{PYTHON}" "$@";; esac\n'
    )
    other.chmod(0o755)
    stamp(folder)
    with pytest.raises(AssertionError, match=ANEW):
        setup(folder, f"PYTHON={other}")
    assert not pip(folder) and not (folder / ".venv/bin/.ready").exists()


@pytest.mark.parametrize("version", ["3.9.1", "3.10.0", "3.13.0"])
def test_a_python_that_does_not_fit_is_told_before_anything_is_made(version: str, project: Path) -> None:
    shutil.rmtree(project / ".venv")
    other = project.parent / "python"
    pretend = (
        f"import sys; sys.version, sys.version_info = '{version} x', ({version.replace('.', ', ')}); exec(sys.argv[1])"
    )
    other.write_text(f'#!/bin/sh\nexec "{PYTHON}" -c "{pretend}" "$2"\n')
    other.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={other}"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and f"is Python {version}, needed: 3.11 or 3.12" in done.stderr
    assert not (project / ".venv").exists()


def test_a_package_that_another_one_needs_is_missed(project: Path) -> None:
    (site,) = (project / ".venv/lib").glob("python*/site-packages")
    for name, needs in (("needed", ""), ("needy", "Requires-Dist: needed==1\n")):
        (site / f"{name}-1.dist-info").mkdir()
        (site / f"{name}-1.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{needs}")
    assert "pip install" not in setup(project)
    shutil.rmtree(site / "needed-1.dist-info")
    assert "pip install" in setup(project)


def test_a_failed_installation_is_not_taken_for_a_whole_one(project: Path) -> None:
    lock = project / "requirements.lock"
    before = lock.stat()
    (project / "backend.py").write_text("")
    lock.touch()
    with pytest.raises(AssertionError, match="build_editable"):
        setup(project)
    os.utime(lock, ns=(before.st_atime_ns, before.st_mtime_ns))  # the edit is taken back
    (project / "backend.py").write_text(BACKEND)
    assert "pip install" in setup(project)


def test_programs_need_no_script_of_the_environment() -> None:
    """Scripts begin with the folder in which they were made."""
    told = subprocess.run(
        ["make", "--dry-run", "--assume-old=setup", "repro", "test", "check", "SUITE=ci"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = [line for line in told.splitlines() if not line.startswith("make")]
    assert len(lines) == 8 and all(line.startswith(".venv/bin/python -m ") for line in lines), told
    subprocess.run([sys.executable, "-m", "fd.cli", "--help"], cwd=ROOT, capture_output=True, check=True)
