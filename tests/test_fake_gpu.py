"""Training on a GPU, rehearsed without one: fake tensors go through it, which have a shape and a device but no numbers.

This shows mixed devices, waits of the CPU, and launches. It shows no number, no time and no limit of a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fd.runtime.closure import ROOT

FOLDER = Path(__file__).parent / "fake_cuda"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

# Launches of an eager update with four hidden layers, in its longest phase: operations but views and allocations.
# A change that saves launches lowers the numbers here.
MARGIN = 1.02
LAUNCHES = {
    "pretraining": 51,
    "fql bank": 230,
    "fql fresh": 330,
    "fql joint": 373,
    "deflow bank": 250,
    "deflow fresh": 353,
    "deflow joint": 397,
    "fidec bank": 277,
    "fidec fresh": 402,
    "fidec joint": 446,
    "fidec-official joint": 442,
    "fidec-action bank": 275,
    "fidec-action fresh": 394,
    "fidec-action joint": 438,
    "fidec-stein bank": 476,
    "fidec-stein fresh": 595,
    "fidec-stein joint": 639,
    "fidec-desmooth bank": 277,
    "fidec-local bank": 277,
    "ifql -": 219,
    "iql -": 273,
    "iql-ddpgbc -": 330,
    "rebrac -": 239,
}
FAULTS = {
    "item": "waits for a number",
    "branch": "waits for a number",
    "item in the backward pass": "waits for a number",
    "fidec-local fresh": "_linalg_eigh.default: the CPU waits for a number",  # so graphs refuse it: see tests/test_graph.py
    "fidec-local joint": "_linalg_eigh.default: the CPU waits for a number",
    "boolean index": "nonzero",
    "made on the CPU": "stands on the CPU",
    "moved to the CPU": "stands on the CPU",
    "moved from the CPU": "stands on the CPU",
    "number of the CPU": "stands on the CPU",
    "index of the CPU": "stands on the CPU",
    "tensor of the CPU": "same device",
    "generator of the CPU": "same device",
    "generator of the CPU for the GPU": "generator of another device",
    "draw": "numbers are drawn",
}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Launches, or the fault, of each update, of other parts of training, and of updates with a planted fault."""
    folder, include = tmp_path_factory.mktemp("fake_cuda"), Path(torch.__file__).parent / "include"
    guard, out = folder / "guard.so", folder / "found.json"
    options = ["-shared", "-fPIC", "-std=c++20", f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
    subprocess.run([COMPILER, *options, FOLDER / "guard.cpp", "-o", guard], check=True)
    path = os.pathsep.join(map(str, (ROOT, FOLDER.parent)))
    subprocess.run([sys.executable, FOLDER, guard, out], check=True, env=os.environ | {"PYTHONPATH": path})
    found: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return found


def test_every_method_is_rehearsed_in_every_regime(rehearsed: dict[str, dict[str, Any]]) -> None:
    assert set(rehearsed["updates"]) == set(LAUNCHES)


@pytest.mark.parametrize("case", LAUNCHES)
def test_an_update_stays_on_the_gpu_in_few_launches(case: str, rehearsed: dict[str, dict[str, Any]]) -> None:
    found = rehearsed["updates"][case]
    assert isinstance(found, int), found
    assert found <= LAUNCHES[case] * MARGIN


def test_all_else_that_training_does_stays_on_the_gpu(rehearsed: dict[str, dict[str, Any]]) -> None:
    """Images, stacks of them, wide actions, acting, learning online."""
    wrong = [f"{case}: {found}" for case, found in rehearsed["others"].items() if not isinstance(found, int)]
    assert not wrong, "\n".join(wrong)
    assert len(rehearsed["others"]) >= 19


def test_every_kind_of_planted_fault_is_known(rehearsed: dict[str, dict[str, Any]]) -> None:
    assert set(rehearsed["faults"]) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, rehearsed: dict[str, dict[str, Any]]) -> None:
    assert FAULTS[fault] in str(rehearsed["faults"][fault]).splitlines()[-1]
