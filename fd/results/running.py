"""Runs in progress, from what training writes into its scratch folder."""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from fd.errors import FdError, one_line
from fd.settings.messages import validated
from fd.storage.files import read_record
from fd.storage.unfinished import ANNOUNCED, PROGRESS
from fd.storage.untrusted import read_text

MOST_BYTES = 2**27  # of a log; a million steps of 8 seeds with a row every 200 steps have 2**23


class Announced(BaseModel):
    """What a stage writes about a cell when it begins."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    label: Annotated[str, Field(pattern=r"^[a-z0-9 -]+$", max_length=200)]  # stage, task and method
    host: Annotated[str, Field(pattern=r"^[\w.-]*$", max_length=255)]
    steps: Annotated[int, Field(ge=1)]
    budget: float | None  # of the mean penalty


@dataclass(frozen=True)
class Running:
    """A run in progress, or interrupted.

    Attributes:
        cell: what it is.
        age: seconds since its last row.
        rows: its log so far: columns step, seed and those metrics that it has.
    """

    cell: Announced
    age: float
    rows: pd.DataFrame

    @property
    def step(self) -> int:
        """The last step that has a row; 0: none has."""
        return int(self.rows["step"].max()) if len(self.rows) else 0


def read_running(root: Path) -> list[Running]:
    """The runs in a scratch folder, by name.

    Raises:
        FdError: there is no such folder, or a file in it is damaged.
    """
    if not root.is_dir():
        raise FdError(f"{root}: no such folder, so no stage has run here; allowed: .scratch of a project")
    found = []
    for path in sorted(root.glob(f"*/{ANNOUNCED}")):
        try:
            found.append(_read(path))
        except (FdError, OSError):
            if path.exists():  # else the run was finished meanwhile
                raise
    return found


def _read(path: Path) -> Running:
    cell, log = validated(Announced, read_record(path), str(path)), path.with_name(PROGRESS)
    if not log.exists():  # it draws base actions into a bank
        return Running(cell, max(time.time() - path.stat().st_mtime, 0), pd.DataFrame(columns=["step", "seed"]))
    age = max(time.time() - log.stat().st_mtime, 0)
    whole, _, _ = read_text(log, MOST_BYTES).rpartition("\n")  # the last line may be half written
    try:
        rows = pd.read_csv(io.StringIO(whole + "\n"), dtype=float).replace([math.inf, -math.inf], math.nan)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise FdError(f"{log}: not a log: {one_line(error)}") from None
    if not {"step", "seed"} <= set(rows) or rows[["step", "seed"]].isna().any(axis=None):
        raise FdError(f"{log}: not a log, allowed: the columns step and seed in every row")
    return Running(cell, age, rows.dropna(axis="columns", how="all") if len(rows) else rows)
