"""The constraint during training, from a run's train.csv."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fd.errors import FdError, one_line
from fd.storage.files import read_output

COLUMNS = ("dual", "penalty", "delta2")  # of a method with a constraint
END = 0.1  # share of training that counts as its end; the pages say "the last tenth"
TENTHS = 10
POINTS = 200  # of a drawn line


@dataclass(frozen=True)
class TrainingLog:
    """Rows (step, seed and the requested columns) of one run, all seeds."""

    rows: pd.DataFrame

    def end(self) -> dict[str, float]:
        """Mean of each column over seeds and the end of training."""
        last = self.rows[self.rows["step"] > (1 - END) * self.rows["step"].max()]
        return {column: float(mean) for column, mean in last.drop(columns=["step", "seed"]).mean().items()}

    def tenths(self, column: str) -> dict[int, float]:
        """Means over seeds and each tenth of training that has a row: tenth, from 1 to 10 -> mean."""
        tenth = (TENTHS * self.rows["step"] / self.rows["step"].max()).apply(math.ceil)
        means = self.rows.groupby(tenth)[column].mean()
        return dict(zip(map(int, means.index), map(float, means), strict=True))

    def band(self, column: str) -> pd.DataFrame:
        """Columns step, mean, low, high: mean and range over seeds, in at most 200 points.

        A point is the mean over neighbouring steps.
        """
        table = self.rows.pivot(index="step", columns="seed", values=column).sort_index().reset_index()
        points = min(len(table), POINTS)
        block = pd.Series(range(len(table)), index=table.index) * points // len(table)
        table = table.groupby(block).mean()
        seeds = table.drop(columns="step")
        columns = {
            "step": table["step"],
            "mean": seeds.mean(axis=1),
            "low": seeds.min(axis=1),
            "high": seeds.max(axis=1),
        }
        return pd.DataFrame(columns)


def read_training_log(path: Path, seeds: tuple[int, ...], columns: Sequence[str] = COLUMNS) -> TrainingLog:
    """These columns of the training log of a run, checked against the record of the run; other columns are ignored.

    Raises:
        FdError: the file, the record or a column is missing, the file does not match its record, a value is not a number, or
            a seed is missing, surplus or has a step twice.
    """
    content = read_output(path, Path(f"{path.parent}.json"))
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise FdError(f"{path}: not a CSV file: {one_line(error)}") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus values for row labels
        raise FdError(f"{path}: not a CSV file: its rows are longer than its header")
    needed = ["step", "seed", *columns]
    if absent := [column for column in needed if column not in frame]:
        raise FdError(f"{path}: column {absent[0]!r} is missing, needed: {', '.join(needed)}")
    rows = frame[needed].apply(pd.to_numeric, errors="coerce")
    if rows.isna().any(axis=None):
        line, column = next((i, c) for c in needed for i in rows.index[rows[c].isna()])
        raise FdError(f"{path}:{line + 2}: {column} is {frame[column][line]!r}, allowed: a number")
    if set(rows["seed"]) != set(seeds):
        found = sorted(int(seed) for seed in set(rows["seed"]))
        raise FdError(f"{path}: seeds {found}, but params.yaml asks for seeds {list(seeds)}; refine it again")
    if rows.duplicated(["step", "seed"]).any():
        raise FdError(f"{path}: a step of a seed appears twice")
    return TrainingLog(rows)
