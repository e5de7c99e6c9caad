"""What many tests share: fixed random numbers, and a tiny project with data, a pretrained flow and its geometry."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck
from hypothesis import settings as profiles

# Threads of two tests at once would wait for each other's core; a stage takes as many as its settings say. Set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from edits import outcome, write_params

from stages import download, geometry, pretrain

TASK = "umaze"
LONGEST = [f"test_{name}.py" for name in ("sources", "pipeline", "kill", "training_stages", "theory", "environments")]

# Whoever starts the tests in the background of a shell has Ctrl-C ignored, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A fuzz test reads a multiple of the examples of the profile: `ci`, or `nightly` by --hypothesis-profile=nightly.
for name, examples in (("ci", 8), ("nightly", 100)):
    profiles.register_profile(
        name, max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip
profiles.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them runs on when the other process is done."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _fixed_random_numbers() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Tests begin without TF32 and leave the precision as it was."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


def settings(*methods: str) -> dict[str, Any]:
    """tests/tiny.yaml cut down to the waypoint task and, where methods are named, to these, without ablations."""
    values: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "tiny.yaml").read_text())
    values["tasks"] = {TASK: values["tasks"][TASK]}
    if methods:
        values |= {"methods": {name: values["methods"][name] for name in methods}, "ablations": {}}
    return values


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with data/umaze, behaviour/umaze and geometry/umaze.json, made by the stages; copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MINARI_DATASETS_PATH", raising=False)
        write_params(folder, settings())
        for stage in (download, pretrain, geometry):
            code, told = outcome(stage.app, ["--task", TASK])
            assert code == 0, told
    return folder


@pytest.fixture
def tiny_project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, which is the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder
