"""Stage `evaluate`: data/<task> (its manifest), runs/<task>/<method> -> evals/<task>/<method>.csv, one row per episode."""

from __future__ import annotations

from pathlib import Path

import typer

from fd.runtime.command_line import DataOption, EvalsOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from fd.runtime.device import select_device, tell_device
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.settings.simulation_settings import Act, Evaluate
from fd.simulation.evaluation import Subject, evaluate
from fd.storage import scratch
from fd.storage.outputs import check_file
from fd.storage.transitions import read_manifest

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    method: MethodOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    runs: RunsOption = Path("runs"),
    out: EvalsOption = Path("evals"),
) -> None:
    """Run every snapshot of a run in the simulator of its task; writes evals/<task>/<method>.csv and .json."""
    values = read_settings(params_file)
    settings, how = values.section(Evaluate, "evaluate", task), values.part(Act, "methods", method, "act")
    compute = values.part(Compute, "compute")
    subject = Subject(task, method, runs / task / method, how, read_manifest(data / task))
    # The policies act in the simulators' processes.
    device = select_device(compute.device, threads=1, deterministic=compute.deterministic)
    for suffix in ("csv", "json"):
        check_file(out / task / f"{method}.{suffix}", cached=True)
    with scratch.claimed("evaluate", f"{task}/{method}"):
        tell_device(f"evaluate {task} {method}", device)
        evaluate(subject, out, settings, workers=compute.workers, device=device)


if __name__ == "__main__":
    main(app)
