"""Prints the settings entry of a benchmark task, with the papers' hyperparameters: `fidec task`."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.reference.d4rl_files import d4rl_files
from fd.reference.hyperparameters import hyperparameters, of_dataset
from fd.reference.suites import task_entry
from fd.reference.tasks import benchmark, find_task
from fd.runtime.command_line import ParamsOption
from fd.settings.settings_file import read_settings


def command(
    dataset: Annotated[
        str,
        typer.Option(
            help="Name of an OGBench single-task set, id of a Minari set, or any name in reference/tasks.csv."
        ),
    ],
    source: Annotated[
        str, typer.Option(help="d4rl: read D4RL's own HDF5 file of the task instead of its Minari set.")
    ] = "",
    params_file: ParamsOption = Path("params.yaml"),
    published: Annotated[
        Path, typer.Option("--reference", help="Folder of the published tasks and hyperparameters.")
    ] = Path("reference"),
) -> None:
    """Print a benchmark task's entry for the settings file: the published values that differ from it, each with its source."""
    tasks = benchmark(published)
    task = find_task(tasks, dataset)
    if task is None:
        near = get_close_matches(dataset, [name for task in tasks for name in (task.dataset, task.published)], n=1)
        allowed = f"a dataset or published name of {published / 'tasks.csv'}"
        raise FdError(f"--dataset: {dataset!r}, allowed: {allowed}" + "".join(f"; nearest: {name}" for name in near))
    files = d4rl_files(published)
    names = {task.source: task.dataset} | ({"d4rl": task.published} if task.published in files else {})
    source = source or task.source
    if source not in names:
        raise FdError(f"--source: {source!r}, allowed for {dataset}: {', '.join(names)}")
    found = of_dataset(hyperparameters(published), names[source], task.dataset)
    file = files[task.published].file if source == "d4rl" else ""
    chosen = replace(task, source=source, dataset=names[source])
    print(task_entry(chosen, found, read_settings(params_file).values, file=file))
