"""A made-up suite: its params.yaml and everything that the reports read, as the stages before them would leave it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from edits import write_params

from fd.storage.files import digest, digests, read_record, write_record
from fd.storage.tensors import FLOW
from fd.storage.transitions import Manifest
from fd.training.checkpoint import COLUMNS, LOG

ROOT = Path(__file__).parent.parent
SEEDS = (0, 4)
STEPS = (500, 1000, 1500, 2000)
EPISODES = 2
MACHINE = {"cpu": "Example CPU", "cores": 2, "memory_gib": 15.6, "gpu": None}
Score = Callable[[str, str, int, int, int], float]  # of (task, method, seed's index, step, episode)
Constraint = Callable[[str, str, int, int], tuple[float, float, float]]  # dual, penalty, delta2 of all but the episode
LOGGED = {"residual": ("dual", "penalty", "delta2"), "onestep": ("penalty",)}  # of the constraint, by policy


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    """A CSV file with that header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def edit_record(path: Path, *removed: str, **changes: Any) -> None:
    """Remove and change fields of a record."""
    values = read_record(path) | changes
    write_record(path, {name: value for name, value in values.items() if name not in removed})


def rewrite(path: Path, text: str) -> None:
    """Write a table of episodes or a log as its stage would, which tells the record beside it."""
    path.write_text(text)
    record = path.with_suffix(".json") if path.name != LOG else Path(f"{path.parent}.json")
    edit_record(record, files=read_record(record)["files"] | {path.name: digest(path)})


def manifest(dataset: str, source: str = "generate") -> Manifest:
    """A manifest of some set."""
    return Manifest(
        source=source,
        dataset=dataset,
        collector="play" if source == "generate" else None,
        environment={"suite": "ogbench", "name": dataset},
        horizon=200,
        score="success",
        return_range=None,
        success_timing="pre",
        versions={"mujoco": "4.0.0", "numpy": "2.4.0"},
        seed=0,
        episodes=100,
        validation_episodes=5,
        files={},
        transitions=100100,
        obs_shape=[28],
        act_dim=5,
        successes=1926,
        reward_sum=-98174.0,
        sha256={"actions": "00"},
    )


def write_log(path: Path, columns: Sequence[str], rows: dict[tuple[int, int], tuple[float, float, float]]) -> None:
    """A training log whose rows, by (step, seed), have of (dual, penalty, delta2) these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for (step, seed), numbers in rows.items():
            known = dict(zip(LOGGED["residual"], numbers, strict=True))
            table.writerow({"step": step, "seed": seed, "critic_loss": 0.5} | {name: known[name] for name in columns})


def write_cell(root: Path, params: dict[str, Any], cell: tuple[str, str], score: Score, constraint: Constraint) -> None:
    """Training log and evaluations of one (task, method)."""
    task, method = cell
    refine, train = params["refine"], params["methods"][method]["train"]
    seeds = list(enumerate(params["seeds"]))
    if train["policy"] != "flow" or train["critic"] != "none":
        logged = range(refine["log_every"], refine["steps"] + 1, refine["log_every"])
        rows = {(step, seed): constraint(task, method, i, step) for step in logged for i, seed in seeds}
        write_log(root / "runs" / task / method / "train.csv", LOGGED.get(train["policy"], ()), rows)
    evaluated = range(refine["evaluate_every"], refine["steps"] + 1, refine["evaluate_every"])
    values = [
        (seed, step, episode, 0, 0, 100, score(task, method, i, step, episode))
        for i, seed in seeds
        for step in evaluated
        for episode in range(params["evaluate"]["episodes"])
    ]
    write_csv(root / "evals" / task / f"{method}.csv", "seed,step,episode,return,success,length,score", values)


def write_suite(root: Path, params: dict[str, Any], *, score: Score, constraint: Constraint) -> None:
    """Everything that the reports read."""
    root.mkdir(parents=True, exist_ok=True)
    write_params(root, params)
    for task, entry in params["tasks"].items():
        data = entry["data"]
        told = asdict(manifest(data["dataset"], data["source"])) | {"arrays": "00"}
        write_record(root / "data" / task / "manifest.json", told)
        shared = {"task": task, "seeds": params["seeds"], "steps": params["refine"]["steps"], "machine": MACHINE}
        shared |= {"data_sha256": {"actions": "00"}, "versions": {"torch": "2.13.0", "numpy": "2.4.0"}}
        write_record(root / "behaviour" / f"{task}.json", shared | {"seconds": 61.2, "files": {FLOW: "00"}})
        of_flow = {"task": task, "seeds": params["seeds"], "data_sha256": {"actions": "00"}, "flow_sha256": "00"}
        write_record(root / "geometry" / f"{task}.json", of_flow | flow_shape(STEPS))
        evaluated = {"seconds": 20.0, "steps_per_second": 1234.0, "machine": MACHINE, "versions": {"mujoco": "4.0.0"}}
        for method in params["methods"]:
            write_cell(root, params, (task, method), score, constraint)
            run, table = root / "runs" / task / method, root / "evals" / task / f"{method}.csv"
            of_run = {"method": method, "seconds": 125.0, "flow_sha256": "00"}
            files = digests(run) if run.exists() else {}
            write_record(root / "runs" / task / f"{method}.json", shared | of_run | {"files": files})
            of_cell = {"task": task, "method": method, "data_sha256": {"actions": "00"}, "weights": {}}
            write_record(table.with_suffix(".json"), of_cell | evaluated | {"files": digests(table)})


def flow_shape(steps: Sequence[int], **changes: Any) -> dict[str, Any]:
    """What the stage `geometry` says of flows that no longer improve: k is 1.44 of a state and 9 within modes."""

    def spectrum(k: float) -> dict[str, Any]:
        axes = {"narrowest": [0.1, 0.2, 0.3], "widest": [0.1 * k**0.5, 0.2 * k**0.5, 0.3 * k**0.5]}
        return axes | {"condition": [k / 2 + 0.5, k, 3 * k], "floor": 0.0, "chance": 1.0}

    ks = {"state": 1.44, "state desmoothed": 2.88, "local": 4.0, "local desmoothed": 16.0, "within modes": 9.0}
    count = len(steps)
    return {
        "sample": {"time": 0.8, "states": 128, "actions": 32, "scores": 512},
        "steps": list(steps),
        "loss": {
            "unseen": False,
            "data": [0.5, 0.5],
            "means": [[0.5 + 0.1 / (at + 1)] * 2 for at in range(count)],
            "errors": [0.01] * count,
            "fall": [0.001, 0.001],
        },
        "conditions": [
            {"local": [1.0, 2.0, 3.0], "local desmoothed": [1.0, 5.0, 25.0], "within modes": [1.0, 3.0, 9.0]}
        ]
        * count,
        "spectra": {form: spectrum(k) for form, k in ks.items()},
        "bounded": 0.25,
        "saddles": 0.03,
        "within": 0.72,
        "modes": {"0": 0.1, "1": 0.6, "2": 0.3},
    } | changes


def suite_params(tasks: dict[str, str], methods: Sequence[str]) -> dict[str, Any]:
    """The committed params.yaml with other tasks (name -> dataset), methods and sizes."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    entry = next(task for task in params["tasks"].values() if task["data"].get("collector") in ("play", "navigate"))
    entry |= {"network": {}, "pretrain": {}, "refine": {}, "evaluate": {}}
    params["suite"] = "example"
    params["tasks"] = {name: entry | {"data": entry["data"] | {"dataset": dataset}} for name, dataset in tasks.items()}
    params["methods"] = {name: params["methods"][name] for name in methods}
    params["ablations"] = {}
    params["film"] = {"tasks": [], "methods": []}
    params["seeds"] = list(SEEDS)
    params["refine"] |= {
        "steps": STEPS[-1],
        "evaluate_every": STEPS[0],
        "log_every": 100,
        "target_divergence": 0.01,
    }
    params["evaluate"] |= {"episodes": EPISODES, "final_evaluations": 2}
    params["report"] |= {"confidence": 0.95, "bootstrap": 200, "seed": 0}
    return params
