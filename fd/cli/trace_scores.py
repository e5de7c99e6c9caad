"""Command `trace`: a report's numbers -> the episodes, snapshots, data, settings and versions that each was made from, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fd.runtime.command_line import BehaviourOption, DataOption, EvalsOption, ParamsOption, RunsOption


def command(
    metrics: Annotated[
        Path | None,
        typer.Argument(help="metrics.json of a report; every number in it is checked against the evaluations."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Trace only this task.")] = None,
    method: Annotated[str | None, typer.Option(help="Trace only this method.")] = None,
    seed: Annotated[int | None, typer.Option(help="Trace only this seed.")] = None,
    step: Annotated[
        int | None, typer.Option(help="Trace only this training step; default: the steps that make up the score.")
    ] = None,
    params_file: ParamsOption = Path("params.yaml"),
    evals: EvalsOption = Path("evals"),
    runs: RunsOption = Path("runs"),
    data: DataOption = Path("data"),
    behaviour: BehaviourOption = Path("behaviour"),
) -> None:
    """Trace the scores of a report to their episodes, snapshots, data, settings and versions; fails if data or weights have changed since."""
    from fd.report import trace  # imported here, because `fidec --help` needs none of these
    from fd.results import estimates, origins
    from fd.results.grid import grid_of
    from fd.settings.settings_file import read_settings

    values = read_settings(params_file)
    plan = grid_of(values, values.methods)
    found = estimates.gather_estimates(plan, evals)
    origin = origins.gather_provenance(plan, data=data, behaviour=behaviour, runs=runs, evals=evals)
    if metrics is not None:
        trace.check_metrics(metrics, found)
    choice = trace.Choice(
        tasks=[task.name for task in plan.tasks] if task is None else [task],
        methods=plan.methods if method is None else [method],
        seeds=None if seed is None else [seed],
        steps=None if step is None else [step],
    )
    cells = list(trace.origins(values, found, origin, trace.Folders(data, behaviour, runs, evals), choice))
    typer.echo(json.dumps({"suite": plan.suite, "versions": origin.versions(), "cells": cells}, indent=1))
