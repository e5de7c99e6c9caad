"""Command `watch`: curves of the runs in progress, from the logs that training writes anyway."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fd.runtime import signals
from fd.storage.scratch import ROOT

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from fd.results.running import Running

METRICS = ("flow_loss", "critic_loss", "value_loss", "policy_loss", "q", "q_mean", "penalty", "dual")
BARS = "▁▂▃▄▅▆▇█"
DECADES = 2  # a metric that spans more of them is drawn by its logarithm


def command(
    scratch: Annotated[Path, typer.Option(help="Scratch folder of a project, here or on a shared disk.")] = ROOT,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print the curves once, as it does where no terminal is.")] = False,
) -> None:  # fmt: skip
    """Show curves of losses, Q, penalty against budget and multiplier, by seed, of the runs in progress; Ctrl-C ends it."""
    from rich.console import Console  # imported here, because `fidec --help` needs none of these
    from rich.live import Live

    from fd.results.running import read_running

    console = Console()

    def look() -> Group:
        return view(read_running(scratch), scratch, console.width)

    if once or not sys.stdout.isatty():
        console.print(look())
        return
    try:
        with Live(look(), console=console, screen=True, auto_refresh=False) as shown:
            while True:
                time.sleep(every)
                shown.update(look(), refresh=True)
    except signals.Interrupted as stop:
        if stop.number != signal.SIGINT:
            raise


def view(runs: Sequence[Running], scratch: Path, width: int) -> Group:
    """A table per run, a row per seed, a curve per metric; `width`: columns of the terminal."""
    from rich.console import Group
    from rich.text import Text

    if not runs:
        return Group(Text(f"{scratch}: no run is in progress"))
    return Group(*(part for run in runs for part in (Text(_title(run), style="bold"), _table(run, width))))


def _title(run: Running) -> str:
    last = f"last row {_duration(run.age)} ago" if run.step else "no row yet"
    return f"{run.cell.label}: step {run.step} of {run.cell.steps}, on {run.cell.host}, {last}"


def _table(run: Running, width: int) -> Table:
    from rich.table import Table

    cell, table = run.cell, Table(box=None, padding=(0, 2, 0, 0))
    shown = [name for name in METRICS if name in run.rows and not (name == "q_mean" and "q" in run.rows)]
    table.add_column("seed", justify="right")
    scales = {name: _scale(run.rows[name].dropna().tolist()) for name in shown}
    for name in shown:
        budget = f" / budget {cell.budget:g}" if name == "penalty" and cell.budget else ""
        table.add_column(name.replace("_", " ") + budget + (" (log)" if scales[name][2] else ""))
    points = max((width - 6) // max(len(shown), 1) - 12, 4)
    for seed in sorted(run.rows["seed"].unique()):
        rows, cells = run.rows[run.rows["seed"] == seed], []
        for name in shown:
            values = rows[name].dropna().tolist()
            over = cell.budget is not None and name == "penalty" and bool(values) and values[-1] > cell.budget
            cells.append(_curve(values, scales[name], points, style="red" if over else ""))
        table.add_row(f"{seed:.0f}", *cells)
    return table


def _scale(values: Sequence[float]) -> tuple[float, float, bool]:
    """The lowest and the highest of the values of all seeds, and whether they are drawn by their logarithms."""
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    return low, high, low > 0 and high / low > 10**DECADES


def _curve(values: Sequence[float], scale: tuple[float, float, bool], points: int, *, style: str) -> Text:
    """A curve of at most that many characters, each the mean over neighbouring rows, and the last value."""
    from rich.text import Text

    low, high, by_log = scale
    place = math.log if by_log else float
    span = place(high) - place(low)
    count = min(points, len(values))
    curve = ""
    for at in range(count):
        part = values[at * len(values) // count : (at + 1) * len(values) // count]
        height = (place(sum(part) / len(part)) - place(low)) / span if span else 0.5
        curve += BARS[min(int(height * len(BARS)), len(BARS) - 1)]
    return Text(f"{curve} {values[-1]:.3g}" if values else "", style=style)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
