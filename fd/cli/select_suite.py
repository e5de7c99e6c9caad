"""Copies a suite to params.yaml: `fidec suite`. `make repro SUITE=<name>` calls it before `dvc repro`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.reference.suites import suite_texts
from fd.runtime.command_line import ParamsOption
from fd.settings.messages import known
from fd.settings.settings_file import parse_settings
from fd.storage.files import write_text
from fd.storage.untrusted import read_text, read_yaml


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
    texts = suite_texts(suites, published)
    known(name, texts, str(suites))
    if params_file.exists() and not force and is_edited(params_file, texts):
        raise FdError(
            f"{params_file}: has local edits, it equals none of {', '.join(texts)}; copy it elsewhere, or overwrite it with"
            f" `fidec suite {name} --force`"
        )
    values = parse_settings(texts[name], f"suite {name}")
    write_text(params_file, texts[name])
    print(f"{params_file}: suite {name}, {len(values.tasks)} tasks, {len(values.methods)} methods")


def is_edited(path: Path, suites: Mapping[str, str]) -> bool:
    """Whether a settings file has other values or comments than the suite that it names, whatever its layout and line ends.

    Raises:
        FdError: the file cannot be read.
    """
    text = read_text(path)
    if text in suites.values():
        return False
    try:
        values = read_yaml(text, str(path))
        suite = suites[values["suite"]]
    except (FdError, LookupError, TypeError):
        return True
    return bool(values != read_yaml(suite, str(path)) or _comments(text) != _comments(suite))


def _comments(text: str) -> list[str]:
    return [comment.rstrip() for comment in re.findall("#.*", text)]
