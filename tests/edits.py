"""What many tests do: change settings, run a stage, read what it leaves, and check that what it refuses is one line."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from fd.errors import FdError
from fd.runtime.command_line import main


def changed(values: dict[str, Any], *place: str | int, to: Any = None, drop: bool = False) -> dict[str, Any]:
    """A copy of settings with one place changed or dropped."""
    values = node = copy.deepcopy(values)
    for key in place[:-1]:
        node = node[key]
    if drop:
        del node[place[-1]]
    else:
        node[place[-1]] = to
    return values


def write_params(folder: Path, values: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def change_params(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply a function to a folder's params.yaml."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    change(values)
    write_params(folder, values)


def edit(*place: str, to: Any) -> None:
    """Change one place of the current folder's params.yaml."""
    write_params(Path(), changed(yaml.safe_load(Path("params.yaml").read_text()), *place, to=to))


def outcome(app: typer.Typer, arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a stage, or the message of its FdError."""
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, FdError):
        return 2, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def program(patch: pytest.MonkeyPatch, app: typer.Typer, *arguments: str) -> int:
    """Exit code of a stage as a program, in this process."""
    patch.setattr(sys, "argv", ["stage", *arguments])
    with pytest.raises(SystemExit) as end:
        main(app)
    return int(end.value.code or 0)


def contents(place: Path | str) -> dict[str, bytes]:
    """The files of an output, a file or a folder, by their path in it; none where it does not exist."""
    place = Path(place)
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {str(file.relative_to(place)): file.read_bytes() for file in files if file.is_file()}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one `error:` line with which a program ends; progress stands before it."""
    told = capsys.readouterr().err
    (line,) = (line for line in told.splitlines() if line.startswith("error: "))
    assert line == told.strip().splitlines()[-1] and "Traceback" not in told, told
    return line


@contextmanager
def refused(*words: str, start: str = "") -> Iterator[None]:
    """What is run ends with an FdError: one line of what a terminal can show, which starts so and has these words."""
    with pytest.raises(FdError) as error:
        yield
    told = str(error.value)
    assert told.isprintable() and told.startswith(start) and all(word in told for word in words), told
