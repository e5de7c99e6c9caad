"""Published scores, and the rule for when they are comparable with ours.

A published score is comparable if it has the same data (the data set has the same name, and is the published one, not
one regenerated under its name or a file of D4RL's form that is not verified) and the same protocol (the same
evaluated steps in the score, the same number of episodes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fd.errors import FdError
from fd.reference.tasks import BenchmarkTask, benchmark, read_table, table_number, whole_number

# Our method -> its name in the papers. `bc` has none: the papers' BC is a Gaussian policy, ours is the flow.
METHODS = {
    "fql": "FQL",
    "ifql": "IFQL",
    "iql": "IQL",
    "rebrac": "ReBRAC",
    "deflow": "DeFlow",
    "fidec": "FiDec",
    "fidec-official": "FiDec",
}
REGENERATED = "the data are regenerated, not the published set of that name"
UNVERIFIED = "the file is not verified, its SHA-256 is not known to be that of the published one"
SCORE_COLUMNS = (
    "method",
    "scope",
    "name",
    "protocol",
    "mean",
    "spread",
    "spread_kind",
    "seeds",
    "source",
    "status",
)
PROTOCOL_COLUMNS = ("source", "tasks", "final_steps", "episodes", "success_timing")


@dataclass(frozen=True)
class Setting:
    """How one task is run here."""

    dataset: str
    source: str  # generate, ogbench, minari or d4rl
    differs: str | None  # how its data or simulator differ from the published ones; None if they do not
    final_steps: tuple[int, ...]  # training steps whose evaluations make the score
    episodes: int  # of one evaluation
    success_timing: str  # pre or post
    verified: bool = True  # False for a file that nobody knows to be the published one


@dataclass(frozen=True)
class PublishedFigure:
    """A published score of one task, or of a family or all tasks, with the name in `dataset`.

    `spread` is None if the source gives none; `secondary` marks a score from a secondary source.
    """

    method: str
    dataset: str
    mean: float
    spread: float | None
    seeds: str
    source: str
    secondary: bool


@dataclass(frozen=True)
class Protocol:
    """How the scores of a source were measured, for the tasks that match a shell pattern."""

    source: str
    tasks: str
    final_steps: tuple[int, ...]
    episodes: int
    success_timing: str


@dataclass(frozen=True)
class Reference:
    """Offline scores of tasks, of families and of all OGBench state tasks, the protocols of their sources, and the benchmark tasks."""

    figures: tuple[PublishedFigure, ...]
    families: tuple[PublishedFigure, ...]
    aggregates: tuple[PublishedFigure, ...]
    protocols: tuple[Protocol, ...]
    tasks: tuple[BenchmarkTask, ...]


@dataclass(frozen=True)
class Comparison:
    """Published scores that are comparable with a task's scores, possibly none, and the reason in one sentence."""

    figures: tuple[PublishedFigure, ...]
    note: str


def load_reference(folder: Path) -> Reference:
    """Reference of the folder's scores.csv, protocols.csv and tasks.csv.

    Raises:
        FdError: a file or column is missing, or a value is invalid.
    """
    figures: dict[str, list[PublishedFigure]] = {"task": [], "family": [], "aggregate": []}
    protocols = []
    for place, row in read_table(folder / "scores.csv", SCORE_COLUMNS):
        if row["scope"] not in figures:
            raise FdError(f"{place}: scope {row['scope']!r}, allowed: {', '.join(figures)}")
        if row["protocol"] == "offline":
            spread = table_number(row["spread"], place) if row["spread"] else None
            mean, secondary = table_number(row["mean"], place), row["status"] == "secondary"
            figure = PublishedFigure(row["method"], row["name"], mean, spread, row["seeds"], row["source"], secondary)
            figures[row["scope"]].append(figure)
    for place, row in read_table(folder / "protocols.csv", PROTOCOL_COLUMNS):
        steps = tuple(whole_number(step, place) for step in row["final_steps"].split())
        episodes = whole_number(row["episodes"], place)
        protocols.append(Protocol(row["source"], row["tasks"], steps, episodes, row["success_timing"]))
    tasks, families, aggregates = (tuple(figures[scope]) for scope in ("task", "family", "aggregate"))
    return Reference(tasks, families, aggregates, tuple(protocols), benchmark(folder))


def compare_published(reference: Reference, setting: Setting, methods: Sequence[str]) -> Comparison:
    """Published scores of the methods (names of this project) that are comparable with scores of this setting.

    The reward's timing is not part of the rule: it shifts rewards by one step of an episode, and the note
    mentions it.
    """
    if reason := obstacle(reference, setting):
        return Comparison((), reason)
    same = [figure for figure in _known(reference, setting) if _same_protocol(reference, figure, setting)]
    names = {METHODS[method] for method in methods if method in METHODS}
    chosen = tuple(figure for figure in same if figure.method in names)
    timing = {_measured(reference, figure).success_timing for figure in chosen} - {setting.success_timing}
    note = "published scores of the same data and protocol" if chosen else "no published score for these methods"
    if timing:
        note += f"; their rewards have success_timing {', '.join(sorted(timing))}, ours {setting.success_timing}"
    return Comparison(chosen, note)


def obstacle(reference: Reference, setting: Setting) -> str:
    """Why no published score is comparable with scores of this setting; "" if some are."""
    if setting.differs:
        return f"{setting.differs}: no published score is comparable"
    known = _known(reference, setting)
    if not known:
        return "there is no published score for this data set"
    if setting.source == "generate":
        return f"{REGENERATED}: no published score is comparable"
    if not setting.verified:
        return f"{UNVERIFIED}: no published score is comparable"
    if not any(_same_protocol(reference, figure, setting) for figure in known):
        return f"no published score has this protocol ({_protocol(setting)}): none is comparable"
    return ""


def _known(reference: Reference, setting: Setting) -> list[PublishedFigure]:
    return [figure for figure in reference.figures if figure.dataset == setting.dataset]


def _same_protocol(reference: Reference, figure: PublishedFigure, setting: Setting) -> bool:
    if not any(_covers(protocol, figure) for protocol in reference.protocols):
        return False
    measured = _measured(reference, figure)
    return (measured.final_steps, measured.episodes) == (setting.final_steps, setting.episodes)


def _measured(reference: Reference, figure: PublishedFigure) -> Protocol:
    return next(protocol for protocol in reference.protocols if _covers(protocol, figure))


def _covers(protocol: Protocol, figure: PublishedFigure) -> bool:
    return protocol.source == figure.source and fnmatchcase(figure.dataset, protocol.tasks)


def _protocol(setting: Setting) -> str:
    return f"{setting.episodes} episodes at steps {', '.join(map(str, setting.final_steps))}"
