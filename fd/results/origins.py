"""Where results come from: data, machine, versions and time of every stage, checked against the grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd.errors import FdError, one_line
from fd.results.grid import Grid
from fd.storage.files import read_record
from fd.storage.transitions import Manifest, read_manifest

FLOW = "flow.safetensors"  # as fd.storage.tensors, which needs torch; reports do without


@dataclass(frozen=True)
class RecordedMachine:
    """A machine as reports show it; `gpu` is None if the stage used no GPU."""

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None


@dataclass(frozen=True)
class Record:
    """A stage's record of one of its runs; `steps_per_second` of simulators, for evaluations only."""

    seconds: float
    machine: RecordedMachine
    versions: dict[str, str]
    steps_per_second: float | None
    data_sha256: Any  # of every array of the data, by name; None if a stage does not record it
    files: dict[str, str]  # SHA-256 of the files that the stage made, by name

    @property
    def device(self) -> str:
        """Name of the GPU that the stage used, or `cpu`."""
        return self.machine.gpu or "cpu"

    def weights(self) -> dict[str, str]:
        """The entries of `files` that hold tensors."""
        return {name: sha256 for name, sha256 in self.files.items() if name.endswith(".safetensors")}

    def flow(self) -> str | None:
        """SHA-256 of the finished behaviour flow."""
        return self.files.get(FLOW)


@dataclass(frozen=True)
class Provenance:
    """Records of every cell of the grid, by (task, method), and of every task's data and behaviour policy."""

    manifests: dict[str, Manifest]
    pretrain: dict[str, Record]
    refine: dict[tuple[str, str], Record]
    evaluate: dict[tuple[str, str], Record]
    device: str  # that trained all of them

    def records(self) -> dict[str, list[Record]]:
        """Records of every stage that keeps time, in the order of the pipeline."""
        stages: dict[str, Mapping[Any, Record]] = {
            "pretrain": self.pretrain,
            "refine": self.refine,
            "evaluate": self.evaluate,
        }
        return {name: list(records.values()) for name, records in stages.items()}

    def versions(self) -> dict[str, list[str]]:
        """All versions of each package that the data and the records name, sorted by package."""
        of_stages = [record.versions for records in self.records().values() for record in records]
        return merged([*(data.versions for data in self.manifests.values()), *of_stages])


def merged(parts: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """All versions of each package that the parts name, sorted by package."""
    found: dict[str, dict[str, None]] = {}
    for versions in parts:
        for package, version in versions.items():
            found.setdefault(package, {})[version] = None
    return {package: list(found[package]) for package in sorted(found)}


def mixed(versions: Mapping[str, list[str]]) -> list[str]:
    """A warning for the top of a page if its numbers were made with several versions of a package, else nothing."""
    several = "; ".join(f"{package} {' and '.join(found)}" for package, found in versions.items() if len(found) > 1)
    return [f"**Mixed versions: {several}. The scores may not be comparable with each other.**"] if several else []


def one_device(trained: Mapping[Path, Record]) -> str:
    """The device that trained all cells with these records, by path; FdError if there are several, as their random numbers differ."""
    (first, record), *others = trained.items()
    for path, other in others:
        if other.device != record.device:
            raise FdError(
                f"{path}: was trained on {other.device}, but {first} on {record.device}, and their random numbers differ"
                " (allowed: one device for all, see compute.device)"
            )
    return record.device


def gather_provenance(plan: Grid, *, data: Path, behaviour: Path, runs: Path, evals: Path) -> Provenance:
    """Provenance of the grid of the plan, from the four folders of the pipeline.

    Raises:
        FdError: a record is missing, corrupt or lacks a field; its dataset, task, method, seeds or data do not match the plan
            and the manifest; its flow is not the pretrained one; its weights are not those of the run; or cells were trained
            on several devices.
    """
    manifests, pretrain = dict[str, Manifest](), dict[str, Record]()
    refine, evaluate = dict[tuple[str, str], Record](), dict[tuple[str, str], Record]()
    trained = dict[Path, Record]()
    for task in plan.tasks:
        folder = data / task.name
        manifest = manifests[task.name] = read_manifest(folder)
        if manifest.dataset != task.dataset:
            raise FdError(f"{folder}: dataset {manifest.dataset!r}, but params.yaml says {task.dataset!r}")
        wanted = {"task": task.name, "seeds": list(plan.seeds), "data_sha256": manifest.sha256}
        path = behaviour / f"{task.name}.json"
        pretrain[task.name] = trained[path] = read_stage_record(path, wanted)
        for method in plan.methods:
            key = task.name, method
            of_run = {"method": method, "flow_sha256": pretrain[task.name].flow()}
            path = runs / task.name / f"{method}.json"
            refine[key] = trained[path] = read_stage_record(path, wanted | of_run)
            of_cell = {"task": task.name, "method": method, "data_sha256": manifest.sha256}
            of_cell |= {"weights": refine[key].weights()}
            evaluate[key] = read_stage_record(evals / task.name / f"{method}.json", of_cell)
    return Provenance(manifests, pretrain, refine, evaluate, one_device(trained))


def _field(values: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in values:
        raise FdError(f"{path}: field {name!r} is missing")
    return values[name]


def read_stage_record(path: Path, wanted: Mapping[str, Any]) -> Record:
    """The record in a file, whose fields must have the wanted values.

    Raises:
        FdError: the file or a field is missing, or a field does not have the wanted value.
    """
    values = read_record(path, "every task and method of params.yaml needs one")
    for name, value in wanted.items():
        if (given := _field(values, name, path)) != value:
            told = f"is {one_line(repr(given))}, but {value!r} is needed"
            told = {"data_sha256": "belongs to different data", "weights": "do not match the run"}.get(name, told)
            raise FdError(f"{path}: {name} {told}; run this stage again")
    made = (_field(values, name, path) for name in ("machine", "versions", "files", "seconds"))
    machine, versions, files, seconds = made
    rate = values.get("steps_per_second")
    try:
        cpu, cores, memory = str(machine["cpu"]), int(machine["cores"]), float(machine["memory_gib"])
        named = {str(package): str(version) for package, version in versions.items()}
        place = RecordedMachine(cpu, cores, memory, machine["gpu"])
        speed = None if rate is None else float(rate)
        return Record(float(seconds), place, named, speed, values.get("data_sha256"), dict(files))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FdError(f"{path}: machine, versions, files or seconds are malformed: {error!r}") from None
