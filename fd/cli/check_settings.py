"""Checks the settings and prints a summary: `fidec check`. `make repro` calls it before DVC, because DVC's own errors are longer."""

from __future__ import annotations

from pathlib import Path

from fd.runtime.command_line import ParamsOption
from fd.settings.settings_file import read_settings


def command(params_file: ParamsOption = Path("params.yaml")) -> None:
    """Check the settings file and print a summary of it."""
    values = read_settings(params_file)
    cells = len(values.tasks) * len(values.methods)
    print(
        f"{params_file}: suite {values.suite}; tasks: {len(values.tasks)}, seeds: {len(values.seeds)},"
        f" cells to refine and evaluate: {cells}; methods: {', '.join(values.methods)}"
    )
