"""Stage `download`: the source named in the settings -> data/<task>: transitions and a manifest."""

from __future__ import annotations

from pathlib import Path

import typer

from fd.datasets.prepare import PrepareJob, data_versions, prepare
from fd.errors import FdError
from fd.runtime.command_line import DataOption, ParamsOption, TaskOption, main
from fd.settings.data_settings import DATA, Download
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.storage import scratch
from fd.storage.outputs import check_folder

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    params_file: ParamsOption = Path("params.yaml"),
    out: DataOption = Path("data"),
) -> None:
    """Download or generate the data set of a task and convert it to transitions; writes data/<task>."""
    settings = read_settings(params_file)
    data = settings.part(DATA, "tasks", task, "data")
    work = scratch.folder("download", task, data.model_dump(), data_versions())
    workers = settings.part(Compute, "compute").workers
    job = PrepareJob(f"download {task}", settings.part(Download, "download"), workers, work)
    check_folder(out / task)
    with scratch.claimed("download", task):
        try:
            prepare(data, out / task, job)
        except FdError as error:
            raise FdError(f"tasks.{task}.data: {error}") from error


if __name__ == "__main__":
    main(app)
