"""Tasks of the benchmark, and the reader of the tables in reference/."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd.errors import FdError
from fd.storage.untrusted import read_text

MOST_BYTES = 2**22  # of a table; the longest has 180,000

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


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of the benchmark.

    Attributes:
        name: name of its entry in a settings file.
        suites: names of the suites that it belongs to.
        family: group of tasks for which papers report one mean; a name in scores.csv.
        source: where its data come from, "ogbench" or "minari".
        dataset: name of its data set there.
        published: its name in the offline rows of scores.csv; `published_o2o` is that in the online rows, "" if in none.
        observation: shape, [O] or [H, W, C].
        actions: number of action dimensions.
        horizon: steps of an evaluation episode.
        score: "success" or "return" (normalised).
        facts: source of shape, horizon and score.
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


def benchmark(folder: Path) -> tuple[BenchmarkTask, ...]:
    """Tasks of the folder's tasks.csv.

    Raises:
        FdError: the file is malformed, or a task appears twice.
    """
    tasks: dict[str, BenchmarkTask] = {}
    for place, row in read_table(folder / "tasks.csv", TASK_COLUMNS):
        name = row["task"]
        if name in tasks:
            raise FdError(f"{place}: duplicate task {name!r}, allowed: each once")
        numbers = {key: whole_number(row[key], place) for key in ("actions", "horizon")}
        shape = tuple(whole_number(size, place) for size in row["observation"].split())
        words: dict[str, Any] = {key: text for key, text in row.items() if key != "task"}
        tasks[name] = BenchmarkTask(
            name=name, **(words | numbers | {"suites": tuple(row["suites"].split()), "observation": shape})
        )
    return tuple(tasks.values())


def find_task(tasks: Sequence[BenchmarkTask], dataset: str) -> BenchmarkTask | None:
    """The task of a data set, given by its name at its source or in scores.csv; None if there is none."""
    return next((task for task in tasks if dataset in (task.dataset, task.published)), None)


def read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
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


def table_number(text: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise FdError(f"{place}: {text[:80]!r} is not a number") from None
    if not math.isfinite(number):
        raise FdError(f"{place}: {text[:80]!r}, allowed: finite numbers")
    return number


def whole_number(text: str, place: str) -> int:
    number = table_number(text, place)
    if number < 1 or number % 1:
        raise FdError(f"{place}: {text[:80]!r}, allowed: whole numbers from 1")
    return int(number)
