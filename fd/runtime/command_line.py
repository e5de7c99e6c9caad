"""How every program runs: common options, one line per error instead of a traceback, a check of the code lists that DVC depends on."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError, one_line
from fd.runtime import closure, imports, signals

TaskOption = Annotated[str, typer.Option(help="Name of a task in the settings file.")]
MethodOption = Annotated[str, typer.Option(help="Name of a method in the settings file.")]
DataOption = Annotated[Path, typer.Option(help="Folder of the data, one subfolder per task.")]
BehaviourOption = Annotated[Path, typer.Option(help="Folder of the behaviour flows, one subfolder per task.")]
GeometryOption = Annotated[Path, typer.Option(help="Folder of the geometry of the behaviour flows, one file per task.")]
RunsOption = Annotated[Path, typer.Option(help="Folder of the runs, one subfolder per task.")]
EvalsOption = Annotated[Path, typer.Option(help="Folder of the evaluations, one subfolder per task.")]
# Of torch's RuntimeErrors: on the CPU, and on a GPU by torch, the driver and its libraries.
_ALLOCATOR = re.compile(r"can't allocate memory|Tried to allocate|CUDA error: out of memory|_STATUS_ALLOC_FAILED")
ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]


def main(app: typer.Typer) -> None:
    """Run the app; an FdError, a full memory or disk, a folder that cannot be written, or a package that cannot be imported becomes
    one line on stderr and exit code 2.

    A signal that asks the process to end becomes one line, too; the exit code is 128 plus its number.
    """
    code = 2
    try:
        with signals.raising():
            _check_code()
            app()
    except FdError as error:
        message = str(error)
    except OSError as error:
        place, told = error.filename2 or error.filename, one_line(error.strerror or error)
        message = str(FdError(f"{place}: {told}" if place else told))
    except signals.Interrupted as stop:
        message, code = str(stop), 128 + stop.number
    except Exception as error:
        full = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _ALLOCATOR.search(str(error)))
        failure = f"out of memory: {one_line(error)}" if full else imports.import_failure(error)
        if failure is None:
            raise
        message = str(FdError(failure))
    else:
        return
    with contextlib.suppress(OSError):  # the terminal was closed
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _check_code() -> None:
    """Checks the code of a stage program against the list `code/<program>.txt`, on which DVC depends.

    Raises:
        FdError: they differ and DVC started this program; it would record the output under the wrong code.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = spec.name if spec is not None else ""
    listed = Path("code", f"{program.removeprefix('stages.')}.txt")
    if not program.startswith("stages.") or not listed.exists():
        return
    changed = closure.changed(program, listed.read_text(encoding="utf-8"))
    if changed:
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        message = f"{listed}: is out of date, {changed[0]}{others} changed; run `dvc repro code` to renew it"
        if signals.DVC_STAGE in os.environ:
            raise FdError(message)
        print(message, file=sys.stderr)
