"""Where the numbers of a report come from: episodes, snapshot, data, settings and versions of every seed's score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fd.errors import FdError
from fd.method.spec import Spec
from fd.policy import snapshot_name
from fd.report.regression import leaves
from fd.report.tables import metrics_json
from fd.results.estimates import Results
from fd.results.origins import Provenance
from fd.settings.refine_settings import Refine, spec_of
from fd.settings.settings_file import SettingsFile
from fd.settings.simulation_settings import Evaluate
from fd.settings.training_settings import Network, Pretrain
from fd.storage.files import digest, read_record
from fd.storage.tensors import FLOW, read_tensors
from fd.storage.transitions import load_transitions


@dataclass(frozen=True)
class Folders:
    """Folders of the stages' outputs."""

    data: Path
    behaviour: Path
    runs: Path
    evals: Path


@dataclass(frozen=True)
class Choice:
    """Which scores are traced; `seeds` None: all seeds; `steps` None: the steps that make up the score."""

    tasks: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int] | None
    steps: Sequence[int] | None


def origins(
    values: SettingsFile, results: Results, provenance: Provenance, folders: Folders, choice: Choice
) -> Iterator[dict[str, Any]]:
    """The sources of each chosen cell (task, method), as JSON.

    This checks the arrays against their manifest, and the weights against the record of the evaluation.

    Raises:
        FdError: a task, method, seed or step is not part of the report, or a file is not the one that was evaluated.
    """
    plan = results.plan
    tasks = {task.name: task for task in plan.tasks}
    for name in choice.tasks:
        _known("tasks", name, tasks)
        for method in choice.methods:
            _known("methods", method, plan.methods)
            steps = choice.steps or tasks[name].final_steps
            for step in steps:
                _known(f"{name}: step", step, tasks[name].steps)
            seeds = choice.seeds or plan.seeds
            for seed in seeds:
                _known("seeds", seed, plan.seeds)
            yield _cell(results, name, method, seeds=seeds, steps=steps) | {
                "episodes": _file(folders.evals / name / f"{method}.csv"),
                "snapshots": _snapshots(values, results, folders, (name, method), steps),
                "data": _data(provenance, folders, name),
                "settings": _settings(values, name, method),
                "versions": {
                    "download": provenance.manifests[name].versions,
                    "pretrain": provenance.pretrain[name].versions,
                    "refine": provenance.refine[name, method].versions,
                    "evaluate": provenance.evaluate[name, method].versions,
                },
                "machines": {
                    "pretrain": asdict(provenance.pretrain[name].machine),
                    "refine": asdict(provenance.refine[name, method].machine),
                    "evaluate": asdict(provenance.evaluate[name, method].machine),
                },
            }


def check_metrics(path: Path, results: Results) -> None:
    """Check every number of a metrics.json against the evaluations.

    Raises:
        FdError: the file is missing or unreadable, or a number differs from the evaluations (the first one is named).
    """
    try:
        found = dict(leaves(json.loads(path.read_text(encoding="utf-8-sig"))))
    except FileNotFoundError as error:
        raise FdError(f"{path}: {error.strerror}; run the stage report") from None
    except (ValueError, RecursionError) as error:
        raise FdError(f"{path}: not a JSON file: {error}") from None
    wanted = dict(leaves(json.loads(metrics_json(results))))
    for key in dict.fromkeys([*wanted, *found]):
        if found.get(key) != wanted.get(key):
            shown = (found.get(key, "missing"), wanted.get(key, "nothing"))
            raise FdError(
                f"{path}: {key} is {shown[0]}, the evaluations give {shown[1]}; run the stage report again, or name a report"
                f" of the suite {results.plan.suite}"
            )


def _cell(results: Results, task: str, method: str, *, seeds: Sequence[int], steps: Sequence[int]) -> dict[str, Any]:
    """Scores of a cell by seed: the mean over the steps, and the score at each step."""
    cell = results.evaluations[task, method].cell
    curve = results.evaluations[task, method].curve()
    columns = [cell.steps.index(step) for step in steps]
    scores = {}
    for seed in seeds:
        row = curve[cell.seeds.index(seed), columns]
        at = {str(step): round(float(value), 2) for step, value in zip(steps, row, strict=True)}
        scores[str(seed)] = {"score": round(float(row.mean()), 2), "steps": at}
    return {"task": task, "method": method, "episodes_of_an_evaluation": cell.episodes, "seeds": scores}


def _snapshots(
    values: SettingsFile, results: Results, folders: Folders, cell: tuple[str, str], steps: Sequence[int]
) -> dict[str, Any]:
    """File and SHA-256 of the evaluated weights, by step, checked against the record of the evaluation."""
    task, method = cell
    run, record = folders.runs / task / method, folders.evals / task / f"{method}.json"
    evaluated = read_record(record).get("weights")
    if not isinstance(evaluated, dict):
        raise FdError(f"{record}: field 'weights' is missing or malformed; run the stage evaluate again")
    found: dict[str, Any] = {str(step): _file(run / snapshot_name(step)) for step in steps}
    if (run / FLOW).exists():
        found["flow"] = _file(run / FLOW)
    for weights in found.values():
        name = Path(weights["file"]).name
        if weights["sha256"] != evaluated.get(name):
            raise FdError(
                f"{weights['file']}: SHA-256 is {weights['sha256'][:12]}…, that of the evaluated file"
                f" {str(evaluated.get(name))[:12]}…; run the stage evaluate again"
            )
    for step in steps:
        _check_snapshot(values, results, run / snapshot_name(step), cell)
    return found


def _check_snapshot(values: SettingsFile, results: Results, path: Path, cell: tuple[str, str]) -> None:
    """FdError if a snapshot was trained with other seeds or settings than those of the report."""
    _, header = read_tensors(path)
    spec = asdict(Spec.from_record(header.get("spec"), str(path)))
    wanted = asdict(spec_of(values, *cell, obs_shape=spec["obs_shape"], act_dim=spec["act_dim"]))
    wanted["seeds"] = results.plan.seeds
    for name, value in (spec | {"seeds": tuple(header.get("seeds", ()))}).items():
        if value != wanted[name]:
            raise FdError(
                f"{path}: was trained with {name} {value}, the settings say {wanted[name]}; run the stage refine again"
            )


def _settings(values: SettingsFile, task: str, method: str) -> dict[str, Any]:
    """Every setting that the scores of a cell depend on, all overrides applied."""
    sections = {
        "network": values.section(Network, "network", task),
        "pretrain": values.section(Pretrain, "pretrain", task),
        "refine": values.section(Refine, "refine", task, method),
        "evaluate": values.section(Evaluate, "evaluate", task),
    }
    merged = {name: section.model_dump(mode="json") for name, section in sections.items()}
    given = values.at("methods", method)
    return merged | {"train": given["train"], "act": given["act"], "data": values.at("tasks", task, "data")}


def _data(provenance: Provenance, folders: Folders, task: str) -> dict[str, Any]:
    manifest = provenance.manifests[task]
    named = {"folder": str(folders.data / task), "source": manifest.source, "dataset": manifest.dataset}
    load_transitions(folders.data / task)  # checks the arrays against the manifest
    return named | {"sha256": manifest.sha256, "behaviour": _file(folders.behaviour / task / FLOW)}


def _file(path: Path) -> dict[str, str]:
    """A file and its SHA-256."""
    try:
        return {"file": str(path), "sha256": digest(path)}
    except FileNotFoundError as error:
        raise FdError(f"{path}: {error.strerror}; run the stage that makes it") from None


def _known(place: str, name: object, names: Sequence[object] | Mapping[str, object]) -> None:
    if name not in names:
        raise FdError(f"{place}: {name!r} is not part of the report, allowed: {', '.join(map(str, names))}")
