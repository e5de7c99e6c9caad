"""Makes the data folder of a task from the source that its parameters name: complete, or not at all."""

import json
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec

from fd.datasets import d4rl, generate, minari, ogbench
from fd.datasets.fetch import describe, remember, verified
from fd.settings.data_settings import (
    D4rlData,
    Data,
    Download,
    MinariData,
    OgbenchData,
    OracleData,
    PushData,
    RobotData,
    WaypointData,
)
from fd.storage.scratch import publish
from fd.storage.transitions import Manifest, Transitions, save_transitions, with_measures

PACKAGES = ("numpy", "mujoco", "ogbench", "minari", "gymnasium", "gymnasium-robotics")


@dataclass(frozen=True)
class PrepareJob:
    """How to make a data folder, whatever it holds.

    Attributes:
        label: name of the work in progress lines.
        download: folder and hosts of published files.
        workers: number of processes that collect episodes.
        scratch: folder for this job alone; it survives an interruption, so that the next attempt resumes.
        published: known SHA-256 of D4RL's published files, by the name of the data set.
    """

    label: str
    download: Download
    workers: int
    scratch: Path
    published: Mapping[str, str] = field(default_factory=dict)


def prepare(data: Data, folder: Path, job: PrepareJob) -> Manifest:
    """Make the data folder of a task; it replaces an existing one once it is complete.

    Raises:
        FdError: the source has no such set, cannot be reached, or holds unusable data.
        OSError: a file cannot be written, for example because its disk is full; names the file.
    """
    building = job.scratch / "folder"
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        arrays, facts = _fetch(data, building, job)
        manifest = _manifest(data, arrays, facts)
        save_transitions(building, arrays, manifest)
        publish(building, folder, job.scratch)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        with suppress(OSError):  # not empty while it holds episodes for the next attempt
            job.scratch.rmdir()
    return manifest


def _fetch(data: Data, folder: Path, job: PrepareJob) -> tuple[Transitions, dict[str, Any]]:
    """The arrays, and the facts about their source that the manifest adds to the parameters."""
    match data:
        case OgbenchData():
            name = ogbench.parse_name(data.dataset)
            path = ogbench.find_ogbench(name, job.download, label=job.label, hint=generate.hint(name))
            file = verified(path)
            arrays = ogbench.convert_ogbench(path, name)
            remember(path, file)  # after the conversion, so that the file of another set is not recorded
            return arrays, _ogbench_facts(name) | {"files": {path.name: file}}
        case MinariData():
            dataset = minari.find_minari(data)
            spec = minari.minari_spec(dataset, data)
            facts = _robot_facts(data, spec)
            if data.score == "return" and data.return_range is None:
                facts["return_range"] = minari.return_range(dataset)
            arrays = minari.convert_minari(dataset, data)
            minari.check_shapes(spec, data, arrays)
            paths = sorted(path for path in Path(dataset.storage.data_path).iterdir() if path.is_file())
            return arrays, facts | {"files": {path.name: describe(path) for path in paths}}
        case D4rlData():
            path, spec = d4rl.find_d4rl(data), d4rl.d4rl_spec(data)
            file = verified(path)
            arrays = d4rl.convert_d4rl(path, data)
            minari.check_shapes(spec, data, arrays)
            remember(path, file)
            file |= {"verified": file["sha256"] == job.published.get(data.dataset)}
            return arrays, _robot_facts(data, spec) | {"files": {path.name: file}}
        case OracleData():
            work = generate.Work(folder, job.scratch / "episodes", job.workers, job.label)
            return generate.oracle(data, work), _ogbench_facts(ogbench.parse_name(data.dataset))
        case WaypointData():
            work = generate.Work(folder, job.scratch / "episodes", job.workers, job.label)
            arrays, spec = generate.walks(data, work)
            return arrays, _environment(spec, data.observation)
        case PushData():
            work = generate.Work(folder, job.scratch / "episodes", job.workers, job.label)
            arrays, spec = generate.pushes(data, work)
            return arrays, _environment(spec, ()) | {"score": "return", "return_range": list(data.return_range)}


def _ogbench_facts(name: ogbench.Name) -> dict[str, Any]:
    """Facts of an OGBench task; since ogbench 1.2.0, the 50 state tasks reward the state before the step."""
    spec = ogbench.task_spec(name)
    return {
        "environment": {"suite": "ogbench", "name": name.task},
        "horizon": spec.max_episode_steps,
        "success_timing": spec.kwargs.get("success_timing", "post"),
    }


def _robot_facts(data: RobotData, spec: EnvSpec) -> dict[str, Any]:
    """Facts of a task of gymnasium-robotics, with the spec of its evaluation environment."""
    facts = _environment(spec, data.observation) | {"score": data.score, "differs": data.differs}
    if data.reward == "dense":  # a mask of 0 is a failure here, and a success is not marked
        facts["successes"] = None
    return facts if data.return_range is None else facts | {"return_range": list(data.return_range)}


def _environment(spec: EnvSpec, observation: tuple[str, ...]) -> dict[str, Any]:
    """Facts of an evaluation environment of gymnasium-robotics."""
    return {
        "environment": {"suite": "minari", "spec": json.loads(spec.to_json()), "observation": list(observation)},
        "horizon": spec.max_episode_steps,
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
        "versions": data_versions(),
        "seed": getattr(data, "seed", None),
        "validation_episodes": getattr(data, "validation_episodes", 0),
        "files": {},
    }
    return Manifest(**(values | with_measures(arrays) | facts))


def data_versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers of a set depend on."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
