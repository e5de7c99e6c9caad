"""What many tests share: fixed random numbers, and a tiny project with data and a pretrained flow."""

from __future__ import annotations

import copy
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from stages import download, pretrain

TASK = "umaze"
LONGEST = [f"test_{name}.py" for name in ("sources", "pipeline", "kill", "training_stages", "theory", "environments")]

# Whoever starts the tests in the background of a shell has Ctrl-C ignored, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them runs on when the other process is done."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _fixed_random_numbers() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def settings() -> dict[str, Any]:
    """tests/tiny.yaml cut down to the waypoint task."""
    values: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "tiny.yaml").read_text())
    values["tasks"] = {TASK: values["tasks"][TASK]}
    return copy.deepcopy(values)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with data/umaze and behaviour/umaze, made by the stages; copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MINARI_DATASETS_PATH", raising=False)
        Path("params.yaml").write_text(yaml.safe_dump(settings(), sort_keys=False))
        for stage in (download, pretrain):
            result = CliRunner().invoke(stage.app, ["--task", TASK], catch_exceptions=False)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def tiny_project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, which is the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder
