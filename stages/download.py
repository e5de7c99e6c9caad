"""Stage `download`: the source named in the settings -> data/<task>: transitions and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.datasets.prepare import PrepareJob, data_versions, prepare
from fd.errors import FdError
from fd.reference.d4rl_files import d4rl_files
from fd.runtime.command_line import DataOption, ParamsOption, TaskOption, main
from fd.settings.data_settings import DATA, D4rlData, Download
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
    published: Annotated[Path, typer.Option("--reference", help="Folder with the table of D4RL's files.")] = Path(
        "reference"
    ),
) -> None:
    """Download or generate the data set of a task and convert it to transitions; writes data/<task>."""
    settings = read_settings(params_file)
    data = settings.part(DATA, "tasks", task, "data")
    work = scratch.folder("download", task, data.model_dump(), data_versions())
    workers = settings.part(Compute, "compute").workers
    files = d4rl_files(published) if isinstance(data, D4rlData) else {}
    known = {dataset: file.sha256 for dataset, file in files.items()}
    job = PrepareJob(f"download {task}", settings.part(Download, "download"), workers, work, known)
    check_folder(out / task)
    with scratch.claimed("download", task):
        try:
            prepare(data, out / task, job)
        except FdError as error:
            raise FdError(f"tasks.{task}.data: {error}") from error


if __name__ == "__main__":
    main(app)
