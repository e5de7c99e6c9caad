"""A cell, and the cells of a project with what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]  # of a stage in dvc.lock


@dataclass(frozen=True)
class Cell:
    """A cached stage.

    Attributes:
        name: of the stage, for example `refine@umaze-fidec`.
        kind: its name in dvc.yaml, for example `refine`.
        needs: names of the cells whose outputs it reads.
        command: that DVC runs.
    """

    name: str
    kind: str
    needs: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Pipeline:
    """The cells of a project in the order in which `dvc repro` runs them.

    Attributes:
        cells: by name; those that match the globs, and all that these need.
        kinds: of all stages of dvc.yaml.
        done: entry of every cell that needs no run, as its outputs are of the present settings, code and data.
        sources: files and folders that cells and the stages before them read and no cell makes.
        cache: DVC's cache.
    """

    cells: dict[str, Cell]
    kinds: list[str]
    done: dict[str, Entry]
    sources: list[str]
    cache: Path
