"""Progress: plain lines where nobody watches, a bar on a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fd.runtime import progress
from fd.runtime.progress import Progress


def test_plain_lines_tell_rate_time_left_and_losses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with Progress(30, "refine cube fidec", done=10) as bar:
        bar.advance(10, text="q 1.2 penalty 0.003")
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"refine cube fidec: 20/30, \d+ steps/s, \d+ s, \d+ s left, q 1\.2 penalty 0\.003", lines[0])
    assert lines[1].endswith("done")


def test_fast_work_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "bank cube", unit="states") as bar:
        for _ in range(100):
            bar.advance(1)
    assert re.fullmatch(r"bank cube: 100/100, \d+ states/s, 0 s, 0 s left, done\n", capsys.readouterr().err)


def test_a_failure_is_not_told_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), Progress(2, "refine"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar() -> None:
    program = (
        "from fd.runtime.progress import Progress\n"
        "with Progress(20, 'refine cube fidec') as bar:\n"
        "    bar.advance(20, text='q 1.2')\n"
    )
    reader, terminal = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", program], check=True, stderr=terminal, env=environment, timeout=60)
    os.close(terminal)
    shown = os.read(reader, 100_000).decode()
    os.close(reader)
    assert all(part in shown for part in ("refine cube fidec", "20/20", "steps/s", "q 1.2", "━"))
