"""How every stage runs as a program: its Typer app, its common options, a user's mistakes as one line instead of a traceback."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.runtime import signals
from fd.storage.files import one_line

TaskOption = Annotated[str, typer.Option(help="Name of a task in the file of settings.")]
MethodOption = Annotated[str, typer.Option(help="Name of a method in the file of settings.")]
DataOption = Annotated[Path, typer.Option(help="Folder of the data folders.")]
BehaviourOption = Annotated[Path, typer.Option(help="Folder of the behaviour folders.")]
RunsOption = Annotated[Path, typer.Option(help="Folder of the runs.")]
EvalsOption = Annotated[Path, typer.Option(help="Folder of the evaluations.")]
_ALLOCATOR = re.compile(r"can't allocate memory|Tried to allocate")  # torch's RuntimeErrors, on the CPU and on a GPU
ParamsOption = Annotated[Path, typer.Option("--params", help="The file of settings.")]


def main(app: typer.Typer) -> None:
    """Run the app; an FdError, a want of memory or disk or a folder that cannot be written becomes one line on stderr and exit code 2.

    A signal that asks the process to end becomes one line, too, and its number plus 128.
    """
    code = 2
    try:
        with signals.raising():
            app()
    except FdError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename2 or error.filename or 'the system'}: {error.strerror or error}"
    except signals.Interrupted as stop:
        message, code = str(stop), 128 + stop.number
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _ALLOCATOR.search(str(error)):
            raise
        message = f"out of memory: {one_line(error)}"
    else:
        return
    with contextlib.suppress(OSError):  # of a terminal that was closed
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
