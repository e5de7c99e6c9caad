"""Checks the settings and the project: `fidec check`. `make repro` calls it first, because DVC's own errors are longer or late."""

from __future__ import annotations

from pathlib import Path

from fd.errors import FdError, one_line
from fd.runtime.command_line import ParamsOption
from fd.settings.settings_file import read_settings
from fd.storage.outputs import check_file, check_folder, check_links

PARAMS = Path("params.yaml")  # the file that DVC reads


def command(params_file: ParamsOption = PARAMS) -> None:
    """Check the settings file, and in the project's folder that DVC can run and outputs can be written; print a summary."""
    values = read_settings(params_file)
    if params_file == PARAMS and Path("dvc.yaml").exists():
        check_project(Path.cwd())
    cells = len(values.tasks) * len(values.methods)
    print(
        f"{params_file}: suite {values.suite}; tasks: {len(values.tasks)}, seeds: {len(values.seeds)},"
        f" cells to refine and evaluate: {cells}; methods: {', '.join(values.methods)}"
    )


def check_project(folder: Path) -> None:
    """Let DVC read the pipeline of the current folder, and check that each of its outputs can be written.

    Raises:
        FdError: the Git repository or hidden files are missing, DVC cannot read the pipeline, or an output cannot be written.
    """
    from dvc.exceptions import DvcException  # imported here, because `fidec --help` needs none of these
    from dvc.repo import Repo
    from dvc.scm import SCMError

    if not (folder / ".dvc").is_dir():
        raise FdError(f"{folder}: has no folder .dvc; copy the hidden files of the project, too, or clone it again")
    try:
        with Repo(str(folder)) as repo:
            outputs = {Path(str(output)): output.use_cache for output in repo.index.outs}
    except SCMError as error:
        raise FdError(f"{folder}: DVC needs a Git repository ({one_line(error)}); run `git init`") from None
    except DvcException as error:
        raise FdError(f"{folder}: DVC cannot read the pipeline: {one_line(error)}") from None
    for output, cached in outputs.items():
        if cached:
            check_links(output)
        check_file(output) if output.suffix else check_folder(output)
