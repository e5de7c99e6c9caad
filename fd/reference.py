"""Published scores, with the rule for when one may stand beside ours, and published hyperparameters.

A figure is comparable when it belongs to the same data (the dataset's name is equal, and the set is the
published one, not one regenerated under its name) and to the same protocol (the same evaluated steps in the
score, the same number of episodes).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fd.errors import FdError

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
REGENERATED = "the data are a regenerated, smaller set, not the published one of that name"
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
SETTING_COLUMNS = ("datasets", "method", "key", "value", "source")
PROTOCOL_COLUMNS = ("source", "tasks", "final_steps", "episodes", "success_timing")


@dataclass(frozen=True)
class Setting:
    """How one task is run here."""

    dataset: str
    source: str  # generate, ogbench or minari
    final_steps: tuple[int, ...]  # training steps whose evaluations make the score
    episodes: int  # of one evaluation
    success_timing: str  # pre or post


@dataclass(frozen=True)
class Figure:
    """A published score of one task.

    `spread` is None where the source gives none; `secondary` says that it was read at second hand.
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
    """How the figures of a source were measured, for the tasks that match a shell pattern."""

    source: str
    tasks: str
    final_steps: tuple[int, ...]
    episodes: int
    success_timing: str


@dataclass(frozen=True)
class Reference:
    """Per-task offline figures, and the protocols of their sources."""

    figures: tuple[Figure, ...]
    protocols: tuple[Protocol, ...]


@dataclass(frozen=True)
class Hyperparameter:
    """A published value of a key of the section `refine`; `method` is a method of this project, or `all`."""

    method: str
    key: str
    value: float | bool | str
    source: str


@dataclass(frozen=True)
class Comparison:
    """Figures that may stand beside a task's scores, perhaps none, and one sentence that says why."""

    figures: tuple[Figure, ...]
    note: str


def load(folder: Path) -> Reference:
    """Reference of the folder's scores.csv and protocols.csv.

    Raises:
        FdError: a file or column is missing, or a value is not what its column holds.
    """
    figures, protocols = [], []
    for place, row in _table(folder / "scores.csv", SCORE_COLUMNS):
        if (row["scope"], row["protocol"]) == ("task", "offline"):
            spread = _number(row["spread"], place) if row["spread"] else None
            mean, secondary = _number(row["mean"], place), row["status"] == "secondary"
            figures.append(Figure(row["method"], row["name"], mean, spread, row["seeds"], row["source"], secondary))
    for place, row in _table(folder / "protocols.csv", PROTOCOL_COLUMNS):
        steps = tuple(int(_number(step, place)) for step in row["final_steps"].split())
        episodes = int(_number(row["episodes"], place))
        protocols.append(Protocol(row["source"], row["tasks"], steps, episodes, row["success_timing"]))
    return Reference(tuple(figures), tuple(protocols))


def hyperparameters(folder: Path, dataset: str) -> tuple[Hyperparameter, ...]:
    """What the papers set for a dataset, from the folder's settings.csv; of several rows that match, the first of a method and key.

    Raises:
        FdError: the file is not as it should be.
    """
    found: dict[tuple[str, str], Hyperparameter] = {}
    for place, row in _table(folder / "settings.csv", SETTING_COLUMNS):
        name = row["method"], row["key"]
        if fnmatchcase(dataset, row["datasets"]) and name not in found:
            words: dict[str, bool | str] = {"true": True, "false": False, "mean": "mean", "min": "min"}
            text = row["value"]
            value = words[text] if text in words else int(text) if text.isdigit() else _number(text, place)
            found[name] = Hyperparameter(*name, value, row["source"])
    return tuple(found.values())


def compare(reference: Reference, setting: Setting, methods: Sequence[str]) -> Comparison:
    """Figures of the methods (names of this project) that are comparable with scores of that setting.

    The reward's timing is not part of the rule: it moves rewards by one step of an episode, and the note says
    so.
    """
    known = [figure for figure in reference.figures if figure.dataset == setting.dataset]
    if not known:
        return Comparison((), "there is no published figure for this data set")
    if setting.source == "generate":
        return Comparison((), f"{REGENERATED}: no published figure is comparable")
    same = [figure for figure in known if _same_protocol(reference, figure, setting)]
    if not same:
        return Comparison((), f"no published figure has this protocol ({_protocol(setting)}): none is comparable")
    names = {METHODS[method] for method in methods if method in METHODS}
    chosen = tuple(figure for figure in same if figure.method in names)
    timing = {_measured(reference, figure).success_timing for figure in chosen} - {setting.success_timing}
    note = "published figures of the same data and protocol" if chosen else "no published figure for these methods"
    if timing:
        note += f"; their rewards have success_timing {', '.join(sorted(timing))}, ours {setting.success_timing}"
    return Comparison(chosen, note)


def _same_protocol(reference: Reference, figure: Figure, setting: Setting) -> bool:
    if not any(_covers(protocol, figure) for protocol in reference.protocols):
        return False
    measured = _measured(reference, figure)
    return (measured.final_steps, measured.episodes) == (setting.final_steps, setting.episodes)


def _measured(reference: Reference, figure: Figure) -> Protocol:
    return next(protocol for protocol in reference.protocols if _covers(protocol, figure))


def _covers(protocol: Protocol, figure: Figure) -> bool:
    return protocol.source == figure.source and fnmatchcase(figure.dataset, protocol.tasks)


def _protocol(setting: Setting) -> str:
    return f"{setting.episodes} episodes at steps {', '.join(map(str, setting.final_steps))}"


def _table(path: Path, columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """(place, row) for each row of a CSV file with exactly these columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != columns:
                raise FdError(f"{path}: columns {','.join(reader.fieldnames or ())!r}, allowed: {','.join(columns)!r}")
            rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FdError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for place, row in rows:
        if None in row or None in row.values():
            raise FdError(f"{place}: {len(columns)} values are needed ({','.join(columns)})")
    return rows


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FdError(f"{place}: {text!r} is not a number") from None
