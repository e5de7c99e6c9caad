"""Ends a process with the process that started it, even if that is killed."""

from __future__ import annotations

import ctypes
import os
import signal

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def end_with_parent(parent: int) -> None:
    """From now on, this process gets SIGTERM when its parent, the process of this number, ends."""
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)
