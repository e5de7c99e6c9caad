"""Published hyperparameters as values of the sections of params.yaml, each with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fd.errors import FdError
from fd.reference.tasks import read_table
from fd.storage.untrusted import read_yaml

SETTING_COLUMNS = ("datasets", "method", "key", "value", "source")


@dataclass(frozen=True)
class Hyperparameter:
    """A published value of a key of a section.

    `datasets` is a pattern of the data sets that it applies to, `method` a method of this project, or `all`; `text` is
    the value in YAML.
    """

    datasets: str
    method: str
    section: str
    key: str
    value: Any
    text: str
    source: str


def hyperparameters(folder: Path, files: Sequence[str] = ("settings.csv",)) -> tuple[Hyperparameter, ...]:
    """All published hyperparameters in these files of the folder, in their order.

    Raises:
        FdError: a file is malformed.
    """
    found = []
    for place, row in (row for file in files for row in read_table(folder / file, SETTING_COLUMNS)):
        section, _, key = row["key"].partition(".")
        if not key or (section != "refine" and row["method"] != "all"):
            raise FdError(
                f"{place}: key {row['key']!r} of method {row['method']!r}, allowed: refine.<key>; for method all: <section>.<key>"
            )
        value = read_yaml(row["value"], place)
        found.append(Hyperparameter(row["datasets"], row["method"], section, key, value, row["value"], row["source"]))
    return tuple(found)


def of_dataset(published: Sequence[Hyperparameter], *names: str) -> tuple[Hyperparameter, ...]:
    """Hyperparameters for a data set of any of these names; of several with one method, section and key, the first."""
    found: dict[tuple[str, str, str], Hyperparameter] = {}
    for item in published:
        if any(fnmatchcase(name, item.datasets) for name in names):
            found.setdefault((item.method, item.section, item.key), item)
    return tuple(found.values())
