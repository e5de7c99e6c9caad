"""SIGTERM, SIGINT (Ctrl-C) and SIGHUP: a stage ends within seconds, by an exception, so that all code can clean up.

During training, the current step is finished and the state saved first. A stage that DVC started also ends in this way when that DVC
process is gone, because the next DVC process would start the same stage again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

PATIENCE = 3  # seconds that a step may take to finish
ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DVC_STAGE = "DVC_STAGE"  # environment variable that DVC sets for the commands that it runs


class Interrupted(BaseException):
    """The process was asked to end. Not an Exception: an `except Exception` must not swallow it.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, saved: str = "the next run resumes from the saved state") -> None:
        """`saved`: end of the message to the user."""
        super().__init__(f"stopped by {signal.Signals(number).name}: {saved}")
        self.number = number


class _State:
    """The effect of a signal: it ends the process at once (before and after `raising`), raises, or is remembered (`deferred`)."""

    at_once = True
    deferring = False
    asked: int | None = None


def listen() -> None:
    """From now on, a signal ends this process with one line; an ignored signal, as in a shell's background job, stays ignored."""
    for number in ASKS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _overdue)


@contextmanager
def raising() -> Iterator[None]:
    """Within, a signal raises Interrupted in the main thread, once; other exceptions that follow from it leave as Interrupted."""
    _State.at_once = False
    try:
        yield
    except Exception:  # for example ImportError, while a compiled module is imported
        if _State.asked is None:
            raise
        raise Interrupted(_State.asked) from None
    finally:
        _State.at_once = True
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a signal is remembered and `asked` returns it; it raises after PATIENCE seconds, or at once at a second signal."""
    _State.deferring = True
    try:
        yield
    finally:
        _State.deferring = False


def end_with_dvc() -> None:
    """From now on, this process gets SIGTERM when the DVC process that started it is gone; without one, nothing happens."""
    if DVC_STAGE in os.environ:
        threading.Thread(target=_watch, args=(_ancestors(),), daemon=True).start()


def _watch(ancestors: list[int]) -> None:
    while _ancestors() == ancestors:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _ancestors() -> list[int]:
    """The parent and, if that is a shell through which DVC started this process, the shell's parent."""
    parent = Path("/proc", str(os.getppid()))
    found = [os.getppid()]
    try:
        if f"{DVC_STAGE}={os.environ[DVC_STAGE]}".encode() in (parent / "environ").read_bytes().split(b"\0"):
            found.append(int((parent / "stat").read_text().rsplit(")", 1)[1].split()[1]))
    except OSError:  # the parent has just ended, or this is not Linux
        pass
    return found


def asked() -> int | None:
    """Number of the signal that asked this process to end, if one did."""
    return _State.asked


def _handle(number: int, frame: FrameType | None) -> None:
    first, _State.asked = _State.asked is None, number
    if _State.at_once:
        _leave(number)
    if first:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    if first != _State.deferring:  # at the first signal, or, if that is deferred, at the second
        _State.deferring = False
        raise Interrupted(number)


def _overdue(number: int, frame: FrameType | None) -> None:
    """The time for the step, or for cleaning up after it, is over."""
    assert _State.asked is not None
    if not _State.deferring:
        _leave(_State.asked)
    _State.deferring = False
    signal.setitimer(signal.ITIMER_REAL, 1)
    raise Interrupted(_State.asked)


def _leave(number: int) -> None:
    with suppress(OSError):  # the terminal was closed
        os.write(2, f"error: {Interrupted(number)}\n".encode())
    os._exit(128 + number)
