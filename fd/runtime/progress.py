"""Progress of long work: a bar with rate and ETA on a terminal, elsewhere a plain line every INTERVAL seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

INTERVAL = 10.0  # seconds between plain lines


class Progress:
    """Counts work towards `total`; use as a context manager and call `advance`.

    Args:
        total: amount of work.
        label: what is done, for example `refine cube-single fidec`.
        unit: what is counted, for example `steps`.
        done: work that was done before (a resumed run); it does not count for the rate.
    """

    def __init__(self, total: int, label: str, *, unit: str = "steps", done: int = 0) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = self._first = done
        self._start = self._told = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} {task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.add_task(self._label, total=self._total, completed=self._done, rate="", text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line("done")

    def advance(self, amount: int, *, text: str = "") -> None:
        """Adds finished work; `text` (for example current losses) is shown after the rate."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=self._rate(), text=text)
        elif time.monotonic() - self._told >= INTERVAL:
            self._line(text)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._first) / seconds
        return f"{rate:.{0 if rate >= 10 else 2}f} {self._unit}/s"

    def _line(self, text: str) -> None:
        self._told = time.monotonic()
        elapsed = self._told - self._start
        left = elapsed * (self._total - self._done) / max(self._done - self._first, 1)
        parts = [
            f"{self._label}: {self._done}/{self._total}",
            self._rate(),
            f"{elapsed:.0f} s",
            f"{left:.0f} s left",
            text,
        ]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)
