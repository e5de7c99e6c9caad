"""Scores by the protocol, from the table of episodes of one task and method.

The score of a seed is the mean over its last `final_evaluations` evaluations and their episodes; no evaluation
is picked. If the table lacks anything that the protocol requires, an error names it: nothing is skipped.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.storage.files import read_output

COLUMNS = ("seed", "step", "episode", "return", "success", "length", "score")


@dataclass(frozen=True)
class EvaluatedCell:
    """Required evaluations of one task and method: every step of every seed, `episodes` episodes each."""

    task: str
    method: str
    seeds: tuple[int, ...]
    steps: tuple[int, ...]  # training steps at which the policy was evaluated, ascending
    episodes: int


@dataclass(frozen=True)
class Evaluations:
    """Scores of the episodes of one cell: `scores` [S, T, E], in the order of its seeds and steps."""

    cell: EvaluatedCell
    scores: NDArray[np.float64]

    def curve(self) -> NDArray[np.float64]:
        """Score of every seed at every evaluated step, [S, T]."""
        return np.asarray(self.scores.mean(axis=2))

    def final(self, evaluations: int) -> NDArray[np.float64]:
        """Score of every seed over the last `evaluations` evaluated steps, [S].

        Raises:
            FdError: there are fewer evaluated steps.
        """
        if not 1 <= evaluations <= len(self.cell.steps):
            raise FdError(
                f"evaluate.final_evaluations: {evaluations}, but {self.cell.task}/{self.cell.method} has"
                f" {len(self.cell.steps)} evaluations (allowed: 1 to {len(self.cell.steps)})"
            )
        return np.asarray(self.curve()[:, -evaluations:].mean(axis=1))


def read_episodes(folder: Path, cell: EvaluatedCell) -> Evaluations:
    """Evaluations of a cell, from `folder/<task>/<method>.csv`, checked against the record beside it.

    Raises:
        FdError: the file, its record or one of its columns is missing; the file does not match its record; a value is not
            a finite number; or the rows are not exactly the episodes of the cell (the first one missing, surplus or
            duplicate is named).
    """
    path = folder / cell.task / f"{cell.method}.csv"
    found = _rows(path)
    wanted = set(product(cell.seeds, cell.steps, range(cell.episodes)))
    if surplus := sorted(found.keys() - wanted):
        raise FdError(f"{path}: {_place(surplus[0])} is not part of params.yaml ({_grid(cell)}); evaluate it again")
    if missing := sorted(wanted - found.keys()):
        raise FdError(f"{path}: {_gap(cell, found, missing[0])} is missing (needed: {_grid(cell)})")
    shape = (len(cell.seeds), len(cell.steps), cell.episodes)
    ordered = [found[key] for key in product(cell.seeds, cell.steps, range(cell.episodes))]
    return Evaluations(cell, np.array(ordered, dtype=np.float64).reshape(shape))


def _rows(path: Path) -> dict[tuple[int, int, int], float]:
    """Score of each (seed, step, episode) of the file."""
    content = read_output(path, path.with_suffix(".json"))
    try:
        reader = csv.DictReader(io.StringIO(content.decode(), newline=""))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise FdError(f"{path}: columns {','.join(reader.fieldnames or ())!r}, allowed: {','.join(COLUMNS)!r}")
        found: dict[tuple[int, int, int], float] = {}
        for row in reader:
            key, score = _parse(row, f"{path}:{reader.line_num}")
            if key in found:
                raise FdError(f"{path}:{reader.line_num}: {_place(key)} appears twice")
            found[key] = score
    except (UnicodeDecodeError, csv.Error) as error:
        raise FdError(f"{path}: not a CSV file: {error}") from None
    return found


def _parse(row: dict[str, str], place: str) -> tuple[tuple[int, int, int], float]:
    try:
        key = int(row["seed"]), int(row["step"]), int(row["episode"])
        score = float(row["score"])
    except (TypeError, ValueError):
        values = ",".join(str(value) for value in row.values())
        raise FdError(f"{place}: {values!r} is not a row of numbers ({','.join(COLUMNS)})") from None
    if not math.isfinite(score):
        raise FdError(f"{place}: score {row['score']}, allowed: a finite number")
    return key, score


def _gap(cell: EvaluatedCell, found: dict[tuple[int, int, int], float], first: tuple[int, int, int]) -> str:
    """The largest missing unit that includes the first missing episode: its seed, its evaluation, or the episode."""
    seed, step, episode = first
    if not any(key[0] == seed for key in found):
        return f"seed {seed}"
    if not any(key[:2] == (seed, step) for key in found):
        return f"the evaluation of seed {seed} at step {step}"
    return _place((seed, step, episode))


def _place(key: tuple[int, int, int]) -> str:
    return f"seed {key[0]}, step {key[1]}, episode {key[2]}"


def _grid(cell: EvaluatedCell) -> str:
    seeds, steps = (", ".join(map(str, values)) for values in (cell.seeds, cell.steps))
    return f"seeds {seeds}; steps {steps}; {cell.episodes} episodes each"
