"""How every stage runs as a program: its Typer app, its common options, a user's mistakes as one line instead of a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError

TaskOption = Annotated[str, typer.Option(help="Name of a task in the file of settings.")]
MethodOption = Annotated[str, typer.Option(help="Name of a method in the file of settings.")]
DataOption = Annotated[Path, typer.Option(help="Folder of the data folders.")]
BehaviourOption = Annotated[Path, typer.Option(help="Folder of the behaviour folders.")]
RunsOption = Annotated[Path, typer.Option(help="Folder of the runs.")]
EvalsOption = Annotated[Path, typer.Option(help="Folder of the evaluations.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="The file of settings.")]


def main(app: typer.Typer) -> None:
    """Run the app; an FdError, a full disk or a folder that cannot be written becomes one line on stderr and exit code 2."""
    try:
        app()
    except FdError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'the system'}: {error.strerror or error}"
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
