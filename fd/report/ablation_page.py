"""An ablation compares methods that differ in one respect, on every task: a page, a CSV table and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd.report import ablation_figure, budget_curves
from fd.report.csv_text import csv_text
from fd.report.figures import cut, score_ranges
from fd.report.rendering import render_markdown
from fd.report.table import Table
from fd.report.text import clock, interval, plus_minus, significant
from fd.results import training_log
from fd.results.estimates import Results, gather_estimates, leaders
from fd.results.grid import Grid
from fd.results.origins import Record, merged, mixed, one_device, read_stage_record
from fd.settings.refine_settings import TRAIN, Refine
from fd.settings.report_settings import Ablation
from fd.settings.settings_file import SettingsFile
from fd.settings.simulation_settings import Act

LOGGED = {"residual": training_log.COLUMNS, "onestep": ("penalty",)}  # columns in the log, by policy
COLUMNS = ("delta2", "penalty", "dual")
TEMPLATE = "ablation_page.md.jinja"


@dataclass(frozen=True)
class Value:
    """One value of an ablation: its method, and the settings in which the methods of the ablation differ."""

    label: str
    method: str
    policy: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Axis:
    """An ablation: its name, its description and its values, in the order of params.yaml."""

    name: str
    about: str
    values: tuple[Value, ...]

    def methods(self) -> tuple[str, ...]:
        """Every method of the ablation once."""
        return tuple(dict.fromkeys(value.method for value in self.values))


@dataclass(frozen=True)
class AblationFindings:
    """Results of an ablation: scores; by (task, method), the log at the end of training and the seconds of refining; versions."""

    axis: Axis
    results: Results
    ends: dict[tuple[str, str], dict[str, float]]
    seconds: dict[tuple[str, str], float]
    versions: list[dict[str, str]]


def axis_of(settings: SettingsFile, name: str) -> Axis:
    """The ablation with this name; FdError if params.yaml has none."""
    ablation = settings.part(Ablation, "ablations", name)
    methods = tuple(dict.fromkeys(ablation.values.values()))
    overridden = tuple(dict.fromkeys(key for method in methods for key in settings.at("methods", method, "refine")))
    flat = {method: _settings(settings, method, overridden) for method in methods}
    keys = dict.fromkeys(key for found in flat.values() for key in found)
    differing = [key for key in keys if len({found.get(key) for found in flat.values()}) > 1]
    return Axis(
        name,
        ablation.about,
        tuple(
            Value(
                label,
                method,
                settings.part(TRAIN, "methods", method, "train").policy,
                {key: flat[method][key] for key in differing if key in flat[method]},
            )
            for label, method in ablation.values.items()
        ),
    )


def gather_ablation(axis: Axis, plan: Grid, *, evals: Path, runs: Path) -> AblationFindings:
    """Results of every task of the plan and every method of the ablation.

    Raises:
        FdError: a file, seed, evaluation or episode is missing, or methods of a task were trained on different data
            or devices.
    """
    found = AblationFindings(axis, gather_estimates(plan, evals), {}, {}, [])
    trained = dict[Path, Record]()
    logged = {value.method: LOGGED.get(value.policy, ()) for value in axis.values}
    for task in plan.tasks:
        wanted: dict[str, Any] = {"task": task.name, "seeds": list(plan.seeds)}
        for method, columns in logged.items():
            key, folder = (task.name, method), runs / task.name
            log = (
                training_log.read_training_log(folder / method / "train.csv", plan.seeds, columns).end()
                if columns
                else {}
            )
            found.ends[key] = log
            path = folder / f"{method}.json"
            refined = trained[path] = read_stage_record(path, wanted | {"method": method})
            of_data = {"data_sha256": refined.data_sha256}
            of_cell = {"task": task.name, "method": method, "weights": refined.weights()} | of_data
            evaluated = read_stage_record(evals / task.name / f"{method}.json", of_cell)
            wanted |= of_data  # all methods of a task
            found.seconds[key] = refined.seconds
            found.versions.extend([refined.versions, evaluated.versions])
    one_device(trained)
    return found


def render_ablation(found: AblationFindings) -> dict[str, str]:
    """Text of every file of the ablation, by name; equal inputs give equal bytes."""
    name, (values, figure) = found.axis.name, ablation_values(found)
    return {f"{name}.md": render_markdown(TEMPLATE, values), f"{name}.csv": _csv(found), f"{name}.svg": figure}


def ablation_values(found: AblationFindings, folder: str = "") -> tuple[dict[str, Any], str]:
    """Values of the template, and the figure, to whose file the page refers in this folder."""
    columns = [(value.label, value.method) for value in found.axis.values]
    moved = {key: end["delta2"] for key, end in found.ends.items() if "delta2" in end}
    settings = [(value.label, value.method, value.settings) for value in found.axis.values]
    curves = budget_curves.budget_curves(settings, found.results.plan.budgets)
    drawn = {method for curve in curves for method in curve.methods.values()} or set(found.axis.methods())
    shown = [(task, summary) for (task, method), summary in found.results.summaries.items() if method in drawn]
    if curves:
        figure = budget_curves.render_curves(found.results, curves, moved)
    else:
        figure = ablation_figure.render_ablation_figure(found.results, columns, moved)
    return {
        "mixed": mixed(merged(found.versions)),
        "axis": found.axis,
        "plan": found.results.plan,
        "keys": list(dict.fromkeys(key for value in found.axis.values for key in value.settings)),
        "table": _table(found),
        "curves": budget_curves.curves_table(found.results, curves, moved) if curves else None,
        "folder": folder,
        "cut": cut(score_ranges(found.results), shown),
    }, figure


def _settings(settings: SettingsFile, method: str, overridden: Sequence[str]) -> dict[str, str]:
    """All switches of a method and its values of the `refine` settings `overridden`, by path."""
    own, act = settings.part(TRAIN, "methods", method, "train"), settings.part(Act, "methods", method, "act")
    train = {"policy": own.policy} | own.model_dump()  # the policy first, because it determines the other switches
    flat = {f"train.{key}": _shown(value) for key, value in train.items()}
    for key in overridden:
        tasks = {
            task: _shown(getattr(settings.section(Refine, "refine", task, method), key)) for task in settings.tasks
        }
        same = len(set(tasks.values())) == 1
        each = ", ".join(f"{value} ({task})" for task, value in tasks.items())
        flat[f"refine.{key}"] = next(iter(tasks.values())) if same else each
    return flat | {f"act.{key}": _shown(value) for key, value in act.model_dump().items()}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table(found: AblationFindings) -> Table:
    head = ["task", "value", "score", "interval", "mean δ²", "penalty", "budget", "multiplier", "refine"]
    rows = []
    for task in found.results.plan.tasks:
        best = _best(found, task.name)
        for value in found.axis.values:
            key = task.name, value.method
            cell = found.results.summaries[key]
            score = plus_minus(cell.mean, cell.std)
            measured = found.ends[key] | {"budget": found.results.plan.budgets.get(key, math.nan)}
            numbers = (significant(measured.get(name, math.nan), 3) for name in ("delta2", "penalty", "budget", "dual"))
            cells = [task.name, value.label, f"**{score}**" if value.method in best else score]
            rows.append([*cells, interval(cell.low, cell.high), *numbers, clock(found.seconds[key])])
    return Table(head, rows, "llr")


def _best(found: AblationFindings, task: str) -> set[str]:
    cells = {method: found.results.summaries[task, method] for method in found.axis.methods()}
    return leaders({method: (cell.mean, cell.low, cell.high) for method, cell in cells.items()})


def _csv(found: AblationFindings) -> str:
    plan = found.results.plan
    rows = []
    for task in plan.tasks:
        for value in found.axis.values:
            key = task.name, value.method
            numbers = {name: found.ends[key].get(name, math.nan) for name in COLUMNS}
            numbers |= {"budget": plan.budgets.get(key, math.nan)}
            rows.append(
                {"task": task.name, "value": value.label, "method": value.method}
                | vars(found.results.summaries[key])
                | {"seeds": len(plan.seeds)}
                | {name: significant(number, 6) for name, number in numbers.items()}
                | {"refine_seconds": f"{found.seconds[key]:.1f}"}
            )
    return csv_text(rows)
