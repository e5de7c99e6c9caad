"""A baseline: saved scores of a suite, seed by seed, with their settings, versions and device, and the hashes of their data.

The current scores take the same form, so a comparison takes two baselines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from fd.errors import FdError
from fd.results.episode_scores import Evaluations
from fd.results.estimates import Results
from fd.results.origins import Provenance
from fd.results.statistics import Floats
from fd.settings.fields import Count, Form, Strict
from fd.settings.settings_file import SettingsFile
from fd.storage.files import digest, write_text
from fd.storage.transitions import Manifest
from fd.storage.untrusted import read_text

MOST = 2**24  # bytes of a baseline; one of three tasks, four methods and three seeds has 10,000

Sha256 = Annotated[str, Form(r"^[0-9a-f]{64}$", "a SHA-256: 64 hexadecimal digits", longest=64)]
Number = Annotated[float, Field(allow_inf_nan=False)]
SECTIONS = ("seeds", "tasks", "methods", "network", "pretrain", "refine", "evaluate")  # scores depend on these


class Successes(Strict):
    """Successes of one seed in the evaluations that make up its score, on a task that is scored by success."""

    episodes: Count
    successes: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _possible(self) -> Successes:
        if self.successes > self.episodes:
            raise ValueError(f"{self.successes} successes of {self.episodes} episodes, allowed: 0 to {self.episodes}")
        return self

    @property
    def share(self) -> float:
        """The score divided by 100."""
        return self.successes / self.episodes


class Returns(Strict):
    """Score of one seed on a task that is scored by return: the normalised return in percent."""

    episodes: Count
    score: Number

    @property
    def share(self) -> float:
        """The score divided by 100."""
        return self.score / 100


class BaselineMethod(Strict):
    """Scores of a method on a task by seed, and the SHA-256 of the table of episodes that they were read from."""

    evaluations_sha256: Sha256
    seeds: Annotated[dict[str, Successes | Returns], Field(min_length=1)]


class BaselineTask(Strict):
    """Methods of a task, and the SHA-256 of every array of its data."""

    data_sha256: dict[str, str]
    methods: Annotated[dict[str, BaselineMethod], Field(min_length=1)]

    @property
    def episodes(self) -> int:
        """Episodes of a seed's score, for the seed that has the fewest."""
        return min(seed.episodes for method in self.methods.values() for seed in method.seeds.values())

    @property
    def by_success(self) -> bool:
        """Whether the task is scored by success."""
        return all(isinstance(seed, Successes) for method in self.methods.values() for seed in method.seeds.values())


class Baseline(Strict):
    """Scores of a whole suite; every task has the same methods, and every method the same seeds."""

    suite: str
    versions: dict[str, list[str]]
    device: str  # that trained them: `cpu`, or the name of the GPU
    settings: dict[str, Any]
    tasks: Annotated[dict[str, BaselineTask], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole_grid(self) -> Baseline:
        tasks = list(self.tasks.values())
        methods = list(tasks[0].methods)
        seeds = list(tasks[0].methods[methods[0]].seeds)
        for name, task in self.tasks.items():
            if list(task.methods) != methods:
                raise ValueError(f"tasks.{name}.methods: {list(task.methods)}, but other tasks have {methods}")
            for method, cell in task.methods.items():
                if list(cell.seeds) != seeds:
                    raise ValueError(
                        f"tasks.{name}.methods.{method}.seeds: {list(cell.seeds)}, but others have {seeds}"
                    )
        return self

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return list(next(iter(self.tasks.values())).methods)

    def shares(self) -> Floats:
        """Scores divided by 100, [tasks, methods, seeds]."""
        return np.array(
            [
                [[seed.share for seed in method.seeds.values()] for method in task.methods.values()]
                for task in self.tasks.values()
            ]
        )


def measured_baseline(values: SettingsFile, results: Results, provenance: Provenance, evals: Path) -> Baseline:
    """The current scores of a suite, from its evaluations in `evals`."""
    plan = results.plan
    tasks = {}
    for task in plan.tasks:
        manifest = provenance.manifests[task.name]
        methods = {
            method: BaselineMethod(
                evaluations_sha256=digest(evals / task.name / f"{method}.csv"),
                seeds=_seeds(results.evaluations[task.name, method], task.final_evaluations, manifest),
            )
            for method in plan.methods
        }
        tasks[task.name] = BaselineTask(data_sha256=manifest.sha256, methods=methods)
    settings = {section: values.at(section) for section in SECTIONS}
    return Baseline(
        suite=plan.suite, versions=provenance.versions(), device=provenance.device, settings=settings, tasks=tasks
    )  # fmt: skip


def _seeds(found: Evaluations, last: int, manifest: Manifest) -> dict[str, Successes | Returns]:
    """Scores of the seeds over the last evaluations."""
    scores = found.scores[:, -last:].reshape(len(found.cell.seeds), -1)
    seeds: dict[str, Successes | Returns] = {}
    for seed, row in zip(found.cell.seeds, scores, strict=True):
        if manifest.score == "success":
            seeds[str(seed)] = Successes(episodes=row.size, successes=int((row == 100).sum()))
        else:
            seeds[str(seed)] = Returns(episodes=row.size, score=float(row.mean()))
    return seeds


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline atomically."""
    write_text(path, json.dumps(baseline.model_dump(mode="json"), indent=1) + "\n")


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        FdError: the file is missing or is not a baseline.
    """
    if not path.exists():
        raise FdError(f"{path}: no such file; `python -m stages.regress --update` creates it from evaluations")
    try:
        return Baseline.model_validate_json(read_text(path, MOST))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        told = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise FdError(f"{path}: {': '.join(part for part in (place, told) if part)}") from None
