"""Stages that are killed, or asked to end, at random points: they go on to the same bytes and leave nothing behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import settings
from edits import changed, contents, write_params
from processes import session, until_it_listens

ROOT = Path(__file__).parent.parent
CELL = ("--task", "umaze", "--method", "deflow")
# Stage: its command line, where its output stands, and settings by which it works for some seconds.
STAGES: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "download": (CELL[:2], "data/umaze", {"tasks.umaze.data.episodes": 150}),
    "pretrain": (CELL[:2], "behaviour/umaze", {"pretrain.steps": 2000, "pretrain.log_every": 500}),
    "refine": (CELL, "runs/umaze/deflow", {"refine.steps": 600, "refine.evaluate_every": 200, "refine.log_every": 50}),
    "evaluate": (CELL, "evals/umaze/deflow.csv", {"evaluate.episodes": 40}),
    "finetune": (
        CELL,
        "online/umaze/deflow",
        {
            "refine.keep_state": True,
            "online.methods": ["deflow"],
            "online.tasks.umaze": {
                "steps": 200, "updates": 1, "batch_size": 16, "balanced": True, "behaviour": "frozen",
                "evaluate_every": 40, "log_every": 20,
            },
        },
    ),
}  # fmt: skip
BEFORE = {"evaluate": ("refine",), "finetune": ("refine",)}  # stages whose output is made anew


def edited(changes: dict[str, Any]) -> None:
    """Write settings of one method with these changes to the current folder."""
    values = settings("deflow")
    for place, value in changes.items():
        values = changed(values, *place.split("."), to=value)
    write_params(Path(), values)


def start(stage: str) -> subprocess.Popen[str]:
    """The stage as a program, leader of a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", *(CELL if stage in ("refine", "evaluate", "finetune") else CELL[:2])],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def remove(place: Path) -> None:
    """Remove an output, if it is there."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def killed(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.kill()
    return -signal.SIGKILL, ""


def terminated(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.terminate()
    return 128 + signal.SIGTERM, "error: stopped by SIGTERM: "


def typed_ctrl_c(process: subprocess.Popen[str]) -> tuple[int, str]:
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    return 128 + signal.SIGINT, "error: stopped by SIGINT: "


def robbed_of_a_worker(process: subprocess.Popen[str]) -> tuple[int, str]:
    workers = [child for child in session(process.pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    if not workers:
        return killed(process)
    os.kill(random.choice(workers), signal.SIGKILL)
    return 2, "error: "


KILLS = {
    "download": [killed, killed, robbed_of_a_worker, typed_ctrl_c],
    "pretrain": [killed, killed, terminated],
    "refine": [killed, killed, terminated, typed_ctrl_c],
    "evaluate": [killed, robbed_of_a_worker, typed_ctrl_c],
    "finetune": [killed, killed, robbed_of_a_worker, terminated],
}


def disturbed(stage: str, disturb: Callable[[subprocess.Popen[str]], tuple[int, str]], delay: float) -> bool:
    """Disturb the stage after a while and check how it ends; False when it was done before."""
    process = start(stage)
    until_it_listens(process)
    try:
        process.communicate(timeout=delay)
        return False
    except subprocess.TimeoutExpired:
        wanted, line = disturb(process)
    asked = time.monotonic()
    _, told = process.communicate()
    took = time.monotonic() - asked
    while left := session(process.pid) - {process.pid}:
        assert time.monotonic() - asked < 10, left
        time.sleep(0.05)
    if not Path(STAGES[stage][1]).exists():  # else it was done while it was disturbed
        assert process.returncode == wanted and (told.splitlines()[-1] if line else "").startswith(line), told
        assert "Traceback" not in told
        assert took < 5 or disturb is killed, (disturb, told)
    return True


def run(stage: str) -> None:
    """The stage as a program, to its end."""
    _, told = (process := start(stage)).communicate()
    assert process.returncode == 0, told


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_disturbed_at_random_points_ends_in_the_same_bytes(stage: str, tiny_project: Path) -> None:
    place, changes = Path(STAGES[stage][1]), STAGES[stage][2]
    edited(changes)
    for before in BEFORE.get(stage, ()):
        run(before)
    remove(place)
    begun = time.monotonic()
    run(stage)
    seconds, expected = time.monotonic() - begun, contents(place)
    remove(place)
    generator, left = random.Random(stage), list(KILLS[stage])
    generator.shuffle(left)
    while left:
        if disturbed(stage, left[-1], generator.uniform(0.5, seconds)):
            left.pop()
        if place.exists():  # killed when it was there, whole, or done before
            assert contents(place) == expected
            remove(place)  # as DVC does before it runs the stage again
    run(stage)
    assert contents(place) == expected
    assert not list(Path(place.parts[0]).rglob(".*"))
    assert not list(Path(".scratch").glob(f"{stage}-*/out"))


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_ctrl_c_before_anything_is_read_is_a_line(delay: float, tiny_project: Path) -> None:
    assert disturbed("refine", typed_ctrl_c, delay)


def test_ctrl_c_of_which_foreign_code_makes_another_exception_is_a_line() -> None:
    """As of one in the import of a compiled module, `mujoco` for one."""
    script = """
import os, signal
from fd.runtime import signals
from fd.runtime.command_line import main

def app():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
    except BaseException as error:
        raise ImportError("initialization failed") from error

signals.listen()
main(app)
"""
    told = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (
        130,
        "error: stopped by SIGINT: the next run resumes from the saved state\n",
    )
