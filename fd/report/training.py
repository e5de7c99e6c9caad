"""The constraint during training, from a run's train.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fd.errors import FdError

COLUMNS = ("step", "seed", "dual", "penalty", "delta2")
END = 0.1  # share of training that counts as its end
POINTS = 200  # of a drawn line


@dataclass(frozen=True)
class Training:
    """Rows (step, seed, dual, penalty, delta2) of one run, all seeds."""

    rows: pd.DataFrame

    def end(self) -> dict[str, float]:
        """Mean of each column over seeds and the last tenth of the steps."""
        last = self.rows[self.rows["step"] > (1 - END) * self.rows["step"].max()]
        return {column: float(last[column].mean()) for column in ("dual", "penalty", "delta2")}

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


def read(path: Path, seeds: tuple[int, ...]) -> Training:
    """Training of a run that has a constraint.

    Raises:
        FdError: the file or a column is missing, a value is not a number, or a seed is missing, surplus or
            has a step twice.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise FdError(f"{path}: no such file; every task and method of params.yaml needs one") from None
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise FdError(f"{path}: not a CSV file: {' '.join(str(error).split())}") from None
    if absent := [column for column in COLUMNS if column not in frame]:
        raise FdError(f"{path}: column {absent[0]!r} is missing, needed: {', '.join(COLUMNS)}")
    rows = frame[list(COLUMNS)].apply(pd.to_numeric, errors="coerce")
    if rows.isna().any(axis=None):
        line, column = next((i, c) for c in COLUMNS for i in rows.index[rows[c].isna()])
        raise FdError(f"{path}:{line + 2}: {column} is {frame[column][line]!r}, allowed: a number")
    if set(rows["seed"]) != set(seeds):
        found = sorted(int(seed) for seed in set(rows["seed"]))
        raise FdError(f"{path}: seeds {found}, but params.yaml asks for seeds {list(seeds)}; refine it again")
    if rows.duplicated(["step", "seed"]).any():
        raise FdError(f"{path}: a step of a seed appears twice")
    return Training(rows)
