"""Where results come from: data, machine, versions and time of every stage, checked against the grid."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd.errors import FdError
from fd.report.plan import Plan
from fd.transitions import Manifest, read_manifest


@dataclass(frozen=True)
class Machine:
    """A machine in a reader's words; `gpu` None where the stage used none."""

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None


@dataclass(frozen=True)
class Record:
    """What a stage wrote down about one of its runs; `steps_per_second` of simulators, in evaluations only."""

    seconds: float
    machine: Machine
    versions: dict[str, str]
    steps_per_second: float | None
    data_sha256: Any  # of every array of the data, by name; None where a stage does not write it down


@dataclass(frozen=True)
class Provenance:
    """Records of every cell of the grid, by (task, method), and of every task's data and behaviour policy."""

    manifests: dict[str, Manifest]
    pretrain: dict[str, Record]
    refine: dict[tuple[str, str], Record]
    evaluate: dict[tuple[str, str], Record]

    def records(self) -> dict[str, list[Record]]:
        """Records of every stage that keeps time, in the order of the pipeline."""
        stages: dict[str, Mapping[Any, Record]] = {
            "pretrain": self.pretrain,
            "refine": self.refine,
            "evaluate": self.evaluate,
        }
        return {name: list(records.values()) for name, records in stages.items()}

    def versions(self) -> dict[str, list[str]]:
        """Every version of each package that the data and the records name, packages in order."""
        of_stages = [record.versions for records in self.records().values() for record in records]
        return merged([*(data.versions for data in self.manifests.values()), *of_stages])


def merged(parts: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Every version of each package that the parts name, packages in order."""
    found: dict[str, dict[str, None]] = {}
    for versions in parts:
        for package, version in versions.items():
            found.setdefault(package, {})[version] = None
    return {package: list(found[package]) for package in sorted(found)}


def mixed(versions: Mapping[str, list[str]]) -> list[str]:
    """The first line of a page whose numbers were made with several versions of a package; none where they were not."""
    several = "; ".join(f"{package} {' and '.join(found)}" for package, found in versions.items() if len(found) > 1)
    return [f"**Mixed versions: {several}. The scores may not be comparable with each other.**"] if several else []


def gather(plan: Plan, *, data: Path, behaviour: Path, runs: Path, evals: Path) -> Provenance:
    """Provenance of the grid of the plan, from the four folders of the pipeline.

    Raises:
        FdError: a record is missing or lacks a field, or names another dataset, task, method, seeds or data
            than the plan and the manifest.
    """
    found = Provenance({}, {}, {}, {})
    for task in plan.tasks:
        folder = data / task.name
        manifest = found.manifests[task.name] = read_manifest(folder)
        if manifest.dataset != task.dataset:
            raise FdError(f"{folder}: dataset {manifest.dataset!r}, but params.yaml says {task.dataset!r}")
        wanted = {"task": task.name, "seeds": list(plan.seeds), "data_sha256": manifest.sha256}
        found.pretrain[task.name] = record(behaviour / f"{task.name}.json", wanted)
        for method in plan.methods:
            key = task.name, method
            found.refine[key] = record(runs / task.name / f"{method}.json", wanted | {"method": method})
            of_cell = {"task": task.name, "method": method, "data_sha256": manifest.sha256}
            found.evaluate[key] = record(evals / task.name / f"{method}.json", of_cell)
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FdError(f"{path}: no such file; every task and method of params.yaml needs one") from None
    except ValueError as error:
        raise FdError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(values, dict):
        raise FdError(f"{path}: holds {type(values).__name__}, allowed: an object")
    return values


def _field(values: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in values:
        raise FdError(f"{path}: field {name!r} is missing")
    return values[name]


def record(path: Path, wanted: Mapping[str, Any]) -> Record:
    """The record in a file whose fields have the wanted values.

    Raises:
        FdError: the file or a field is missing, or a field is not what is wanted.
    """
    values = _load(path)
    for name, value in wanted.items():
        if (given := _field(values, name, path)) != value:
            told = "of other data" if isinstance(value, dict) else f"{given!r}, but {value!r} is needed"
            raise FdError(f"{path}: {name} is {told}; run this stage again")
    machine, versions, seconds = (_field(values, name, path) for name in ("machine", "versions", "seconds"))
    rate = values.get("steps_per_second")
    try:
        cpu, cores, memory = str(machine["cpu"]), int(machine["cores"]), float(machine["memory_gib"])
        named = {str(package): str(version) for package, version in versions.items()}
        place = Machine(cpu, cores, memory, machine["gpu"])
        return Record(float(seconds), place, named, None if rate is None else float(rate), values.get("data_sha256"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FdError(f"{path}: machine, versions or seconds are malformed: {error!r}") from None
