"""Stage `film`: data/<task> (its manifest), runs/<task>/<method>, evals/<task>/<method>.csv -> films/<task>/<method>: paths and pictures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from fd.runtime.command_line import DataOption, EvalsOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from fd.runtime.device import select_device
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.settings.simulation_settings import Act, Evaluate
from fd.simulation.evaluation import Subject
from fd.simulation.filming import film
from fd.storage import scratch
from fd.storage.files import read_output
from fd.storage.outputs import check_folder
from fd.storage.transitions import read_manifest

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    method: MethodOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    runs: RunsOption = Path("runs"),
    evals: EvalsOption = Path("evals"),
    out: Annotated[Path, typer.Option(help="Folder of the films, one subfolder per task.")] = Path("films"),
) -> None:
    """Replay the last evaluation of a run, film a success and a failure; writes films/<task>/<method>."""
    values = read_settings(params_file)
    settings, how = values.section(Evaluate, "evaluate", task), values.part(Act, "methods", method, "act")
    compute, folder = values.part(Compute, "compute"), out / task / method
    subject = Subject(task, method, runs / task / method, how, read_manifest(data / task))
    table = evals / task / f"{method}.csv"
    evaluated = read_output(table, table.with_suffix(".json")).decode()
    # The policies act in the simulators' processes, as in the stage `evaluate`.
    device = select_device(compute.device, threads=1, deterministic=compute.deterministic)
    check_folder(folder)
    with scratch.claimed("film", f"{task}/{method}"):
        work = scratch.folder("film", f"{task}/{method}")
        shutil.rmtree(work, ignore_errors=True)
        (built := work / "out").mkdir(parents=True)
        reason = film(subject, evaluated, built, settings, workers=compute.workers, device=device)
        scratch.publish(built, folder, work)
    if reason is not None:
        print(f"no pictures of {task} {method}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main(app)
