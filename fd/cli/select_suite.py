"""Copies a suite to params.yaml: `fidec suite`. `make repro SUITE=<name>` calls it before `dvc repro`."""

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
    name: Annotated[str, typer.Argument(help="Name of a suite; an unknown name lists the suites.")],
    params_file: ParamsOption = Path("params.yaml"),
    suites: Annotated[Path, typer.Option(help="Folder of the suites.")] = Path("suites"),
    published: Annotated[
        Path, typer.Option("--reference", help="Folder of the published tasks and hyperparameters.")
    ] = Path("reference"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite local edits of the settings file.")] = False,
) -> None:
    """Copy a suite to the settings file; without --force, local edits are not overwritten."""
    known = suite_texts(suites, published)
    if name not in known:
        raise FdError(f"{suites}: {name!r} does not exist, allowed: {', '.join(known)}")
    if params_file.exists() and not force and read_text(params_file) not in known.values():
        raise FdError(
            f"{params_file}: has local edits, it equals none of {', '.join(known)}; copy it elsewhere, or overwrite it with"
            f" `fidec suite {name} --force`"
        )
    parse_settings(known[name], f"suite {name}")
    write_text(params_file, known[name])
