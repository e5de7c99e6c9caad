"""`fidec watch` shows the curves of runs in progress, from what training writes anyway."""

from __future__ import annotations

import csv
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TASK
from edits import outcome
from example_suite import ROOT

from fd.cli.program import app
from fd.cli.watch_runs import BARS
from fd.storage.files import write_record
from fd.storage.unfinished import ANNOUNCED, PROGRESS
from fd.training import loop
from stages import pretrain, refine

HEADER = "step,seed,critic_loss,penalty,dual\n"


def run_in(scratch: Path, rows: str, **facts: Any) -> Path:
    """A run in progress with these rows in its log."""
    folder = scratch / "refine-maze.fidec-0123"
    told = {"label": "refine maze fidec", "host": "node7", "steps": 80, "budget": 0.003}
    write_record(folder / ANNOUNCED, told | facts)
    (folder / PROGRESS).write_text(HEADER + rows)
    return folder


@pytest.mark.usefixtures("tiny_project")
def test_the_curves_of_a_run_are_seen_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    advance, seen = loop.Progress.advance, list[str]()

    def watched(self: loop.Progress, amount: int, *, text: str = "") -> None:
        advance(self, amount, text=text)
        code, shown = outcome(app, ["watch", "--once"])
        assert code == 0, shown
        seen.append(shown)

    monkeypatch.setattr(loop.Progress, "advance", watched)
    assert outcome(refine.app, ["--task", TASK, "--method", "fidec"])[0] == 0
    seen = [shown for shown in seen if "step 0 of" not in shown]  # while the bank was built
    assert [shown.split(",")[0] for shown in seen] == [
        f"refine {TASK} fidec: step {step} of 40" for step in (10, 20, 30, 40)
    ]
    title, header, *rows = seen[-1].splitlines()
    assert "no row" not in title
    assert header.split("  ")[0] == "seed" and "penalty / budget 0.003" in header and "dual" in header
    with Path("runs", TASK, "fidec", "train.csv").open(newline="") as file:
        last = {row["seed"]: row for row in csv.DictReader(file) if row["step"] == "40"}
    assert [row.split()[0] for row in rows] == list(last)
    for row in rows:
        _, *cells = row.split()
        assert all(len(curve) == 4 and set(curve) <= set(BARS) for curve in cells[::2])
        names = ("critic_loss", "policy_loss", "q", "penalty", "dual")
        assert cells[1::2] == [f"{float(last[row.split()[0]][name]):.3g}" for name in names]
    assert outcome(app, ["watch", "--once"]) == (0, ".scratch: no run is in progress\n")


@pytest.mark.usefixtures("tiny_project")
def test_a_flow_is_seen_while_it_is_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    advance, seen = loop.Progress.advance, list[str]()

    def watched(self: loop.Progress, amount: int, *, text: str = "") -> None:
        advance(self, amount, text=text)
        seen.append(outcome(app, ["watch", "--once"])[1])

    monkeypatch.setattr(loop.Progress, "advance", watched)
    assert outcome(pretrain.app, ["--task", TASK])[0] == 0
    assert f"pretrain {TASK}: step 40 of 40" in seen[-1] and "flow loss" in seen[-1]


def test_a_curve_has_a_scale_for_all_seeds_and_its_line_is_as_long_as_the_terminal_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    duals = (1, 1, 1, 3e4, 3e4, 1e8, 1e8, 1e8)
    low = "".join(f"{step},3,{step},0.002,{dual}\n" for step, dual in enumerate(duals, 1))
    high = "".join(f"{step},5,{step + 8},0.004,1\n" for step in range(1, 9))
    run_in(tmp_path, low + high)
    _, header, first, second = outcome(app, ["watch", "--scratch", str(tmp_path), "--once"])[1].splitlines()
    assert header.split() == ["seed", "critic", "loss", "penalty", "/", "budget", "0.003", "dual", "(log)"]
    assert first.split() == ["3", "▁▁▂▂▃▃▄▄", "8", "▁" * 8, "0.002", "▁▁▁▅▅███", "1e+08"]
    assert second.split() == ["5", "▅▅▆▆▇▇██", "16", "█" * 8, "0.004", "▁" * 8, "1"]


def test_a_row_that_is_half_written_is_not_read(tmp_path: Path) -> None:
    run_in(tmp_path, "10,0,1,0.1,1\n20,0,2,0.1")
    assert "step 10 of 80, on node7, last row " in outcome(app, ["watch", "--scratch", str(tmp_path), "--once"])[1]


def test_before_the_first_row_there_is_none(tmp_path: Path) -> None:
    (run_in(tmp_path, "") / PROGRESS).unlink()
    code, told = outcome(app, ["watch", "--scratch", str(tmp_path), "--once"])
    assert code == 0 and "step 0 of 80, on node7, no row yet" in told


@pytest.mark.parametrize(
    ("rows", "facts", "message"),
    [
        ("1,2\nx,y\n", {}, "progress.csv: not a log: "),
        (",0,1,1,1\n", {}, "progress.csv: not a log, allowed: the columns step and seed in every row"),
        ("", {"label": "\x1b[31mred"}, "cell.json.label: "),
        ("", {"steps": "many"}, "cell.json.steps: 'many', allowed: a whole number"),
    ],
)
def test_what_is_no_run_is_named(rows: str, facts: dict[str, Any], message: str, tmp_path: Path) -> None:
    run_in(tmp_path, rows, **facts)
    code, told = outcome(app, ["watch", "--scratch", str(tmp_path), "--once"])
    assert code == 2 and message in told and told.isprintable()


def test_a_damaged_or_missing_folder_is_named(tmp_path: Path) -> None:
    (run_in(tmp_path, "") / ANNOUNCED).write_text(json.dumps({"label": "x"}))
    assert "has no seal" in outcome(app, ["watch", "--scratch", str(tmp_path), "--once"])[1]
    code, told = outcome(app, ["watch", "--scratch", str(tmp_path / "none"), "--once"])
    assert code == 2 and told.startswith(f"{tmp_path / 'none'}: no such folder")


def test_a_terminal_is_refreshed_until_ctrl_c(tmp_path: Path) -> None:
    folder = run_in(tmp_path, "10,0,1,0.1,1\n")
    reader, terminal = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "20", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fd.cli", "watch", "--scratch", str(tmp_path), "--every", "0.5"]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        first = read_until("step 10 of 80", reader)
        with (folder / PROGRESS).open("a") as log:
            log.write("20,0,2,0.1,1\n")
        then = read_until("step 20 of 80", reader)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    os.close(reader)
    assert "step 20" not in first and "error" not in first + then


def read_until(words: str, reader: int) -> str:
    """What a terminal shows up to these words, within a minute."""
    shown, end = "", time.monotonic() + 60
    while words not in shown:
        assert time.monotonic() < end, shown
        if select.select([reader], [], [], 0.5)[0]:
            shown += os.read(reader, 100_000).decode(errors="replace")
    return shown
