"""How long the cells of a suite take on k GPUs: an estimate from the times of cells that ran, or else from their training steps."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import mean

from fd.cluster.cells import Cell
from fd.cluster.resources import Resources
from fd.cluster.submission import Submission
from fd.settings.online_settings import finetuning
from fd.settings.refine_settings import Refine
from fd.settings.settings_file import SettingsFile
from fd.settings.simulation_settings import Evaluate
from fd.settings.training_settings import Pretrain

PRETRAIN = 0.19  # FLOP of a step of pretraining by those of a step of refinement; docs/speed.md
EPISODE = 200  # simulator steps of an episode, as docs/speed.md counts
SIMULATED = 2327.0  # simulator steps in a second on two cores; docs/speed.md


@dataclass(frozen=True)
class Time:
    """Seconds of a cell, and where they come from: `measured`, `mean of n` or `computed`."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """Seconds until the last cell ends, GPU-seconds and core-seconds."""

    makespan: float
    gpu: float
    core: float


def measured(submissions: Iterable[Submission]) -> dict[str, float]:
    """Seconds of the cells that ran in submissions, by name; of several runs the latest."""
    found: dict[str, float] = {}
    for submission in submissions:
        for name in submission.cells:
            state = submission.state(name)
            if state.get("ran") and state.get("attempts") == 1:
                found.setdefault(name, state["seconds"])
    return found


def times(
    cells: Mapping[str, Cell],
    ran: Mapping[str, float],
    settings: SettingsFile,
    resources: Mapping[str, Resources],
    step: float,
) -> dict[str, Time]:
    """Times of cells.

    Args:
        cells: by name.
        ran: seconds of cells that were measured.
        settings: of the suite.
        resources: by kind; on a share of a GPU, a computed time is that of a whole one divided by the share.
        step: seconds of a step of refinement on one GPU, for all seeds.
    """
    kinds: dict[str, list[float]] = {}
    for name in cells.keys() & ran.keys():
        kinds.setdefault(cells[name].kind, []).append(ran[name])
    found = {}
    for name, cell in cells.items():
        if name in ran:
            found[name] = Time(ran[name], "measured")
        elif cell.kind in kinds:
            found[name] = Time(mean(kinds[cell.kind]), f"mean of {len(kinds[cell.kind])}")
        else:
            found[name] = Time(_computed(cell, settings, step) / min(resources[cell.kind].gpus or 1, 1), "computed")
    return found


def _computed(cell: Cell, settings: SettingsFile, step: float) -> float:
    """Seconds by the formula of docs/speed.md; 0 for kinds that it leaves out, such as downloads."""
    named = dict(re.findall(r"--(task|method) (\S+)", cell.command))
    task, method = named.get("task"), named.get("method")
    if cell.kind == "pretrain":
        return PRETRAIN * step * settings.section(Pretrain, "pretrain", task).steps
    if task is None or method is None:
        return 0.0
    online = cell.kind in ("finetune", "evaluate-online")
    training = finetuning(settings, task, method) if online else settings.section(Refine, "refine", task, method)
    if cell.kind in ("refine", "finetune"):
        return step * training.steps
    snapshots = training.steps // training.evaluate_every
    episodes = snapshots * settings.section(Evaluate, "evaluate", task).episodes * len(settings.seeds)
    return episodes * EPISODE / SIMULATED


def estimate(
    cells: Mapping[str, Cell],
    seconds: Mapping[str, float],
    resources: Mapping[str, Resources],
    *,
    gpus: float,
    cores: float,
) -> Estimate:
    """Run the cells on paper: whenever something is free, those begin first after which the longest chain of cells is left.

    Args:
        cells: by name, in the order of the pipeline.
        seconds: of each.
        resources: by kind; none needs more than there is.
        gpus: in all.
        cores: in all.
    """
    tail = {name: 0.0 for name in cells}
    for name in reversed(list(cells)):
        for need in cells[name].needs:
            tail[need] = max(tail[need], tail[name] + seconds[name])
    rank = sorted(cells, key=lambda name: -tail[name] - seconds[name])
    waiting = {name: {need for need in cells[name].needs if need in cells} for name in rank}
    running: list[tuple[float, str]] = []
    clock = 0.0
    while waiting or running:
        for name in [name for name, needs in waiting.items() if not needs]:
            needed = resources[cells[name].kind]
            if needed.gpus <= gpus + 1e-9 and needed.cores <= cores:
                del waiting[name]
                gpus, cores = gpus - needed.gpus, cores - needed.cores
                heapq.heappush(running, (clock + seconds[name], name))
        clock, name = heapq.heappop(running)
        gpus, cores = gpus + resources[cells[name].kind].gpus, cores + resources[cells[name].kind].cores
        for needs in waiting.values():
            needs.discard(name)
    used = [(seconds[name], resources[cell.kind]) for name, cell in cells.items()]
    return Estimate(clock, sum(s * n.gpus for s, n in used), sum(s * n.cores for s, n in used))


def lines(
    cells: Mapping[str, Cell], found: Mapping[str, Time], total: Estimate, gpus: float, cores: int
) -> Iterator[str]:
    """A line for each kind and source of times, then the sums."""
    groups: dict[tuple[str, str], list[float]] = {}
    for name, cell in cells.items():
        groups.setdefault((cell.kind, found[name].source), []).append(found[name].seconds)
    for (kind, source), seconds in groups.items():
        yield f"{kind}: {len(seconds)} cells, {_hours(mean(seconds))} each, {_hours(sum(seconds))} in all ({source})"
    yield f"{gpus:g} GPUs, {cores} cores: {_hours(total.makespan)}, {_hours(total.gpu)} of GPU, {_hours(total.core)} of core"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h"
