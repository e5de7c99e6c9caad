"""Tasks of the benchmark, published scores with the rule for when one may stand beside ours, published hyperparameters.

A figure is comparable when it belongs to the same data (the dataset's name is equal, and the set is the
published one, not one regenerated under its name) and to the same protocol (the same evaluated steps in the
score, the same number of episodes).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fd.errors import FdError
from fd.storage.untrusted import read_text, read_yaml

MOST_BYTES = 2**22  # of a table; the longest has 180,000

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
TASK_COLUMNS = (
    "task",
    "suites",
    "family",
    "source",
    "dataset",
    "published",
    "published_o2o",
    "observation",
    "actions",
    "horizon",
    "score",
    "facts",
)
PROTOCOL_COLUMNS = ("source", "tasks", "final_steps", "episodes", "success_timing")


@dataclass(frozen=True)
class Setting:
    """How one task is run here."""

    dataset: str
    source: str  # generate, ogbench, minari or d4rl
    differs: (
        str | None
    )  # in what its data or simulator are others than those of the published set; None where they are not
    final_steps: tuple[int, ...]  # training steps whose evaluations make the score
    episodes: int  # of one evaluation
    success_timing: str  # pre or post


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        name: of its entry in a file of settings.
        suites: names of the suites that it belongs to.
        family: the tasks that papers give one mean of; a name of scores.csv.
        source: where its data come from, "ogbench" or "minari".
        dataset: its set's name there.
        published: its name in the offline tables of scores.csv; `published_o2o` in the online ones, "" in none.
        observation: shape, [O] or [H, W, C].
        actions: dimensions.
        horizon: steps of an evaluation episode.
        score: "success" or "return" (normalised).
        facts: where shape, horizon and score come from.
    """

    name: str
    suites: tuple[str, ...]
    family: str
    source: str
    dataset: str
    published: str
    published_o2o: str
    observation: tuple[int, ...]
    actions: int
    horizon: int
    score: str
    facts: str


@dataclass(frozen=True)
class Figure:
    """A published score of one task; of a family of tasks or the whole, whose name is `dataset` then.

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
    """Offline figures of tasks, of families and of all OGBench state tasks, the protocols of their sources, and the benchmark."""

    figures: tuple[Figure, ...]
    families: tuple[Figure, ...]
    aggregates: tuple[Figure, ...]
    protocols: tuple[Protocol, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Hyperparameter:
    """A published value of a key of a section.

    `datasets` is the pattern that it is given for, `method` a method of this project, or `all`; `text` is the value in
    YAML.
    """

    datasets: str
    method: str
    section: str
    key: str
    value: Any
    text: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """Figures that may stand beside a task's scores, perhaps none, and one sentence that says why."""

    figures: tuple[Figure, ...]
    note: str


def load(folder: Path) -> Reference:
    """Reference of the folder's scores.csv, protocols.csv and tasks.csv.

    Raises:
        FdError: a file or column is missing, or a value is not what its column holds.
    """
    figures: dict[str, list[Figure]] = {"task": [], "family": [], "aggregate": []}
    protocols = []
    for place, row in table(folder / "scores.csv", SCORE_COLUMNS):
        if row["scope"] not in figures:
            raise FdError(f"{place}: scope {row['scope']!r}, allowed: {', '.join(figures)}")
        if row["protocol"] == "offline":
            spread = _number(row["spread"], place) if row["spread"] else None
            mean, secondary = _number(row["mean"], place), row["status"] == "secondary"
            figure = Figure(row["method"], row["name"], mean, spread, row["seeds"], row["source"], secondary)
            figures[row["scope"]].append(figure)
    for place, row in table(folder / "protocols.csv", PROTOCOL_COLUMNS):
        steps = tuple(_whole(step, place) for step in row["final_steps"].split())
        episodes = _whole(row["episodes"], place)
        protocols.append(Protocol(row["source"], row["tasks"], steps, episodes, row["success_timing"]))
    tasks, families, aggregates = (tuple(figures[scope]) for scope in ("task", "family", "aggregate"))
    return Reference(tasks, families, aggregates, tuple(protocols), benchmark(folder))


def benchmark(folder: Path) -> tuple[Task, ...]:
    """Tasks of the folder's tasks.csv.

    Raises:
        FdError: the file is not as it should be, or a task stands twice.
    """
    tasks: dict[str, Task] = {}
    for place, row in table(folder / "tasks.csv", TASK_COLUMNS):
        name = row["task"]
        if name in tasks:
            raise FdError(f"{place}: task {name!r} stands twice, allowed: each once")
        numbers = {key: _whole(row[key], place) for key in ("actions", "horizon")}
        shape = tuple(_whole(size, place) for size in row["observation"].split())
        words: dict[str, Any] = {key: text for key, text in row.items() if key != "task"}
        tasks[name] = Task(
            name=name, **(words | numbers | {"suites": tuple(row["suites"].split()), "observation": shape})
        )
    return tuple(tasks.values())


def find(tasks: Sequence[Task], dataset: str) -> Task | None:
    """The task of a dataset, which may have the name that our source or that scores.csv knows it by; None where there is none."""
    return next((task for task in tasks if dataset in (task.dataset, task.published)), None)


def hyperparameters(folder: Path, files: Sequence[str] = ("settings.csv",)) -> tuple[Hyperparameter, ...]:
    """All that the papers set, from files of the folder, in their order.

    Raises:
        FdError: a file is not as it should be.
    """
    found = []
    for place, row in (row for file in files for row in table(folder / file, SETTING_COLUMNS)):
        section, _, key = row["key"].partition(".")
        if not key or (section != "refine" and row["method"] != "all"):
            raise FdError(
                f"{place}: key {row['key']!r} of {row['method']!r}, allowed: refine.<key>, and of all <section>.<key>"
            )
        value = read_yaml(row["value"], place)
        found.append(Hyperparameter(row["datasets"], row["method"], section, key, value, row["value"], row["source"]))
    return tuple(found)


def of_dataset(published: Sequence[Hyperparameter], dataset: str) -> tuple[Hyperparameter, ...]:
    """What is published for a dataset; of several that match, the first of a method, section and key."""
    found: dict[tuple[str, str, str], Hyperparameter] = {}
    for item in published:
        if fnmatchcase(dataset, item.datasets):
            found.setdefault((item.method, item.section, item.key), item)
    return tuple(found.values())


def compare(reference: Reference, setting: Setting, methods: Sequence[str]) -> Comparison:
    """Figures of the methods (names of this project) that are comparable with scores of that setting.

    The reward's timing is not part of the rule: it moves rewards by one step of an episode, and the note says
    so.
    """
    if reason := obstacle(reference, setting):
        return Comparison((), reason)
    same = [figure for figure in _known(reference, setting) if _same_protocol(reference, figure, setting)]
    names = {METHODS[method] for method in methods if method in METHODS}
    chosen = tuple(figure for figure in same if figure.method in names)
    timing = {_measured(reference, figure).success_timing for figure in chosen} - {setting.success_timing}
    note = "published figures of the same data and protocol" if chosen else "no published figure for these methods"
    if timing:
        note += f"; their rewards have success_timing {', '.join(sorted(timing))}, ours {setting.success_timing}"
    return Comparison(chosen, note)


def obstacle(reference: Reference, setting: Setting) -> str:
    """Why no published figure is comparable with scores of that setting; "" where some are."""
    if setting.differs:
        return f"{setting.differs}: no published figure is comparable"
    known = _known(reference, setting)
    if not known:
        return "there is no published figure for this data set"
    if setting.source == "generate":
        return f"{REGENERATED}: no published figure is comparable"
    if not any(_same_protocol(reference, figure, setting) for figure in known):
        return f"no published figure has this protocol ({_protocol(setting)}): none is comparable"
    return ""


def _known(reference: Reference, setting: Setting) -> list[Figure]:
    return [figure for figure in reference.figures if figure.dataset == setting.dataset]


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


def table(path: Path, columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """(place, row) for each row of a CSV file with exactly these columns."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, MOST_BYTES), newline=""))
        if tuple(reader.fieldnames or ()) != columns:
            raise FdError(f"{path}: columns {','.join(reader.fieldnames or ())!r}, allowed: {','.join(columns)!r}")
        rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise FdError(f"{path}: cannot be read: {error}") from None
    for place, row in rows:
        if None in row or None in row.values():
            raise FdError(f"{place}: {len(columns)} values are needed ({','.join(columns)})")
    return rows


def _number(text: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise FdError(f"{place}: {text[:80]!r} is not a number") from None
    if not math.isfinite(number):
        raise FdError(f"{place}: {text[:80]!r}, allowed: finite numbers")
    return number


def _whole(text: str, place: str) -> int:
    number = _number(text, place)
    if number < 1 or number % 1:
        raise FdError(f"{place}: {text[:80]!r}, allowed: whole numbers from 1")
    return int(number)
