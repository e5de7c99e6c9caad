"""Command `power`: baseline/quick.json, params -> reports/regress/: which drops the regression test can detect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.runtime.command_line import ParamsOption
from fd.storage.files import write_folder
from fd.storage.outputs import check_file


def command(
    params_file: ParamsOption = Path("params.yaml"),
    path: Annotated[
        Path, typer.Option("--baseline", help="Baseline file; its seeds determine the simulated spread.")
    ] = Path("baseline/quick.json"),
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("reports/regress"),
) -> None:
    """Simulate how often the regression test raises a false alarm and which drops it detects; writes power.md and power.csv."""
    from fd.report import baseline, power  # imported here, because `fidec --help` needs none of these
    from fd.settings.report_settings import Regress, Report
    from fd.settings.settings_file import read_settings

    check_file(out / "power.md")
    settings = read_settings(params_file)
    known = baseline.load_baseline(path)
    if settings.suite != known.suite:
        raise FdError(
            f"{path}: belongs to the suite {known.suite!r}, allowed: the suite of {params_file}, {settings.suite!r}"
        )
    rule = settings.part(Regress, "regress")
    found = power.simulate_power(known, rule, settings.part(Report, "report").seed)
    write_folder(out, {"power.md": power.power_page(found, known, rule), "power.csv": power.power_csv(found)})
