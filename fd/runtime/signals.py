"""SIGTERM, SIGINT (Ctrl-C) and SIGHUP: a stage ends within seconds, by an exception that lets everything in use be put in order.

While networks are trained, the step at work is finished first and the state is saved. A stage that DVC started ends so, too, when that
DVC is gone: the next one would start it again beside itself.
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

PATIENCE = 3  # seconds that a step may take to its end
ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DVC_STAGE = "DVC_STAGE"  # variable that DVC sets for what it runs


class Interrupted(BaseException):
    """The process is asked to end. Not an Exception: who handles those is not to go on.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, saved: str = "the next run goes on from what is saved") -> None:
        """`saved`: what the user is told."""
        super().__init__(f"stopped by {signal.Signals(number).name}: {saved}")
        self.number = number


class _State:
    """What a signal does: end the process at once (before and after `raising`), raise, or be remembered (`deferred`)."""

    at_once = True
    deferring = False
    asked: int | None = None


def listen() -> None:
    """From now on, a signal ends this process with one line; one that is ignored, as in the background of a shell, stays so."""
    for number in ASKS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _overdue)


@contextmanager
def raising() -> Iterator[None]:
    """Within, a signal raises Interrupted in the main thread, once; whatever exception foreign code makes of it leaves as Interrupted."""
    _State.at_once = False
    try:
        yield
    except Exception:  # where a compiled module is being imported: ImportError
        if _State.asked is None:
            raise
        raise Interrupted(_State.asked) from None
    finally:
        _State.at_once = True
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a signal is remembered, for `asked` to tell; it raises after PATIENCE seconds all the same, a second signal at once."""
    _State.deferring = True
    try:
        yield
    finally:
        _State.deferring = False


def end_with_dvc() -> None:
    """From now on, this process gets SIGTERM when the DVC that started it is gone; nothing where none did."""
    if DVC_STAGE in os.environ:
        threading.Thread(target=_watch, args=(_ancestors(),), daemon=True).start()


def _watch(ancestors: list[int]) -> None:
    while _ancestors() == ancestors:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _ancestors() -> list[int]:
    """The parent and, where that is a shell by which DVC started this process, the shell's parent."""
    parent = Path("/proc", str(os.getppid()))
    found = [os.getppid()]
    try:
        if f"{DVC_STAGE}={os.environ[DVC_STAGE]}".encode() in (parent / "environ").read_bytes().split(b"\0"):
            found.append(int((parent / "stat").read_text().rsplit(")", 1)[1].split()[1]))
    except OSError:  # the parent has just ended, or this is no Linux
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
    if first != _State.deferring:  # the first signal if it need not wait, the second one if the first does
        _State.deferring = False
        raise Interrupted(number)


def _overdue(number: int, frame: FrameType | None) -> None:
    """The time is up: of the step, or of what had to be put in order after it."""
    assert _State.asked is not None
    if not _State.deferring:
        _leave(_State.asked)
    _State.deferring = False
    signal.setitimer(signal.ITIMER_REAL, 1)
    raise Interrupted(_State.asked)


def _leave(number: int) -> None:
    with suppress(OSError):  # of a terminal that was closed
        os.write(2, f"error: {Interrupted(number)}\n".encode())
    os._exit(128 + number)
