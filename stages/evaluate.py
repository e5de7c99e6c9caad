"""Stage `evaluate`: data/<task> (its manifest), runs/<task>/<method> -> evals/<task>/<method>.csv, one row an episode."""

from __future__ import annotations

from pathlib import Path

import typer

from fd import params
from fd.runtime.command_line import DataOption, EvalsOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from fd.runtime.device import select
from fd.simulation.evaluation import Subject, evaluate
from fd.storage import scratch
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
    """Run the policies of every snapshot of a run in its simulator; writes evals/<task>/<method>.csv and .json."""
    values = params.load(params_file)
    settings, how = values.settings(task).evaluate, values.method(method).act
    subject = Subject(task, method, runs / task / method, how, read_manifest(data / task))
    device = select(
        values.compute.device, threads=1, deterministic=values.compute.deterministic
    )  # the policies act in the simulators' processes
    with scratch.claimed("evaluate", f"{task}/{method}"):
        evaluate(subject, out, settings, workers=values.compute.workers, device=device)


if __name__ == "__main__":
    main(app)
