"""What the stage `film` made of a run: the paths of its last evaluation's episodes in a maze, and pictures of two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fd.errors import FdError
from fd.results.origins import Provenance
from fd.settings.fields import Strict
from fd.settings.messages import validated
from fd.settings.report_settings import Filmed
from fd.storage.files import read_output, read_record

RECORD = "film.json"
Point = tuple[float, float]


class Maze(Strict):
    """The map of a maze: rows of walls, 1 is a wall; centres of its first cell and of the cell diagonally next."""

    walls: tuple[tuple[Literal[0, 1], ...], ...]
    first: Point
    next: Point


class Walk(Strict):
    """An episode in a maze."""

    success: bool
    goal: Point
    points: tuple[Point, ...]


class Shot(Strict):
    """A filmed episode; `every`: steps from one frame to the next, None without pictures."""

    kind: Literal["success", "failure", "highest", "lowest"]
    seed: int
    episode: int
    return_: float
    length: int
    every: int | None


class FilmRecord(Strict):
    """The record of a cell; `differ`: episodes whose replay is not the evaluated one."""

    step: int
    episodes: int
    differ: int
    shots: tuple[Shot, ...]
    maze: Maze | None
    paths: tuple[Walk, ...]
    renderer: str | None
    unrendered: str | None


@dataclass(frozen=True)
class Film:
    """The record, and the files of pictures by name."""

    record: FilmRecord
    pictures: dict[str, bytes]


Films = Mapping[str, Mapping[str, Film]]  # by task and method


def gather_films(cells: Filmed, folder: Path, provenance: Provenance) -> Films:
    """The films of all cells, from `folder/<task>/<method>`; see `read_film`."""
    found: dict[str, dict[str, Film]] = {}
    for task in cells.tasks:
        for method in cells.methods:
            wanted = {"task": task, "method": method, "data_sha256": provenance.manifests[task].sha256}
            wanted |= {"weights": provenance.refine[task, method].weights()}
            found.setdefault(task, {})[method] = read_film(folder / task / method, wanted)
    return found


def read_film(folder: Path, wanted: Mapping[str, object]) -> Film:
    """The film in a folder, whose origin must have the wanted values.

    Raises:
        FdError: a file is missing or damaged, or the film is not of this run.
    """
    path = folder / RECORD
    values = read_record(path, "every task and method of the section film needs one")
    origin = {name: values.pop(name, None) for name in ("task", "method", "data_sha256", "weights")}
    for name, value in wanted.items():
        if origin[name] != value:
            raise FdError(f"{path}: {name} is not that of the run; run this stage again")
    names = list(values.pop("files", {}))
    record = validated(FilmRecord, values, str(path))
    return Film(record, {name: read_output(folder / name, path) for name in names})
