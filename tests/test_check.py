"""`fidec check` tells before any work what DVC, or a stage, would refuse after it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK, settings
from edits import contents, outcome, write_params
from test_pipeline import copied

from fd.cli.program import app
from stages import pretrain


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked archive of the project: no Git repository."""
    folder = copied(tmp_path / "ein Entwurf, ä")
    write_params(folder, settings("bc"))
    monkeypatch.chdir(folder)
    return folder


def git_init() -> None:
    subprocess.run(["git", "init", "-q"], check=True)


def test_an_unpacked_archive_needs_git_init(project: Path) -> None:
    code, told = outcome(app, ["check"])
    assert code == 2 and told.startswith(f"{project}: DVC needs a Git repository (") and told.endswith("run `git init`")
    git_init()
    code, told = outcome(app, ["check"])
    assert code == 0 and told.startswith("params.yaml: suite tiny; tasks: 1, ")


@pytest.mark.usefixtures("project")
def test_settings_that_dvc_does_not_read_are_checked_alone() -> None:
    shutil.copy("params.yaml", "other.yaml")
    assert outcome(app, ["check", "--params", "other.yaml"])[0] == 0


def without_hidden_files() -> str:
    shutil.rmtree(".dvc")
    return "has no folder .dvc; copy the hidden files of the project, too, or clone it again"


def with_a_merge_conflict() -> str:
    Path("dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n")
    return "DVC cannot read the pipeline: unable to read: 'dvc.lock', YAML file structure is corrupted"


def with_data_elsewhere() -> str:
    Path("../data").mkdir()
    Path("data").symlink_to("../data")
    return (
        "data: is a link out of the Git repository, where DVC keeps no outputs, allowed: a folder;"
        f" what stands in it may be a link, for example data/{TASK}"
    )


def with_evaluations_elsewhere() -> str:
    Path("../evals").mkdir()
    Path("evals").mkdir()
    Path("evals", TASK).symlink_to("../../evals")
    return f"what stands in it may be a link, for example evals/{TASK}/bc.csv"


def with_a_file_for_a_folder() -> str:
    Path("runs").mkdir()
    Path("runs", TASK).touch()
    return f"runs/{TASK}: is a file, allowed: a folder"


def with_a_folder_for_a_file() -> str:
    Path("evals", TASK, "bc.csv").mkdir(parents=True)
    return f"evals/{TASK}/bc.csv: is a folder, allowed: a file"


FAULTS = [without_hidden_files, with_a_merge_conflict, with_data_elsewhere, with_evaluations_elsewhere]
FAULTS += [with_a_file_for_a_folder, with_a_folder_for_a_file]


@pytest.mark.usefixtures("project")
def test_pages_which_dvc_does_not_cache_may_lie_behind_a_link() -> None:
    git_init()
    Path("../reports").mkdir()
    Path("reports").symlink_to("../reports")
    assert outcome(app, ["check"])[0] == 0


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("break_it", FAULTS)
def test_what_ends_a_later_stage_is_told(break_it: Callable[[], str]) -> None:
    git_init()
    told, before = break_it(), contents(".")
    assert outcome(app, ["check"])[0] == 2
    assert outcome(app, ["check"])[1].endswith(told)
    unchanged = {path: content for path, content in contents(".").items() if not path.startswith(".dvc/tmp")}
    assert unchanged == {path: content for path, content in before.items() if not path.startswith(".dvc/tmp")}


def test_a_stage_that_dvc_starts_refuses_what_dvc_would_not_record(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_init()
    (tiny_project.parent / "elsewhere").mkdir()
    shutil.rmtree("behaviour")
    Path("behaviour").symlink_to(tiny_project.parent / "elsewhere")
    with monkeypatch.context() as patch:
        patch.setenv("DVC_STAGE", "pretrain")
        code, told = outcome(pretrain.app, ["--task", TASK])
        assert code == 2 and told.startswith(
            "behaviour: is a link out of the Git repository, where DVC keeps no outputs"
        )
    assert outcome(pretrain.app, ["--task", TASK])[0] == 0
    assert Path("behaviour").is_symlink() and contents(f"behaviour/{TASK}")
