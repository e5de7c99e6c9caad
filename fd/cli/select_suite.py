"""Selects a suite, which becomes params.yaml. `make repro SUITE=<name>` calls it before `dvc repro`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.reference.suites import suite_texts
from fd.runtime.command_line import ParamsOption
from fd.settings.settings_file import parse_settings
from fd.storage.files import write_text
from fd.storage.untrusted import read_text


def command(
    name: Annotated[str, typer.Argument(help="Name of a suite; one that does not exist is answered with their names.")],
    params_file: ParamsOption = Path("params.yaml"),
    suites: Annotated[Path, typer.Option(help="Folder of the suites.")] = Path("suites"),
    published: Annotated[Path, typer.Option("--reference", help="Folder of published figures.")] = Path("reference"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite settings that are no suite.")] = False,
) -> None:
    """Make a suite the settings of the pipeline. Settings that differ from every suite are not overwritten unasked."""
    known = suite_texts(suites, published)
    if name not in known:
        raise FdError(f"{suites}: {name!r} does not exist, allowed: {', '.join(known)}")
    if params_file.exists() and not force and read_text(params_file) not in known.values():
        raise FdError(
            f"{params_file}: holds edits, it is none of {', '.join(known)}; keep it elsewhere, or overwrite it with"
            f" `fidec suite {name} --force`"
        )
    parse_settings(known[name], f"suite {name}")
    write_text(params_file, known[name])
