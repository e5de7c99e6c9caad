"""What tests of killed programs ask about processes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path


def session(leader: int) -> set[int]:
    """Ids of the processes of a session that run."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.add(int(file.parent.name))
    return found


def until_it_listens(process: subprocess.Popen[str]) -> None:
    """Wait until a program has a handler for SIGTERM, or has ended."""
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1 and process.poll() is None:
        time.sleep(0.01)
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0"), 16)
