"""The device: which one is taken, what is said about it, and that results of several are not mixed.

Where a test needs an NVIDIA driver, a library of its name stands for it, which answers as a driver does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TASK
from edits import edit, one_line, program
from example_suite import edit_record

from fd.runtime.device import select_device, tell_device
from fd.settings.simulation_settings import Act
from fd.simulation.evaluation import Subject, load_actor
from fd.storage.files import read_record
from fd.storage.transitions import read_manifest
from stages import evaluate, geometry, pretrain, refine

COMPILER = shutil.which(os.environ.get("CC", "cc"))
DRIVER = """
#include <stdlib.h>
int cuInit(unsigned flags) { return atoi(getenv("ANSWER")); }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
"""
ASKED = """
import os, sys
from fd.errors import FdError
from fd.runtime.device import select_device
for line in sys.stdin.read().splitlines():
    device, os.environ["ANSWER"] = line.split()
    try:
        print(select_device(device, 1).type)
    except FdError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process that finds a driver for CUDA 12.4; ANSWER is what it says when it is started."""
    if COMPILER is None or torch.cuda.is_available():
        pytest.skip("needs a C compiler and no GPU")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", folder / "driver.c", "-o", library], check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "ANSWER": "0"}


def test_a_driver_that_torch_cannot_use_is_an_error_unless_the_cpu_is_asked_for(driver: dict[str, str]) -> None:
    cases = ("auto 0", "cuda 0", "auto 999", "auto 100", "auto 34", "cpu 0")  # 100: no GPU is visible; 34: a stub
    run = subprocess.run(
        [sys.executable, "-c", ASKED], input="\n".join(cases), env=driver, check=True, text=True, capture_output=True
    )
    told = run.stdout.splitlines()
    assert len(told) == len(cases)
    for line, device in zip(told[:3], ("auto", "cuda", "auto"), strict=True):
        assert line.startswith(f"compute.device: '{device}', but torch {torch.__version__}, built ")
        assert "cannot use the NVIDIA driver of this machine, made for CUDA 12.4" in line
        assert "(allowed: a newer driver, a build of torch for CUDA 12.4 or older, or compute.device: cpu)" in line
    assert "answers with error 999" in told[2] and "answers" not in told[0]
    assert told[3:] == ["cpu", "cpu", "cpu"]


def test_a_stage_beside_such_a_driver_ends_with_one_line(tiny_project: Path, driver: dict[str, str]) -> None:
    edit("compute", "device", to="auto")
    shutil.rmtree("behaviour")
    stage = [sys.executable, "-m", "stages.pretrain", "--task", TASK]
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(stage, env=driver | {"PYTHONPATH": path}, text=True, capture_output=True, check=False)
    assert run.returncode == 2 and run.stderr.startswith("error: compute.device: 'auto', but torch "), run.stderr
    assert run.stderr.count("\n") == 1 and run.stdout == "" and not Path("behaviour").exists()


def test_a_stage_says_once_where_and_how_it_computes(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (pretrain.app, []),
        (geometry.app, []),
        (refine.app, ["--method", "bc"]),
        (evaluate.app, ["--method", "bc"]),
    ]
    for app, options in cases:
        assert program(monkeypatch, app, "--task", TASK, *options) == 0
        said = re.findall(
            r"^(\w+) umaze.*: device cpu, execution eager, precision float32$", capsys.readouterr().err, re.MULTILINE
        )
        assert said == [app.registered_commands[0].callback.__module__.removeprefix("stages.")]


def test_a_gpu_is_named_with_its_precision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    for tf32 in (True, False):
        tell_device("refine umaze fidec", torch.device("cuda"), execution="graph", tf32=tf32)
    assert capsys.readouterr().err.splitlines() == [
        f"refine umaze fidec: device cuda (NVIDIA H200), execution graph, precision {precision}"
        for precision in ("TF32", "float32")
    ]


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_is_that_of_products_and_convolutions(tf32: bool) -> None:
    for switch in (torch.backends.cuda.matmul, torch.backends.cudnn):
        switch.allow_tf32 = not tf32
    select_device("cpu", 1, tf32=tf32)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32


def test_a_process_that_evaluates_has_full_precision(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a new process, which has torch's own defaults: TF32 in convolutions."""
    assert program(monkeypatch, refine.app, "--task", TASK, "--method", "bc") == 0
    run, manifest = Path("runs", TASK, "bc"), read_manifest(Path("data", TASK))
    torch.backends.cudnn.allow_tf32 = True
    load_actor(Subject(TASK, "bc", run, Act(best_of=1, refinements=1), manifest), torch.device("cpu"), 40)
    assert not torch.backends.cudnn.allow_tf32


def test_tests_begin_in_full_precision() -> None:
    """Whatever the test before this one did."""
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_a_run_on_the_cpu_records_no_gpu(tiny_project: Path) -> None:
    assert read_record(Path("behaviour", f"{TASK}.json"))["machine"]["gpu"] is None


def test_a_flow_of_another_device_is_not_refined(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Path("behaviour", f"{TASK}.json")
    edit_record(record, machine=read_record(record)["machine"] | {"gpu": "NVIDIA H200"})
    assert program(monkeypatch, refine.app, "--task", TASK, "--method", "fidec") == 2
    assert one_line(capsys).startswith(
        f"error: {record}: was trained on NVIDIA H200, this is cpu, whose random numbers differ"
    )
    assert not Path("runs").exists()
