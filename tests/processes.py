"""What tests of killed parents ask about the processes left behind."""

from __future__ import annotations

from pathlib import Path


def alive(process: int) -> bool:
    """Whether it runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
