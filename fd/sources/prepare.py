"""The data folder of a task from whichever source its parameters name: whole, or not at all."""

import errno
import hashlib
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fd.environments import make
from fd.errors import FdError
from fd.params import Data, Download, MinariData, OgbenchData, OracleData, WaypointData
from fd.scratch import publish
from fd.sources import generate, minari, ogbench
from fd.transitions import Manifest, Transitions, measured, save

PACKAGES = ("numpy", "mujoco", "ogbench", "minari", "gymnasium", "gymnasium-robotics")


@dataclass(frozen=True)
class Job:
    """How a data folder is made, apart from what it holds.

    Attributes:
        label: what the progress is called.
        download: where published files are fetched from.
        workers: processes that collect.
        scratch: folder of this work alone, kept when it is stopped, for the next time.
    """

    label: str
    download: Download
    workers: int
    scratch: Path


def prepare(data: Data, folder: Path, job: Job) -> Manifest:
    """Make the data folder of a task; one that is there is replaced once the new one is complete.

    Raises:
        FdError: the source has no such set, cannot be reached, holds unusable data, or the disk is full.
    """
    building = job.scratch / "folder"
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        arrays, facts = _fetch(data, building, job)
        manifest = _manifest(data, arrays, facts)
        save(building, arrays, manifest)
        publish(building, folder, job.scratch)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise FdError(f"{folder}: no space left on the disk that holds {job.scratch.resolve()}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
        with suppress(OSError):  # it holds episodes for the next time
            job.scratch.rmdir()
    return manifest


def _fetch(data: Data, folder: Path, job: Job) -> tuple[Transitions, dict[str, Any]]:
    """The arrays, and what the manifest says of their source beyond the parameters."""
    match data:
        case OgbenchData():
            name = ogbench.parse(data.dataset)
            path = ogbench.find(name, job.download, label=job.label, hint=generate.hint(name))
            return ogbench.convert(path, name), _ogbench_facts(name) | {"files": {path.name: describe(path)}}
        case MinariData():
            dataset = minari.find(data.dataset)
            arrays = minari.convert(dataset, observation=data.observation, reward=data.reward)
            facts = _minari_facts(minari.evaluation_spec(dataset), data.observation)
            if data.score == "return":
                facts |= {"score": "return", "return_range": minari.return_range(dataset)}
            paths = sorted(path for path in Path(dataset.storage.data_path).iterdir() if path.is_file())
            return arrays, facts | {"files": {path.name: describe(path) for path in paths}}
        case OracleData():
            work = generate.Work(folder, job.scratch / "episodes", job.workers, job.label)
            return generate.oracle(data, work), _ogbench_facts(ogbench.parse(data.dataset))
        case WaypointData():
            work = generate.Work(folder, job.scratch / "episodes", job.workers, job.label)
            arrays, spec = generate.walks(data, work)
            return arrays, _minari_facts(spec, data.observation)


def _ogbench_facts(name: ogbench.Name) -> dict[str, Any]:
    """Facts of an OGBench task; its reward is that of the state before the step since ogbench 1.2.0."""
    env = make(name.task)
    assert env.spec is not None
    horizon = env.spec.max_episode_steps
    env.close()
    return {
        "environment": {"suite": "ogbench", "name": name.task},
        "horizon": horizon,
        "success_timing": "pre",
    }


def _minari_facts(spec: dict[str, Any], observation: tuple[str, ...]) -> dict[str, Any]:
    """Facts of a Minari task, from the spec of its evaluation environment."""
    return {
        "environment": {"suite": "minari", "spec": spec, "observation": list(observation)},
        "horizon": spec["max_episode_steps"],
        "success_timing": "post",
    }


def _manifest(data: Data, arrays: Transitions, facts: dict[str, Any]) -> Manifest:
    """The manifest of the arrays."""
    values: dict[str, Any] = {
        "source": data.source,
        "dataset": data.dataset,
        "collector": getattr(data, "collector", None),
        "score": "success",
        "return_range": None,
        "versions": versions(),
        "seed": getattr(data, "seed", None),
        "validation_episodes": getattr(data, "validation_episodes", 0),
        "files": {},
    }
    return Manifest(**(values | facts | measured(arrays)))


def versions() -> dict[str, str]:
    """Versions of what the numbers of a set depend on."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
